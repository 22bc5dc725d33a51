"""What the machine's memory and arithmetic allow, and where the engine is: a plot of the bench.

    python -m tests.bench.roofline CHECKPOINT       # reads bench-out/bench.json, prints JSON lines

Weights read and operations of one decode step (or of a prefill) of the checkpoint, counted from its
sizes for even routing; the rest of what moves and is computed (activations, attention over the
cache) is left out. The roofs are what the machine reads, and what our own kernel computes when its
weights lie in the cache.
"""

import json
import os
import sys
import time
from pathlib import Path

import matplotlib as mpl
import torch

from shards.checkpoint.open import open_checkpoint
from shards.kernels.formats import FORMATS
from shards.kernels.native.library import native_kernels
from shards.kernels.native.packing import pack
from tests.bench.engines import ROOT, WIDTHS

mpl.use("Agg")
from matplotlib import pyplot as plt


def work_of(config, tokens, logits, experts, dense):
    """(bytes of weights, operations) of a step of so many tokens, of which some want logits."""
    hidden = config.hidden_size
    expert = 3 * hidden * config.expert_size
    chosen = config.num_experts_per_tok
    touched = config.num_experts * (1 - (1 - chosen / config.num_experts) ** tokens)
    projections = (
        config.q_lora_rank * (hidden + config.num_heads * config.qk_head_dim)
        + config.latent_dim * hidden
        + config.num_heads * config.v_head_dim * hidden
    )
    absorbed = (
        config.num_heads * config.kv_lora_rank * (config.qk_nope_head_dim + config.v_head_dim)
    )
    narrow = config.num_layers * (projections + 3 * hidden * config.shared_size)
    head = config.vocab_size * hidden
    wide = config.num_layers * (absorbed + config.num_experts * hidden)
    routed = config.num_layers * expert
    bits = FORMATS[experts].bits_per_weight, FORMATS[dense].bits_per_weight
    num_bytes = (routed * touched * bits[0] + (narrow + head) * bits[1] + wide * 16) / 8
    return num_bytes, 2.0 * (tokens * (routed * chosen + narrow + wide) + logits * head)


def gemm_ceiling(width, rows=252, n=2048, k=256):
    """Operations a second of our own kernel on weights that stay in the cache: best of 50."""
    kernels, held = native_kernels(), FORMATS[width]
    if kernels is None:
        return None
    packed = pack(torch.randn(n, k).to(torch.bfloat16), held)
    x = torch.randn(rows, k).to(torch.bfloat16)
    out = torch.empty((rows, n), dtype=torch.bfloat16)
    threads, best = torch.get_num_threads(), float("inf")
    for _ in range(50):
        started = time.perf_counter()
        kernels.linear(x, packed, out, threads)
        best = min(best, time.perf_counter() - started)
    return 2.0 * rows * n * k / best


def points(config, workloads, speeds):
    """(name, width, operations a byte, operations a second) of what was measured."""
    for name, workload in workloads.items():
        is_prefill = workload["tokens"] == 1
        tokens = workload["prompt"] if is_prefill else workload["streams"]
        for width, formats in WIDTHS.items():
            if f"local {width}" in speeds.get(name, {}):
                logits = 1 if is_prefill else tokens
                num_bytes, operations = work_of(config, tokens, logits, *formats)
                values = sorted(speeds[name][f"local {width}"])
                seconds = tokens / values[len(values) // 2]
                yield name, width, operations / num_bytes, operations / seconds


def plot(config, workloads, speeds, bandwidth, ceilings, stem):
    """Write ``stem``.png and .svg; a line for each point says what of its roof it reaches."""
    figure, axes = plt.subplots(figsize=(8, 5))
    colours = dict(zip(WIDTHS, ("tab:blue", "tab:orange", "tab:green"), strict=True))
    for width, peak in ceilings.items():
        corner = peak / bandwidth
        axes.plot([0.5, corner, 5000], [0.5 * bandwidth, peak, peak], color=colours[width])
    lines = []
    for name, width, intensity, rate in points(config, workloads, speeds):
        roof = min(intensity * bandwidth, ceilings[width])
        bound = "memory" if intensity * bandwidth < ceilings[width] else "arithmetic"
        axes.plot(intensity, rate, "o", color=colours[width])
        axes.annotate(f"{name} {width}", (intensity, rate), fontsize=7, rotation=20)
        lines.append(f"{name}, {width}: {rate / roof:.0%} of what {bound} allows")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="operations per byte of weights",
        ylabel="operations per second",
        title=f"1b on this machine: {bandwidth / 1e9:.0f} GB/s, own kernels' peaks",
    )
    for ending in ("png", "svg"):
        figure.savefig(f"{stem}.{ending}", dpi=120, bbox_inches="tight")
    plt.close(figure)
    return lines


def main():
    """Plots what the last bench has measured."""
    out = ROOT / "bench-out"
    report = json.loads((out / "bench.json").read_text())
    bandwidth = sorted(report["bandwidth"])[len(report["bandwidth"]) // 2] * 1e9
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    ceilings = {width: gemm_ceiling(width) for width in WIDTHS}
    ceilings = {width: peak for width, peak in ceilings.items() if peak is not None}
    config = open_checkpoint(Path(sys.argv[1])).config
    stem = out / "roofline"
    lines = plot(config, report["workloads"], report["speeds"], bandwidth, ceilings, stem)
    print(json.dumps(lines))


if __name__ == "__main__":
    main()
