"""Kernels and the whole model on a GPU beside the floor. ``make bench-gpu``.

The floor is bytes over the bandwidth measured here, or operations over the rate measured here,
whichever is longer. Kernels are timed as recorded graphs over several layers' weights, so that
these come from memory; the model as the engine runs it, with the host's work.
"""

import sys
import time
from dataclasses import replace
from statistics import median

import numpy as np
import torch

from helpers.gpu_peers import grouped_mm, transformers_layer
from helpers.gpu_results import BENCH, machine, write
from helpers.triton_device import DEVICE
from helpers.triton_models import BLOCK_SIZE, blocks_for, runner
from router.model.runner import SequenceChunk
from shards.checkpoint.presets import preset
from shards.checkpoint.synthetic import SyntheticCheckpoint
from shards.kernels import segments as cut
from shards.kernels.formats import WeightFormat
from shards.kernels.gpu import attention
from shards.kernels.gpu.attention import AttentionShape
from shards.kernels.gpu.experts import TritonExperts
from shards.kernels.gpu.graphs import recorded

REAL, BF16 = preset("full-layer"), torch.bfloat16
HIDDEN, WIDTH, EXPERTS, TOP_K = 4096, 2048, 128, 4
WEIGHTS_OF_EXPERT = 3 * HIDDEN * WIDTH
LAYERS = 3  # whose experts are used in turn
TOKENS = (1, 4, 16, 64, 256, 4096)
BATCHES = (1, 16, 64, 256)
CONTEXT = 1000
ROUNDS = 15
SHAPE = AttentionShape(heads=32, nope=64, rope=64, latent=256, value=128)
ALL_LAYERS = 36
LAYER_BYTES = int(3.25 * 2**30)
REST_BYTES = 14 * 2**30  # embedding, head, cache, graphs and room


def seconds_of(work, inner=1):
    """Median time of one of ``inner`` repetitions within ``work``, by events around a graph."""
    graph, _ = recorded(work, DEVICE)
    times = []
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3 / inner)
    return median(times[2:])


def machine_rates():
    """Bytes and operations a second that plain torch reaches here."""
    a = torch.empty(1 << 31, dtype=torch.uint8, device=DEVICE)
    b = torch.empty_like(a)
    rates = {"bandwidth": 2 * a.nbytes / seconds_of(lambda: b.copy_(a))}
    x, y = (torch.randn((8192, 8192), device=DEVICE, dtype=BF16) for _ in range(2))
    rates["bf16"] = 2 * 8192**3 / seconds_of(lambda: x @ y)
    return rates


def choices(num_tokens, seed=0):
    rng = np.random.default_rng(seed)
    ids = np.argsort(rng.random((num_tokens, EXPERTS)), axis=1)[:, :TOP_K]
    return torch.from_numpy(np.sort(ids, axis=1).astype(np.int32)).to(DEVICE)


def expert_layers(held, count):
    config = replace(REAL, num_layers=count)
    source = SyntheticCheckpoint(config, 1, DEVICE)
    asked = WeightFormat.BF16 if held is WeightFormat.FP8 else held
    made = []
    for layer in range(count):
        experts = TritonExperts(EXPERTS, BF16, asked, DEVICE)
        for e in range(EXPERTS):
            of = source.expert(layer, e)
            keep = held is WeightFormat.FP8
            experts.add(
                e, *(w.kept_as(asked, BF16) if keep else w.to(BF16) for w in (*of.gate_up, of.down))
            )
        made.append(experts)
    return made


def bench_experts(held, rates):
    layers = expert_layers(held, LAYERS if held is WeightFormat.FP8 else 2)
    for num_tokens in TOKENS:
        x = torch.randn((num_tokens, HIDDEN), device=DEVICE).to(BF16)
        ids = [choices(num_tokens, seed) for seed in range(len(layers))]

        def work(x=x, ids=ids):
            for experts, of in zip(layers, ids, strict=True):
                experts.run_routed(x, of)

        took = seconds_of(work, len(layers))
        touched = np.mean([len(of.unique()) for of in ids])
        read = touched * WEIGHTS_OF_EXPERT * held.bits_per_weight / 8
        floors = read / rates["bandwidth"], 2 * WEIGHTS_OF_EXPERT * ids[0].numel() / rates["bf16"]
        row = line(f"experts {held.label}", num_tokens, took, max(floors))
        if held is WeightFormat.BF16:
            row["peer"] = grouped_mm(x, ids[0], HIDDEN, WIDTH, EXPERTS, seconds_of)
        yield row


def bench_attention(rates, context=32768):
    for members in (1, 16, 64):
        num_blocks = context // BLOCK_SIZE
        cache = torch.randn((members * num_blocks + 1, BLOCK_SIZE, 320), device=DEVICE).to(BF16)
        tables = torch.arange(members * num_blocks, dtype=torch.int32, device=DEVICE) + 1
        tables = tables.view(members, -1)
        q = torch.randn((members, 32, 320), device=DEVICE).to(BF16) / 18
        rows = torch.arange(members, dtype=torch.int32, device=DEVICE)
        positions = torch.full_like(rows, context - 1)
        out = torch.empty((members, 32, 256), dtype=BF16, device=DEVICE)
        segments = cut.segments_of(context)
        args = (q, cache, tables, rows, positions, segments, out, SHAPE)
        took = seconds_of(lambda args=args: attention.attend_decodes(*args))
        yield line("attention at 32k", members, took, members * context * 640 / rates["bandwidth"])


def layers_that_fit():
    free, _ = torch.cuda.mem_get_info()
    return max(1, min(ALL_LAYERS, (free - REST_BYTES) // LAYER_BYTES))


def bench_model(rates):
    """Decode with a context of 1,000, and a prompt of 4,096, by as many layers as fit."""
    count = layers_that_fit()
    source = SyntheticCheckpoint(replace(REAL, num_layers=count), 3, DEVICE)
    began = time.perf_counter()
    model = runner(source, BF16, num_blocks=20_000)
    print(f"made {count} of {ALL_LAYERS} layers in {time.perf_counter() - began:.0f} s")
    dense = 28.05e6 + WEIGHTS_OF_EXPERT + 2 * 524_288  # of a layer: attention, shared expert, gate
    head = 2 * REAL.vocab_size * HIDDEN
    for members in BATCHES:
        rng = np.random.default_rng(members)
        ids = [rng.integers(0, REAL.vocab_size, CONTEXT + 1).tolist() for _ in range(members)]
        tables = [blocks_for(CONTEXT + 1, 1 + 64 * i) for i in range(members)]
        chunks = [SequenceChunk(t, CONTEXT, 1, b, 1) for t, b in zip(ids, tables, strict=True)]
        times = [timed(lambda chunks=chunks: model.run(0, chunks)) for _ in range(ROUNDS)]
        took = median(times[3:])
        touched = EXPERTS * (1 - (1 - TOP_K / EXPERTS) ** members)
        read = count * (dense + touched * WEIGHTS_OF_EXPERT + members * CONTEXT * 640) + head
        row = line(f"model, {count} layers", members, took, read / rates["bandwidth"])
        yield row | {"tokens_per_s": round(members / took, 1)}
    chunk = SequenceChunk(list(range(4096)), 0, 4096, blocks_for(4096), 1)
    took = median([timed(lambda: model.run(0, [chunk])) for _ in range(5)][2:])
    operations = 2 * 4096 * count * (28.05e6 + (1 + TOP_K) * WEIGHTS_OF_EXPERT)
    yield line(f"prompt, {count} layers", 4096, took, operations / rates["bf16"])


def timed(work):
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def line(name, size, took, floor):
    row = {"what": name, "tokens": size, "us": took * 1e6, "floor_us": floor * 1e6}
    row["of_floor"] = round(floor / took, 3)
    print(
        f"{name:22} {size:6} {took * 1e6:12.1f} us, floor {floor * 1e6:10.1f}: {floor / took:.0%}"
    )
    return row


def main():
    here = machine()
    if here is None:
        print("bench-gpu: torch finds no CUDA device here; nothing was measured")
        return 1
    with torch.inference_mode():
        rates = machine_rates()
        print(here["gpu"], {name: f"{rate:.3g}" for name, rate in rates.items()})
        rows = list(bench_attention(rates))
        for held in (WeightFormat.FP8, WeightFormat.INT4, WeightFormat.BF16):
            rows += bench_experts(held, rates)
            torch.cuda.empty_cache()
        peer = transformers_layer(REAL, DEVICE)
        print("transformers, one layer:", peer)
        torch.cuda.empty_cache()
        rows += bench_model(rates)
    write(BENCH, {**here, "rates": rates, "rows": rows, "transformers_layer": peer})
    return 0


if __name__ == "__main__":
    sys.exit(main())
