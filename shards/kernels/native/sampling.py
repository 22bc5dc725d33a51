"""Tokens and log probabilities from logits by the C library: many rows at once, on several threads.

Loads no torch: the engine does not either.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

import numpy as np
import numpy.typing as npt

from shards.kernels.native.families import (
    FAMILY_VARIABLE,
    MAX_THREADS,
    TORCH,
    chosen,
    families,
    open_library,
)

# `SampledRow` of family.h. What a caller says, then what the library answers.
SAMPLED: Final = np.dtype(
    [
        ("logits", np.uint64),
        ("allowed", np.uint64),
        ("edit_ids", np.uint64),
        ("edit_values", np.uint64),
        ("num_edits", np.int64),
        ("seed", np.int64),
        ("position", np.int64),
        ("top_p", np.float64),
        ("choice", np.int32),
        ("top_k", np.int32),
        ("temperature", np.float32),
        ("floor", np.float32),
        ("token", np.int32),
        ("largest", np.float32),
    ],
    align=True,
)
# `JudgedRow`.
JUDGED: Final = np.dtype(
    [
        ("logits", np.uint64),
        ("token", np.int32),
        ("num_best", np.int32),
        ("logprob", np.float32),
        ("best_ids", np.uint64),
        ("best_logprobs", np.uint64),
    ],
    align=True,
)
Rows = npt.NDArray[np.void]


class NativeSampling:
    """Functions of one family, with memory of its own: for one thread at a time.

    Every ``logits`` is the address of ``[vocab_size]`` contiguous float32, ``allowed`` of as many
    bytes or 0, ``edit_ids`` and ``edit_values`` of ``num_edits`` int64 and float32. The caller
    holds them.
    """

    def __init__(self, library: ctypes.CDLL, family: int, num_threads: int) -> None:
        """``family``: number in the library; ``num_threads`` changes no bit."""
        size, number, pointer = ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p
        library.galerne_sample_bytes.argtypes = (size,)
        library.galerne_sample_bytes.restype = size
        for function in (library.galerne_sample, library.galerne_judge):
            function.argtypes = (number, number, pointer, size, size, pointer)
        self._library, self._family = library, family
        self._num_threads = min(num_threads, MAX_THREADS)
        self._memory = np.empty(0, dtype=np.uint64)

    def sample(self, rows: Rows, vocab_size: int) -> None:
        """Fill in ``token`` and ``largest`` of every row.

        Args:
            rows: ``[B]`` of ``SAMPLED``.
            vocab_size: Of the model.

        Raises:
            ValueError: ``vocab_size`` is not for the library.
        """
        self._call("galerne_sample", rows, vocab_size)

    def judge(self, rows: Rows, vocab_size: int) -> None:
        """Fill in ``logprob`` of every row, and what ``best_ids`` and ``best_logprobs`` point to.

        Args:
            rows: ``[B]`` of ``JUDGED``; ``num_best`` is at most ``vocab_size``.
            vocab_size: Of the model.

        Raises:
            ValueError: ``vocab_size`` is not for the library.
        """
        self._call("galerne_judge", rows, vocab_size)

    def _call(self, name: str, rows: Rows, vocab_size: int) -> None:
        num_threads = min(self._num_threads, len(rows)) or 1
        num_bytes = self._library.galerne_sample_bytes(vocab_size)
        if num_bytes < 0:
            raise ValueError(f"vocab_size: {vocab_size} is not for the library")
        if self._memory.nbytes < num_threads * num_bytes:
            self._memory = np.empty(num_threads * num_bytes // 8, dtype=np.uint64)
        status = getattr(self._library, name)(
            *(self._family, num_threads, rows.ctypes.data, len(rows), vocab_size),
            self._memory.ctypes.data,
        )
        assert status == 0, f"{name}: status {status}"


def native_sampling(num_threads: int) -> NativeSampling | None:
    """Of the family that computes in this process; None where it is torch, or nothing was built.

    Raises:
        ConfigError: As ``chosen``.
    """
    if os.environ.get(FAMILY_VARIABLE) == TORCH:
        return None
    library = open_library()
    family = None if library is None else chosen(families(library))
    if library is None or family is None:
        return None
    return NativeSampling(library, family, num_threads)
