"""What is held out for the test: decided by a hash of the content, not by the order drawn."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Iterable
from random import Random
from typing import TypeVar

from cluster.demo.lessons.document import Split

T = TypeVar("T", bound=Hashable)
MAX_DRAWS = 1000


def is_held_out(*parts: object, every: int) -> bool:
    """Whether this content belongs to the test: one in ``every``, the same on every machine."""
    return zlib.crc32("\x1f".join(map(str, parts)).encode()) % every == 0


def belongs(split: Split, *parts: object, every: int) -> bool:
    """Whether ``split`` may use this content."""
    return is_held_out(*parts, every=every) == (split == "test")


def of_split(words: Iterable[str], split: Split, *, every: int) -> tuple[str, ...]:
    """The words of a list that ``split`` may use, in their order."""
    return tuple(word for word in words if belongs(split, word, every=every))


def draw(rng: Random, split: Split, sample: Callable[[Random], T], *, every: int) -> T:
    """Draw from ``sample`` until the value belongs to ``split``.

    Raises:
        RuntimeError: 1,000 draws gave none: the split has no such value.
    """
    for _ in range(MAX_DRAWS):
        value = sample(rng)
        if belongs(split, value, every=every):
            return value
    raise RuntimeError(f"no value of the {split} split in {MAX_DRAWS} draws")
