"""Experts as hash functions: a row that is wrong, swapped or of another epoch has other bits."""

import numpy as np

HIDDEN = 2
_ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64).view("i8")


def expert_rows(epoch, layer, expert_ids, x):
    """``[..., H]`` int64 results of ``x`` ``[..., H]`` at the experts ``[...]``.

    The epoch counts too, though the experts of a real model outlive it: so nothing that another
    epoch computed passes for this one's.
    """
    key = np.asarray(expert_ids, np.int64) * _ODD[1] + (layer * 1009 + epoch * 1000003)
    mixed = x * _ODD[0] + key[..., None]
    return (mixed ^ (mixed >> 29)) * _ODD[2]


def create_tokens(rng, num_tokens):
    """``[T, H]`` that no other call has."""
    return rng.integers(-(2**62), 2**62, (num_tokens, HIDDEN))


def create_routing(rng, num_tokens, num_experts, top_k):
    """``[T, K]`` distinct experts of every token, ascending."""
    scores = rng.random((num_tokens, num_experts))
    return np.sort(np.argsort(scores, axis=1)[:, :top_k], axis=1)
