"""Drawing tokens from logits of the real vocabulary: numpy, which defines it, and the C library.

``make bench-sampling``: median ms a row, rows at once in brackets.
"""

import os
import statistics
import time

import numpy as np

from router.engine.draws import PLAIN
from router.engine.native_draws import NativeDraws
from router.engine.penalties import PenaltyState
from router.engine.request import SamplingParams
from router.engine.sampling import SampleRow, sample_batch
from shards.kernels.native.families import families, open_library
from shards.kernels.native.sampling import NativeSampling

VOCAB_SIZE = 131072  # of Mistral Small 4
BATCHES = (1, 64)
ROUNDS = 9
EOS = 2


def cases(rng):
    """Name, parameters, and what else a row has."""
    penalties = PenaltyState(VOCAB_SIZE)
    penalties.observe_prompt(rng.integers(0, VOCAB_SIZE, 800).tolist())
    mask = rng.random(VOCAB_SIZE) < 0.5
    return [
        ("greedy", {"temperature": 0.0}, {}),
        ("temperature 0.7", {}, {}),
        ("top-p 0.95", {"top_p": 0.95}, {}),
        ("top-k 50", {"top_k": 50}, {}),
        ("a mask", {"top_p": 0.95}, {"allowed": mask}),
        ("penalties", {"top_p": 0.95, "repetition_penalty": 1.1}, {"penalties": penalties}),
        ("5 log probabilities", {"top_p": 0.95, "logprobs": 5}, {}),
    ]


def ms_a_row(logits, row, draws):
    rows = [row] * len(logits)
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        sample_batch(logits, rows, eos_token_id=EOS, draws=draws)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) / len(logits) * 1e3


def main():
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((max(BATCHES), VOCAB_SIZE)) * 3).astype(np.float32)
    library, threads = open_library(), os.cpu_count() or 1
    found = {"numpy": PLAIN}
    for name, number in ({} if library is None else families(library)).items():
        found[name] = NativeDraws(NativeSampling(library, number, threads))
    print(f"| ms a row of {VOCAB_SIZE} | " + " | ".join(found) + " |")
    print("|---|" + "---:|" * len(found))
    for name, fields, others in cases(rng):
        params = SamplingParams(**({"temperature": 0.7} | fields))
        row = SampleRow(params=params, choice=0, position=7, num_generated=3, **others)
        times = [
            " ".join(f"{ms_a_row(logits[:b], row, draws):.3f} [{b}]" for b in BATCHES)
            for draws in found.values()
        ]
        print(f"| {name} | " + " | ".join(times) + " |")


if __name__ == "__main__":
    main()
