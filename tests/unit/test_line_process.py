"""A process of a measurement that ends too soon."""

import pytest

from cluster.doctor.line_process import LineProcess, MeasureProcessError

ENDS_AT_ONCE = """
import json, sys
sys.stdin.readline()
print(json.dumps({"address": "here"}), flush=True)
"""


def test_a_process_that_has_ended_is_told_by_name_and_can_be_closed(tmp_path, monkeypatch):
    """What it was asked last lies unread in its pipe: closing that must not hide who has ended."""
    (tmp_path / "ends_at_once.py").write_text(ENDS_AT_ONCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    process = LineProcess("shard-1", "ends_at_once", {})
    assert process.first_words() == {"address": "here"}
    process._process.wait(30)
    with pytest.raises(MeasureProcessError, match="shard-1: ended"):
        process.ask({})
    process.close()
    assert process._process.returncode == 0
