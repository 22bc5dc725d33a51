"""One MoE layer of the 1b shape: native kernel families beside torch, and the bytes read.

``make bench-kernels``; wants an idle machine. Weights of two layers are used in turn, 400 MB in
all, so that they come from memory and not from a cache.
"""

import json
import os
import time
from statistics import median

import numpy as np
import torch

from shards.kernels.experts import NativeExperts, TorchExperts
from shards.kernels.native.library import LIBRARY, load
from shards.kernels.threads import KernelThreads

NUM_EXPERTS, HIDDEN, WIDTH, TOP_K = 128, 1024, 256, 4
BYTES_OF_EXPERT = 3 * HIDDEN * WIDTH * 2
ROWS = (1, 4, 16, 64, 256)
ROUNDS = 15
LAYERS = 2


def main():
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    kinds = {k.family: lambda k=k: NativeExperts(k, NUM_EXPERTS, threads) for k in load(LIBRARY)}
    kinds["torch"] = lambda: TorchExperts(KernelThreads(threads))
    layers = {name: [_filled(make()) for _ in range(LAYERS)] for name, make in kinds.items()}
    found = {}
    for rows in ROWS:
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
            rate = median(touched[1:]) * BYTES_OF_EXPERT / median(seconds) / 1e9
            spread = f"{min(seconds) * 1e3:.3f}-{max(seconds) * 1e3:.3f}"
            found[f"{name}/{rows}"] = ms
            print(f"{rows:4} rows  {name:12} {ms:8.3f} ms [{spread}] {rate:6.1f} GB/s of weights")
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
