"""The sampler over every implementation of ``Draws``: all must agree, in errors too."""

from __future__ import annotations

import math
from collections.abc import Callable

from router.engine.draws import PLAIN, Draws, Judged
from router.engine.native_draws import NativeDraws
from router.engine.request import TokenLogprobs
from router.engine.sampling import LogitsError, Sampled, sample_batch, sample_row
from shards.kernels.native.families import families, open_library
from shards.kernels.native.sampling import NativeSampling


def _native() -> list[Draws]:
    library = open_library()
    if library is None:
        return []
    return [NativeDraws(NativeSampling(library, n, 2)) for n in families(library).values()]


NATIVE = _native()


def sample_row_by_all(logits, params, **keywords) -> Sampled:
    """``sample_row``, the same by all."""
    return _agreed(lambda draws: sample_row(logits, params, draws=draws, **keywords))


def sample_batch_by_all(logits, rows, **keywords) -> list[Sampled | LogitsError]:
    """``sample_batch``, the same by all."""
    return _agreed(lambda draws: sample_batch(logits, rows, draws=draws, **keywords))


def judge_by_all(rows: list[Judged]) -> list[TokenLogprobs]:
    """``Draws.judge``, the same by all."""
    return _agreed(lambda draws: draws.judge(rows))


def _agreed(ask: Callable[[Draws], object]):
    first = _outcome(ask, PLAIN)
    for draws in NATIVE:
        assert _comparable(_outcome(ask, draws)) == _comparable(first)
    if isinstance(first, Exception):
        raise first
    return first


def _outcome(ask, draws):
    try:
        return ask(draws)
    except (LogitsError, ValueError) as error:
        return error


def _comparable(outcome):
    """NaN equals NaN, and an error one like it."""
    if isinstance(outcome, list):
        return [_comparable(one) for one in outcome]
    if isinstance(outcome, LogitsError):
        largest = outcome.largest
        return outcome.position, "nan" if math.isnan(largest) else largest
    return str(outcome) if isinstance(outcome, Exception) else outcome
