"""The README's Python, as it stands there, against a running server."""

import re

import pytest

from helpers.documents import README, Text

EXAMPLES = [code for language, code in Text.of(README.read_text()).blocks if language == "python"]


def by_import(module):
    [example] = [code for code in EXAMPLES if re.search(rf"^(import|from) {module}\b", code, re.M)]
    return example


@pytest.mark.parametrize(
    ("module", "there", "here"),
    [("openai", "http://127.0.0.1:8000", "http"), ("grpc", "127.0.0.1:9000", "grpc")],
)
def test_an_example_prints_an_answer(speaking, capsys, module, there, here):
    code = by_import(module)
    assert code.count(there) == 1
    exec(code.replace(there, getattr(speaking, here)), {})
    printed = capsys.readouterr().out
    assert printed.strip()
    if module == "openai":
        assert "Lisbon" in printed
