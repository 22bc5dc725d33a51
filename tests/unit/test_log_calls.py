"""Every call of the log names an event and its fields, so that a line can be taken apart."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
METHODS = {"debug", "info", "warning", "error", "exception", "critical"}
EVENT = re.compile(r"[a-z][a-z0-9_]*( [a-z][a-z0-9_]*=%[-+ #0]*\d*(\.\d+)?[a-zA-Z])*")


def calls():
    for package in ("proto/galerne", "shards", "router", "cluster"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and isinstance(node.func.value, ast.Name)
                    and node.func.value.id in ("logger", "_fallback")
                    and node.func.attr in METHODS
                ):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.args[0]


def test_every_log_call_names_an_event_and_its_fields():
    found = dict(calls())
    assert len(found) > 60
    wrong = {
        place: ast.unparse(template)
        for place, template in found.items()
        if not (isinstance(template, ast.Constant) and EVENT.fullmatch(template.value))
    }
    assert wrong == {}


@pytest.mark.parametrize("text", ["Link down", "link_down shard=%s: gone", "%s", "a b=c"])
def test_free_text_is_no_event(text):
    assert EVENT.fullmatch(text) is None
