"""Noise for sampling, as a pure function of where it is used.

Whoever asks for the noise of (seed, choice, position, token) gets the same bits: alone or in a
row, on any machine, before or after a failover. Nothing is drawn, so nothing can be out of step.

Source of the generator: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC 2011, Philox4x32 with ten rounds.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from router.engine.fixed_math import fixed_log

TokenIds: TypeAlias = "range | npt.NDArray[np.integer[Any]]"
_Words: TypeAlias = npt.NDArray[np.uint64]

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_NUM_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_MASK = 0xFFFFFFFF
_CACHE_BLOCK = 16384  # a whole vocabulary at once falls out of the cache: twice the time

# Largest and smallest noise there is: -log(-log(u)) at u = 1 - 2**-33 and u = 2**-33, rounded out.
MAX_NOISE = 22.88
MIN_NOISE = -3.14


def philox4x32(
    counter: tuple[_Words, _Words, _Words, _Words], key: tuple[int, int]
) -> tuple[_Words, _Words, _Words, _Words]:
    """Philox4x32-10 of many counters under one key.

    Args:
        counter: Four words of the counters, each ``[N]`` or ``[1]`` uint64 below 2**32.
        key: Two words below 2**32.

    Returns:
        Four words of the blocks, each ``[N]`` uint64 below 2**32.
    """
    # uint64 for 32-bit words: the high half of a product is what the rounds live on. Words that
    # are equal in all counters stay [1] through the first rounds, by broadcasting.
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_NUM_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = (p1 >> _32) ^ c1 ^ np.uint64(k0), (p0 >> _32) ^ c3 ^ np.uint64(k1)
        c1, c3 = p1 & _LOW, p0 & _LOW
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3


def _blocks(seed: int, choice: int, position: int, block: _Words) -> npt.NDArray[np.uint32]:
    """Blocks of four words, ``[N, 4]`` uint32, for block numbers ``[N]``.

    Key = seed, low word first. Counter = (block, low word of position, choice, high word of it).
    """
    constants = (position & _MASK, choice & _MASK, position >> 32)
    c1, c2, c3 = (np.array([word], dtype=np.uint64) for word in constants)
    words = philox4x32((block, c1, c2, c3), (seed & _MASK, seed >> 32 & _MASK))
    out = np.empty((block.size, 4), dtype=np.uint32)
    for lane, word in enumerate(words):
        out[:, lane] = word
    return out


def _range_bits(
    seed: int, choice: int, position: int, first: int, end: int
) -> npt.NDArray[np.uint32]:
    """Bits of the token ids ``first`` to ``end``, each block computed once for its four tokens."""
    block = np.arange(first // 4, (end + 3) // 4, dtype=np.uint64)
    offset = first - first // 4 * 4
    return _blocks(seed, choice, position, block).ravel()[offset : offset + end - first]


def random_bits(
    seed: int, choice: int, position: int, token_ids: TokenIds
) -> npt.NDArray[np.uint32]:
    """32 random bits for each token id: lane ``id % 4`` of Philox block ``id // 4``.

    Args:
        seed: The request's, any 64 bits; negative values count as their two's complement.
        choice: Index of the choice among the request's ``n``.
        position: Absolute position of the token to be drawn, prompt included, 0 or above.
        token_ids: ``[N]`` ids below 2**32, or a range of step 1.

    Returns:
        ``[N]`` uint32, each a function of (seed, choice, position, its id) only.
    """
    if isinstance(token_ids, range):
        return _range_bits(seed, choice, position, token_ids.start, token_ids.stop)
    if token_ids.size == 0:
        return np.empty(0, dtype=np.uint32)
    first, end = int(token_ids.min()), int(token_ids.max()) + 1
    if end - first <= 4 * token_ids.size:  # dense: sharing blocks costs less than one block per id
        return _range_bits(seed, choice, position, first, end)[token_ids - first]
    ids = token_ids.astype(np.int64)
    blocks = _blocks(seed, choice, position, (ids >> 2).astype(np.uint64))
    return np.take_along_axis(blocks, (ids & 3)[:, None], axis=1)[:, 0]


def gumbel_from_bits(bits: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
    """Standard Gumbel noise, ``-log(-log(u))`` with ``u = (bits + 1/2) / 2**32``.

    ``u`` is exact in float64 and never 0 or 1, so the noise lies in [MIN_NOISE, MAX_NOISE]. The
    logarithms are float64 with a fixed order of operations; one rounding to float32 at the end.
    """
    noise = np.empty(bits.shape, dtype=np.float32)
    for start in range(0, bits.size, _CACHE_BLOCK):
        part = slice(start, start + _CACHE_BLOCK)
        u = (bits[part].astype(np.float64) + 0.5) * 2.0**-32
        noise[part] = -fixed_log(-fixed_log(u))
    return noise


def gumbel_noise(
    seed: int, choice: int, position: int, token_ids: TokenIds
) -> npt.NDArray[np.float32]:
    """Noise of each token id, ``[N]`` float32. Arguments as for ``random_bits``.

    The noise of some ids is bit for bit that of the whole vocabulary at these ids.
    """
    return gumbel_from_bits(random_bits(seed, choice, position, token_ids))
