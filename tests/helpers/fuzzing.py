"""Hostile inputs: JSON, bytes and protobuf messages near valid ones, and how many to try."""

import copy
import os

from google.protobuf.descriptor import FieldDescriptor as Field
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FACTOR = int(os.environ.get("GALERNE_FUZZ_FACTOR", "1"))


def fuzzed(num_cases):
    """Settings of a fuzz test: ``num_cases`` in CI, more with ``make fuzz``."""
    return settings(
        max_examples=num_cases * FACTOR,
        deadline=None,
        derandomize=FACTOR == 1,  # CI must not fail by chance
        suppress_health_check=list(HealthCheck),
        database=None,
    )


class Tally:
    """Counts cases by what became of them, and says so at the end."""

    def __init__(self, what):
        self.what = what
        self.counts = {}

    def add(self, outcome):
        self.counts[outcome] = self.counts.get(outcome, 0) + 1

    def report(self, record_property):
        total = sum(self.counts.values())
        shown = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.counts.items()))
        print(f"\nfuzz {self.what}: {total} cases ({shown})")
        record_property(f"fuzz_{self.what}", total)
        return total


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2, 16, 2**31, -(2**31) - 1, 2**63, -(2**63) - 1, 2**64, 10**30]),
    st.sampled_from([0.0, -0.0, 0.5, -1e-300, 1e308, -1e308, 1.5]),
    st.integers(-300, 70_000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        ["", " ", "auto", "none", "required", "text", "json_object", "user", "tool", "[INST]",
         "[IMG]", "</s>", "\x00", "\u202e", "é" * 300, "a" * 9000, "../../etc/passwd",
         "data:image/png;base64,", "data:image/png;base64,AAAA", "data:,x", "http://127.0.0.1/x",
         "file:///etc/passwd", "0", "-1", "1e999", "NaN"]
    ),
    st.text(max_size=12),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
# What ``json.dumps`` would not write.
TEXTS = st.sampled_from(
    [b"NaN", b"-Infinity", b"1e999", b'"\\ud800"', b"[" * 5000, b'{"a":' * 3000, b"\xff", b"",
     b"{}", b"[]", b"null", b'{"a":1,"a":2}', b"\xef\xbb\xbf{}", b"1" * 5000, b'"\\u0000"']
)  # fmt: skip


def _paths(value, path=()):
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from _paths(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from _paths(value[index], (*path, index))


def _at(value, path):
    for step in path:
        value = value[step]
    return value


@st.composite
def mutated(draw, valid):
    """One of the ``valid`` JSON values with up to three parts replaced, removed, added or moved."""
    value = copy.deepcopy(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 3))):
        paths = [path for path in _paths(value) if path]
        if not paths:
            break
        path = draw(st.sampled_from(paths))
        parent, last = _at(value, path[:-1]), path[-1]
        match draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "move"])):
            case "replace":
                parent[last] = draw(VALUES)
            case "remove":
                del parent[last]
            case "add" if isinstance(parent, dict):
                parent[draw(st.text(max_size=8))] = draw(VALUES)
            case "add":
                parent.extend(copy.deepcopy(parent[last]) for _ in range(draw(st.integers(1, 3))))
            case "move":
                parent[last] = copy.deepcopy(_at(value, draw(st.sampled_from(paths))))
    return value


@st.composite
def damaged(draw, data):
    """Bytes near the given ones: bits flipped, a piece cut out, put in, or doubled."""
    data = bytearray(draw(data))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "cut", "insert", "double"])):
            case "flip" if place < len(data):
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[place : place + draw(st.integers(1, 40))]
            case "double":
                data[place:place] = data[place : place + 40]
            case _:
                data[place:place] = draw(st.binary(max_size=12))
    return bytes(data)


_INTS = st.sampled_from([0, 1, -1, 2, 5, 100, 9000, 2**31 - 1, -(2**31)]) | st.integers(-9, 9)
_FLOATS = st.sampled_from([0.0, -1.0, 0.5, 1.0, 1e38, float("nan"), float("inf")]) | st.floats(
    width=32, min_value=-3, max_value=3
)
_STRINGS = st.sampled_from(
    ["", "user", "assistant", "tool", "system", "none", "high", "fake", "{}"]
)
_BY_TYPE = {
    Field.TYPE_STRING: _STRINGS | st.text(max_size=12),
    Field.TYPE_BYTES: st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
    | st.binary(max_size=9),
    Field.TYPE_BOOL: st.booleans(),
    Field.TYPE_FLOAT: _FLOATS,
    Field.TYPE_DOUBLE: _FLOATS,
    Field.TYPE_INT32: _INTS,
    Field.TYPE_INT64: _INTS | st.sampled_from([2**63 - 1, -(2**63)]),
    Field.TYPE_ENUM: st.integers(0, 3),
}


@st.composite
def messages(draw, kind, depth=4):
    """Any message of a generated class, each field set or not."""
    made = kind()
    for field in kind.DESCRIPTOR.fields:
        if depth and draw(st.integers(0, 2)):
            _fill(draw, made, field, depth)
    return made


def _fill(draw, made, field, depth):
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        getattr(made, field.name)[draw(_INTS)] = draw(_FLOATS)
        return
    if field.message_type is not None:
        inner = messages(field.message_type._concrete_class, depth - 1)
        if field.is_repeated:
            getattr(made, field.name).extend(draw(st.lists(inner, max_size=2)))
        else:
            getattr(made, field.name).CopyFrom(draw(inner))
        return
    values = _BY_TYPE[field.type]
    if field.is_repeated:
        getattr(made, field.name).extend(draw(st.lists(values, max_size=3)))
    else:
        setattr(made, field.name, draw(values))
