"""One MoE layer of the 1b shape: native kernels in all widths beside torch, and the floor.

``make bench-kernels``; wants an idle machine. Weights of two layers are used in turn, so that they
come from memory and not from a cache. The floor is the bytes of the touched experts over what the
machine reads at, measured beside every row; from 64 rows on arithmetic weighs too.
"""

import json
import os
import time
from statistics import median

import numpy as np
import torch

from shards.kernels.experts import NativeExperts, TorchExperts
from shards.kernels.formats import FORMATS, WeightFormat
from shards.kernels.native.library import LIBRARY, load
from shards.kernels.threads import KernelThreads
from tests.bench.run import read_bandwidth

NUM_EXPERTS, HIDDEN, WIDTH, TOP_K = 128, 1024, 256, 4
WEIGHTS_OF_EXPERT = 3 * HIDDEN * WIDTH
ROWS = (1, 4, 16, 64, 256)
ROUNDS = 15
LAYERS = 2


def main():
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    families = load(LIBRARY)
    kinds = {
        f"{k.family} {held.label}": (
            lambda k=k, held=held: NativeExperts(k, NUM_EXPERTS, threads, held),
            held,
        )
        for k in families
        for held in (FORMATS.values() if k is families[-1] else (WeightFormat.BF16,))
    }
    kinds["torch bf16"] = (lambda: TorchExperts(KernelThreads(threads)), WeightFormat.BF16)
    layers = {name: [_filled(make()) for _ in range(LAYERS)] for name, (make, _) in kinds.items()}
    found = {}
    for rows in ROWS:
        bandwidth = read_bandwidth()
        times = {name: [] for name in layers}
        touched = []
        for round_ in range(ROUNDS + 1):
            batch = _batch(np.random.default_rng(round_), rows)
            touched.append(len(batch[1]))
            for name, both in layers.items():
                started = time.perf_counter()
                both[round_ % LAYERS].run(*batch)
                if round_:  # the first one warms up
                    times[name].append(time.perf_counter() - started)
        for name, seconds in times.items():
            ms = median(seconds) * 1e3
            bits = kinds[name][1].bits_per_weight
            rate = median(touched[1:]) * WEIGHTS_OF_EXPERT * bits / 8 / median(seconds) / 1e9
            spread = f"{min(seconds) * 1e3:.3f}-{max(seconds) * 1e3:.3f}"
            found[f"{name}/{rows}"] = ms
            print(
                f"{rows:4} rows  {name:16} {ms:8.3f} ms [{spread}] {rate:6.1f} GB/s of weights, "
                f"{bandwidth / rate:.2f} x the floor at {bandwidth:.0f} GB/s"
            )
    print(json.dumps(found))


def _filled(experts):
    generator = torch.Generator().manual_seed(0)
    one = torch.randn((2 * WIDTH, HIDDEN), generator=generator).to(torch.bfloat16) / 32
    down = torch.randn((HIDDEN, WIDTH), generator=generator).to(torch.bfloat16) / 16
    for expert in range(NUM_EXPERTS):
        own, own_down = one.clone(), down.clone()  # memory of its own for each
        experts.add(expert, own[:WIDTH], own[WIDTH:], own_down)
    return experts


def _batch(rng, rows):
    """Tokens, expert of every group, rows of every group, token of every row: uniform routing."""
    chosen = np.array([rng.permutation(NUM_EXPERTS)[:TOP_K] for _ in range(rows)])
    order = chosen.flatten().argsort(kind="stable")
    ids, counts = np.unique(chosen, return_counts=True)
    x = torch.from_numpy(rng.standard_normal((rows, HIDDEN), dtype=np.float32))
    return x.to(torch.bfloat16), ids, counts, order // TOP_K


if __name__ == "__main__":
    main()
