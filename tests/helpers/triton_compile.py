"""Compiles every kernel as the model launches it, for a GPU that is not here. Prints JSON lines.

Run as a program, where Triton does not interpret. Launches become compilations: the arguments are
tensors of the real dimensions in host memory, which nobody reads.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from helpers.sass import disassembled, loops_of

CAPABILITY = 90


class _AbsentGpu:
    """As much of a driver as compiling asks for."""

    def get_current_target(self):
        return GPUTarget("cuda", CAPABILITY, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


_run = JITFunction.run


def compile_only(launched):
    """Launches from now on are compilations: ``launched(name, grid, constants, kernel)``."""

    def compiled(self, *args, grid, warmup, **kwargs):
        kernel = _run(self, *args, grid=grid, warmup=True, **kwargs)
        launched(self.__name__, grid, kwargs, kernel)
        return kernel

    triton.runtime.driver.set_active(_AbsentGpu())
    JITFunction.run = compiled


def report(name, constants, kernel):
    """What decides whether a kernel can run, and how it multiplies."""
    ptx = kernel.asm["ptx"]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        ptxas = triton.knobs.nvidia.ptxas.path
        command = [ptxas, "-v", f"--gpu-name=sm_{CAPABILITY}a", str(source), "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    registers = re.search(r"Used (\d+) registers", said.stderr)
    spills = re.search(r"(\d+) bytes spill stores", said.stderr)
    return {
        "kernel": name,
        "registers": int(registers.group(1)),
        "spilled_bytes": int(spills.group(1)) if spills else 0,
        "shared_bytes": kernel.metadata.shared,
        "num_warps": kernel.metadata.num_warps,
        "wgmma": "wgmma.mma_async" in ptx,
        "upcasts": constants.get("UPCAST", False),  # float32 rows
        "copies": sorted(
            {int(n, 16) for n in re.findall(r"cp\.async\.c[ag].*?, (0x[0-9a-f]+)", ptx)}
        ),
        "fused": bool(re.search(r"\bfma\.rn\.f32", ptx)),
        "slow_conversions": sum(
            loop.number_of("F2F.", "I2F.") for loop in loops_of(disassembled(kernel.asm["cubin"]))
        ),
    }


def launches():
    """One decode step's and one prompt's launches at the dimensions of Mistral Small 4."""
    from shards.kernels.formats import WeightFormat
    from shards.kernels.gpu import attention, grouped, images, linear, rows
    from shards.kernels.gpu.attention import AttentionShape
    from shards.kernels.gpu.weights import DeviceWeight

    bf16, shape = torch.bfloat16, AttentionShape(32, 64, 64, 256, 128)

    def ints(*size):
        return torch.zeros(size, dtype=torch.int32)

    def weight(n, k, held):
        if held is WeightFormat.BF16:
            return DeviceWeight(torch.empty((n, k), dtype=bf16), None, held, k)
        is_int4 = held is WeightFormat.INT4
        data = torch.empty((n, k // 2 if is_int4 else k), dtype=torch.uint8)
        scales = torch.empty((n, k // 64) if is_int4 else (n,))
        return DeviceWeight(data, scales, held, k)

    x, x32 = torch.empty((300, 4096), dtype=bf16), torch.empty((300, 4096))
    norm, turn = torch.empty(4096), (torch.empty((300, 32)), torch.empty((300, 32)))
    for held in WeightFormat:
        of = weight(4096, 4096, held)
        for tile in linear.tiles_of(held):
            linear.launch(x, of, torch.empty((300, 4096), dtype=bf16), tile)
            linear.launch(x, of, torch.empty((300, 4096), dtype=bf16), tile, 4)
            linear.launch(x, of, torch.empty((4, 300, 4096)), tile, 4)
        tables = grouped.ExpertTables(
            *(torch.zeros(128, dtype=torch.int64),) * 4, 2048, 4096, of.form
        )
        for tile in grouped.tiles_of(held):
            layout = grouped.Layout(ints(1200), ints(1200), ints(9, 3))
            out = torch.empty((1200, 4096), dtype=bf16)
            grouped.grouped_mlp(x, tables, layout, out, tile)
    linear.launch(x32, weight(4096, 4096, WeightFormat.FP8), x32, linear._TILES[0])
    logits = torch.empty((linear.parts_for(128, 4096), 60, 128))
    ids, _ = grouped.choose(logits, 4, 1.0, ints(60))
    grouped.device_layout(ids, 128, 16, has_shared=True)
    rows.rms_norm(x, norm, 1e-6)
    rows.add_norm(x, torch.empty((4, 300, 4096)), norm, 1e-6)
    rows.join_norm(x, x, torch.empty((300, 4, 4096), dtype=bf16), torch.empty((300, 4)), norm, 1e-6)
    cache = torch.empty((64, 16, 320), dtype=bf16)
    both = torch.empty((8, 300, 1344))
    rows.store_latents(both, norm[:1024], norm[:256], *turn, ints(300), cache, 1e-6)
    u_k = torch.empty((32, 256, 64), dtype=bf16)
    q = attention.queries(torch.empty((4, 300, 4096)), u_k, *turn, torch.empty(300), shape)
    mixed = torch.empty((300, 32, 256), dtype=bf16)
    attention.attend_prompts(q, cache, ints(1, 64), ints(150, 4), mixed, shape)
    attention.attend_decodes(q, cache, ints(9, 64), ints(9), ints(9), 2, mixed, shape)
    u_v = torch.empty((32, 128, 256), dtype=bf16)
    linear.batched(mixed, u_v, torch.empty((300, 32, 128), dtype=bf16))
    images.attend(*(torch.empty((300, 16, 64), dtype=bf16),) * 3)


def adapter_launches():
    """Those of a step with adapters: projections, heads, experts."""
    from shards.kernels.gpu import grouped
    from shards.kernels.gpu.low_rank import ChangeTable

    bf16 = torch.bfloat16
    tiles, rows = (torch.zeros(size, dtype=torch.int32) for size in ((20, 3), (300,)))
    for of_each in ({}, {"first_of_each": True}, {"second_of_each": True}):
        table = ChangeTable(64, bf16, torch.device("cpu"), **of_each)
        first, second = (32 if f"{part}_of_each" in of_each else 1 for part in ("first", "second"))
        table.put(0, torch.empty((first, 16, 256)), torch.empty((second, 64, 16)), 1.0)
        y, x = (torch.empty((300, 32, n), dtype=bf16) for n in (64, 256))
        factors = torch.empty(300) if of_each else None
        table.add(y, x, grouped.Layout(rows, rows, tiles), factors)
    x, sums = torch.empty((300, 4096), dtype=bf16), torch.empty((300, 4096))
    addresses = (torch.zeros(128, dtype=torch.int64),) * 2
    tile = grouped.TILES_NARROW[0]
    grouped.grouped_product(x, *addresses, 1, tiles, rows, sums, tile)
    grouped.gated(sums, bf16)


def main():
    """Compile all, then say what came out."""
    found = {}
    compile_only(
        lambda name, _, constants, kernel: found.setdefault(id(kernel), (name, constants, kernel))
    )
    launches()
    adapter_launches()
    for launched in found.values():
        print(json.dumps(report(*launched)))
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
