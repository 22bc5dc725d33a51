"""What measuring commands write into documents: all between ``<!-- NAME -->`` and its end."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
NUMBERS = ROOT / "deploy/numbers.md"
FAULTS = ROOT / "deploy/faults.md"
OPERATIONS = ROOT / "deploy/operations.md"


def _parts(text, name):
    """Up to and with the first mark; between the marks; from the second mark on."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    found = text.split(begin)
    if len(found) != 2 or found[1].count(end) != 1:
        raise ValueError(f"wanted the marks <!-- {name} --> and <!-- /{name} --> once, in order")
    inside, after = found[1].split(end)
    return found[0] + begin, inside, end + after


def marked(text, name):
    """What stands between the marks; ``ValueError`` if they do not stand there once, in order."""
    return _parts(text, name)[1]


def with_marked(text, name, new):
    """The text with ``new`` between the marks; ``ValueError`` as for ``marked``."""
    before, _, after = _parts(text, name)
    return f"{before}{new}\n{after}"


def write(path, name, new):
    """Put ``new`` between the marks of a file; ``ValueError`` as for ``marked``."""
    path.write_text(with_marked(path.read_text(), name, new))
