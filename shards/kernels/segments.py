"""How a GPU's decode attention cuts a sequence's keys among programs. Pure; loads no torch.

The first ``NEAR`` positions in segments of ``SMALL``, so that a short sequence is many programs
too, the rest in segments of ``SEGMENT``: fixed by position, so that bits depend on nothing else.
"""

from __future__ import annotations

from typing import Final

SEGMENT: Final = 512  # 76 programs share one sequence of 32k
NEAR: Final = 2048
SMALL: Final = 128
# Segments of all tokens that attend each by itself, where guesses are verified or a step is
# recorded: 256 tokens of 32k. More sequences of full length take more.
MOST_PARTS: Final = 20 << 10


def segments_of(num_keys: int) -> int:
    """Segments that so many keys fill."""
    near, far = min(num_keys, NEAR), max(num_keys - NEAR, 0)
    return -(-near // SMALL) - (-far // SEGMENT)


def keys_of(num_segments: int) -> int:
    """Keys that fill so many segments."""
    num_small = NEAR // SMALL
    near = min(num_segments, num_small) * SMALL
    return near + max(num_segments - num_small, 0) * SEGMENT


def segments_room(num_segments: int) -> int:
    """What a recorded step has room for, that holds so many: of 512 keys, or 4, 16, ... times that.

    Programs beyond a token's last key end at once.
    """
    keys = SEGMENT
    while segments_of(keys) < num_segments:
        keys *= 4
    return segments_of(keys)
