"""``Draws`` by the C library, bit for bit those of ``PlainDraws``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from router.engine.draws import PLAIN, Drawn, Draws, Judged, SampleRow
from router.engine.fixed_math import fixed_log
from router.engine.penalties import Edits, Logits
from router.engine.request import TokenLogprob, TokenLogprobs
from shards.kernels.native.sampling import JUDGED, SAMPLED, NativeSampling, native_sampling

_SIGN, _WORD, _HALF = 1 << 63, 1 << 64, 1 << 32


def draws_here(num_threads: int) -> Draws:
    """The fastest of this process.

    Raises:
        ConfigError: ``GALERNE_KERNELS`` names a family that is not here.
    """
    native = native_sampling(num_threads)
    return PLAIN if native is None else NativeDraws(native)


class NativeDraws:
    """Implements ``Draws``; for one thread at a time."""

    def __init__(self, native: NativeSampling) -> None:
        self._native = native

    def draw(
        self, logits: Sequence[Logits], edits: Sequence[Edits | None], rows: Sequence[SampleRow]
    ) -> list[Drawn]:
        """See ``Draws``."""
        if not rows:
            return []
        held = [np.ascontiguousarray(x) for x in logits]
        whole = zip(held, edits, rows, strict=True)
        sampled = np.array([_sampled(*of_row) for of_row in whole], dtype=SAMPLED)
        self._native.sample(sampled, held[0].size)
        found = zip(sampled["token"].tolist(), sampled["largest"].tolist(), strict=True)
        return [Drawn(*each) for each in found]

    def judge(self, rows: Sequence[Judged]) -> list[TokenLogprobs]:
        """See ``Draws``."""
        if not rows:
            return []
        held = [np.ascontiguousarray(row.logits) for row in rows]
        vocab_size = held[0].size
        most = max(min(row.top, vocab_size) for row in rows)
        ids = np.empty((len(rows), most), dtype=np.int32)
        values = np.empty((len(rows), most), dtype=np.float32)
        judged = np.zeros(len(rows), dtype=JUDGED)
        judged["logits"] = [x.ctypes.data for x in held]
        judged["token"] = [row.token_id for row in rows]
        judged["num_best"] = [min(row.top, vocab_size) for row in rows]
        for name, array in (("best_ids", ids), ("best_logprobs", values)):
            judged[name] = array.ctypes.data + np.arange(len(rows)) * array.strides[0]
        self._native.judge(judged, vocab_size)
        return [
            TokenLogprobs(
                chosen=TokenLogprob(row.token_id, value),
                top=tuple(map(TokenLogprob, best[: row.top], of_best)),
            )
            for row, value, best, of_best in zip(
                rows, judged["logprob"].tolist(), ids.tolist(), values.tolist(), strict=True
            )
        ]


def _sampled(logits: Logits, edits: Edits | None, row: SampleRow) -> tuple[object, ...]:
    params = row.params
    return (
        logits.ctypes.data,
        *_addresses(edits),
        (params.seed + _SIGN) % _WORD - _SIGN,
        row.position,
        params.top_p,
        (row.choice + _HALF // 2) % _HALF - _HALF // 2,
        params.top_k if params.top_k < logits.size else 0,
        params.temperature,
        _floor(params.min_p),
        0,
        0.0,
    )


def _addresses(edits: Edits | None) -> tuple[int, int, int, int]:
    """Of what the caller holds while the library reads it: all contiguous as they were made."""
    if edits is None:
        return 0, 0, 0, 0
    mask = 0 if edits.allowed is None else edits.allowed.ctypes.data
    return mask, edits.ids.ctypes.data, edits.values.ctypes.data, edits.ids.size


@lru_cache(maxsize=256)
def _floor(min_p: float) -> float:
    """Lowest score that min-p keeps."""
    return float(np.float32(fixed_log(np.array([min_p]))[0])) if min_p > 0 else -np.inf
