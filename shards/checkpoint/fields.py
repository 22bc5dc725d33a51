"""Typed access to the JSON files of a checkpoint. Every refusal names file and key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from galerne.errors import CheckpointError

MAX_JSON_BYTES = 100_000_000
MAX_COUNT = 2**31 - 1
MAX_NUMBER = 1e30  # JSON as Python reads it has NaN, infinity and endless integers


class Fields:
    """One JSON object of a file. A key whose value is null counts as missing.

    Args:
        file: What errors call the file.
        values: The object.
        prefix: Path of the object within the file, with a dot at its end.
    """

    def __init__(self, file: str, values: Mapping[str, object], prefix: str = "") -> None:
        self.file = file
        self.values = values
        self.prefix = prefix

    def error(self, key: str, expected: str) -> CheckpointError:
        """The refusal of ``key``, to be raised."""
        value = self.values.get(key)
        found = "nothing" if value is None else f"{json.dumps(value):.80}"
        return CheckpointError(self.file, None, f"{self.prefix}{key} {expected}", found)

    def has(self, key: str) -> bool:
        """Whether the key is there."""
        return self.values.get(key) is not None

    def section(self, key: str) -> Fields:
        """The object under ``key``."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self.error(key, "as an object")
        return Fields(self.file, value, f"{self.prefix}{key}.")

    def count(self, key: str, default: int | None = None, *, at_least: int = 1) -> int:
        """A whole number of at least ``at_least``; without a default the key must be there."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not at_least <= value <= MAX_COUNT:
            raise self.error(key, f"as a whole number in [{at_least}, {MAX_COUNT}]")
        return value

    def number(self, key: str, default: float | None = None, *, can_be_zero: bool = False) -> float:
        """A finite number above zero; without a default the key must be there."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not 0 <= value <= MAX_NUMBER
            or (value == 0 and not can_be_zero)
        ):
            bound = "of at least 0" if can_be_zero else "above 0"
            raise self.error(key, f"as a number {bound}")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false; without a default the key must be there."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, "as true or false")
        return value

    def choice(self, key: str, known: tuple[str, ...]) -> str:
        """One of several words; the key must be there."""
        value = self.values.get(key)
        if not isinstance(value, str) or value not in known:
            raise self.error(key, f"as one of {', '.join(known)}")
        return value

    def require(self, key: str, only: object, *, may_miss: bool = True) -> None:
        """Refuse any value but the one we can compute with."""
        value = self.values.get(key)
        if (value is None and not may_miss) or (value is not None and value != only):
            raise self.error(key, f"= {json.dumps(only)}")

    def require_missing(self, key: str) -> None:
        """Refuse a key that asks for something we do not have."""
        if self.has(key):
            raise self.error(key, "= null")


def read_json(path: Path) -> Fields:
    """The object in a JSON file.

    Raises:
        CheckpointError: The file cannot be read, or is no JSON object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            found = f"{path.stat().st_size} bytes"
            raise CheckpointError(str(path), None, f"at most {MAX_JSON_BYTES} bytes", found)
        values = json.loads(path.read_bytes())
    except OSError as error:
        found = error.strerror or str(error)
        raise CheckpointError(str(path), None, "a readable file", found) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(str(path), None, "valid JSON", str(error)) from error
    if not isinstance(values, dict):
        raise CheckpointError(str(path), None, "a JSON object", type(values).__name__)
    return Fields(str(path), values)
