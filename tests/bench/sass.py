"""What decode and prompt steps take on a GPU that is not here, read from machine code.

    make bench-sass             # needs Triton and no GPU; two minutes

One layer of Mistral Small 4 is computed as serving does it, but launches become compilations. Of
every launch: registers, programs on a multiprocessor, bytes under way, and a time. COMPUTED, NOT
MEASURED: ``make bench-gpu`` measures. The times' formula is ``seconds_of``; what it takes of the
GPU is in ``Gpu``.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from math import prod
from types import SimpleNamespace

import torch

from helpers.hollow_layer import (
    BF16,
    KEY_BYTES,
    REAL,
    E,
    H,
    HollowCache,
    W,
    expert_layer,
    hollow_layers,
    product,
    step_of,
)
from helpers.sass import disassembled, loops_of, registers_of, resident
from helpers.triton_compile import compile_only
from router.model import triton_layers
from shards.kernels import segments as cut
from shards.kernels.formats import WeightFormat
from shards.kernels.gpu import grouped

LAYERS = 36
_PARTS = {"layout": "experts", "gate_up": "experts", "down": "experts"}
_PARTS |= {"attend_segments": "attention", "join_segments": "attention"}


@dataclass(frozen=True)
class Gpu:
    """Of the data sheet, but for the last four, which are guesses to be measured."""

    name: str
    bytes_per_s: float
    processors: int = 132
    clock: float = 1.7e9
    multiplications: int = 2048  # of bf16, a clock and multiprocessor
    slow_lanes: int = 16  # F2F, MUFU: numbers a clock and multiprocessor
    reachable: float = 0.92  # of the bandwidth, by a copy
    latency_s: float = 0.8e-6  # of memory, under load
    wait_clocks: int = 400  # of one round's barriers and results, of a program alone
    launch_s: float = 2.5e-6  # of a kernel in a graph: gap, first loads, last stores


GPUS = (Gpu("H100", 3.35e12), Gpu("H200", 4.8e12))


@dataclass(frozen=True)
class Launch:
    """A kernel as compiled, and its grid."""

    name: str
    grid: tuple
    constants: dict
    kernel: object

    def counted(self):
        """Registers, spills, programs that fit, loops: most multiplications first, or longest."""
        cubin, meta = self.kernel.asm["cubin"], self.kernel.metadata
        registers, listing = registers_of(cubin), disassembled(cubin)
        fit, scarcest = resident(registers, meta.shared, meta.num_warps)
        loops = sorted(loops_of(listing), key=lambda loop: -loop.multiplications)
        spills = listing.count(" STL")
        return SimpleNamespace(
            registers=registers, spills=spills, fit=fit, scarcest=scarcest, loops=loops
        )

    def work(self, tokens, context):
        """Bytes that must be read, bytes moved, bytes of a program's round, rounds."""
        c, width = self.constants, {0: 2, 1: 1, 2: 1, 3: 0.5}.get(self.constants.get("FORMAT"))
        touched = E * (1 - (1 - REAL.num_experts_per_tok / E) ** tokens) + 1
        joined = tokens * cut.segments_of(context) * REAL.num_heads * REAL.kv_lora_rank * 4
        if self.name == "linear":
            members = self.grid[2] if c["PARTS"] == 1 else 1
            read = c["N"] * c["K"] * width * members
            rounds = c["K"] / c["BK"] / (1 if c["IS_JOINED"] else c["PARTS"])
            return read, read, c["BN"] * c["BK"] * width, rounds
        if self.name in ("gate_up", "down"):
            inputs, outputs = (H, 2 * W) if self.name == "gate_up" else (W, H)
            read = touched * inputs * outputs * width
            of_tile = c["BN"] * (2 if self.name == "gate_up" else 1)
            return read, read, of_tile * c["BK"] * width, inputs / c["BK"]
        if self.name == "attend_segments":
            read = tokens * context * KEY_BYTES
            return read, read + joined, c["KEYS"] * KEY_BYTES, c["SMALL"] / c["KEYS"]
        return 0, joined if self.name == "join_segments" else 0, 0, 0


def seconds_of(launch, gpu, read, moved, a_round, counted):
    """(seconds, bytes under way on a multiprocessor, what is slowest).

    Of memory, loads under way, instructions, conversions and the matrix unit. A multiprocessor has
    ``together`` programs; each has ``stages - 1`` rounds of loads under way.
    """
    programs, meta = prod(launch.grid), launch.kernel.metadata
    memory = moved / gpu.bytes_per_s / gpu.reachable
    if not counted.loops or not a_round:  # all of it is under way at once
        took = max(memory, gpu.latency_s if moved else 0.0)
        return gpu.launch_s + took, moved / gpu.processors, "launch"
    loop = counted.loops[0]
    together = max(1.0, min(counted.fit, programs / gpu.processors))
    busy = min(programs, gpu.processors)
    slow = 32 * meta.num_warps * loop.number_of("F2F.", "I2F.", "MUFU")
    clocks = {
        "instructions": together * loop.length * meta.num_warps / 4,
        "conversions": together * slow / gpu.slow_lanes,
        "matrix unit": together * meta.num_warps * loop.multiplications / gpu.multiplications,
    }
    clocks["one after the other"] = sum(clocks.values()) / together + gpu.wait_clocks
    rounds_left = read / (busy * together * a_round)
    took = {what: rounds_left * count / gpu.clock for what, count in clocks.items()}
    under_way = together * max(meta.num_stages - 1, 1) * a_round
    took["loads under way"] = read / (busy * under_way) * gpu.latency_s
    took["memory"] = memory
    slowest = max(took, key=took.get)
    return gpu.launch_s + took[slowest], under_way, slowest


def launches_of(layers, of_layer, tokens, context):
    """Of one layer's decode step."""
    found = []
    compile_only(lambda *launched: found.append(Launch(*launched)))
    step = triton_layers.TritonStep(layers, step_of(tokens, context), HollowCache())
    x = step.start(torch.empty((tokens, H), dtype=BF16))
    found.clear()  # the first norm is once a step
    step.whole_layer(0, x, of_layer)
    layer = list(found)
    head = product(REAL.vocab_size, H, WeightFormat.BF16, has_parts=False)
    head(x, torch.empty((tokens, REAL.vocab_size)))
    return layer, found[-1]


def decode(layers, of_layer, tokens, context):
    """Prints a layer's launches, and the step's time on every GPU."""
    layer, head = launches_of(layers, of_layer, tokens, context)
    print(f"\n{tokens} tokens at {context}: {len(layer)} launches a layer")
    print(
        f"{'kernel':16} {'grid':>14} {'regs':>4} {'spill':>5} {'KiB':>4} {'warps':>5} {'fit':>3} "
        f"{'scarcest':9} {'MB':>6} {'KiB under way':>13}  us, slowest: of each GPU"
    )
    totals = {gpu: Counter() for gpu in GPUS}
    floors = {gpu: Counter() for gpu in GPUS}
    for launch, times in [*((each, LAYERS) for each in layer), (head, 1)]:
        counted, meta = launch.counted(), launch.kernel.metadata
        read, moved, a_round, _ = launch.work(tokens, context)
        said = []
        for gpu in GPUS:
            took, under_way, slowest = seconds_of(launch, gpu, read, moved, a_round, counted)
            for part in ("step", _PARTS.get(launch.name, "rest")):
                totals[gpu][part] += times * took
                floors[gpu][part] += times * read / gpu.bytes_per_s
            said.append(f"{took * 1e6:6.1f} {slowest}")
        print(
            f"{launch.name:16} {'x'.join(map(str, launch.grid)):>14} {counted.registers:4} "
            f"{counted.spills:5} {meta.shared / 1024:4.0f} {meta.num_warps:5} "
            f"{counted.fit:3} {counted.scarcest:9} {moved / 1e6:6.1f} {under_way / 1024:13.0f}  "
            + "; ".join(said)
        )
    for gpu in GPUS:
        shares = {part: floors[gpu][part] / totals[gpu][part] for part in totals[gpu]}
        print(
            f"computed, not measured: {gpu.name} {totals[gpu]['step'] * 1e3:.2f} ms a step, "
            f"{shares['step']:.0%} of the data sheet's bandwidth; of what a copy reaches, experts "
            f"{shares['experts'] / gpu.reachable:.0%}, attention "
            f"{shares['attention'] / gpu.reachable:.0%}"
        )


def prompt(of_layer, tokens, gpu):
    """Prints what a prompt's expert layer reaches of the matrix rate."""
    found = []
    compile_only(lambda *launched: found.append(Launch(*launched)))
    scores = torch.rand((tokens, E), generator=torch.Generator().manual_seed(0))
    ids = scores.topk(REAL.num_experts_per_tok).indices.int()
    of_layer.run_routed(torch.empty((tokens, H), dtype=BF16), ids)
    tile = of_layer.tile_for(tokens)
    clocks = 0.0
    for launch in found:
        counted, warps = launch.counted(), launch.kernel.metadata.num_warps
        loops = counted.loops
        rest = launch.constants["REST"]
        rounds = launch.work(tokens, 0)[-1]
        for first, end in (t[1:] for t in grouped_tiles(ids, tile.rows)):
            loop = loops[1] if end - first <= rest and len(loops) > 1 else loops[0]
            instructions = loop.length * warps / 4
            products = warps * loop.multiplications / gpu.multiplications
            alone = (instructions + products + gpu.wait_clocks) / counted.fit
            clocks += launch.grid[0] * rounds * max(instructions, products, alone)
    took = clocks / gpu.processors / gpu.clock + len(found) * gpu.launch_s
    rate = 2.0 * gpu.processors * gpu.clock * gpu.multiplications
    reached = 2.0 * 3 * H * W * ids.numel() / took
    print(
        f"computed, not measured: experts of {tokens} tokens on {gpu.name} {took * 1e6:.0f} us, "
        f"{reached / 1e12:.0f} of {rate / 1e12:.0f} TFLOP/s: {reached / rate:.0%}"
    )


def grouped_tiles(ids, rows):
    """(expert, first row, end) of the tiles that are used."""
    tiles = grouped.sorted_layout(ids, E, rows).tiles.tolist()
    return [tile for tile in tiles if tile[0] >= 0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--context", type=int, default=1000)
    given = parser.parse_args()
    compile_only(lambda *_: None)
    layers, of_layer = hollow_layers(), expert_layer(E)
    with torch.inference_mode():
        for tokens in given.tokens:
            decode(layers, of_layer, tokens, given.context)
        for tokens in (1, 16):
            decode(layers, of_layer, tokens, 32768)
        for gpu in GPUS:
            prompt(of_layer, 4096, gpu)
    return 0


if __name__ == "__main__":
    sys.exit(main())
