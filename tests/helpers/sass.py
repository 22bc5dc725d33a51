"""Machine code of compiled kernels, counted: what a loop of it loads, converts and multiplies."""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

REGISTERS, SHARED_BYTES, WARPS, PROGRAMS = 65536, 227 * 1024, 64, 32  # of a multiprocessor
RESERVED_BYTES = 1024  # of shared memory, of a program
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][A-Za-z0-9_.]*)")
_LABEL = re.compile(r"^(\.L_x_\d+):")
_TARGET = re.compile(r"`\((\.L_x_\d+)\)")


@dataclass(frozen=True)
class Loop:
    """Instructions of one round of a loop, of one warp, by full name."""

    counts: Counter

    @property
    def length(self):
        return sum(self.counts.values())

    def number_of(self, *starts):
        """Instructions whose name begins so."""
        return sum(n for name, n in self.counts.items() if name.startswith(starts))

    @property
    def copied_bytes(self):
        """Of a thread, asynchronously from memory to shared memory."""
        return sum(n * width_of(name) for name, n in self.counts.items() if "LDGSTS" in name)

    @property
    def widest_load(self):
        """Bytes of a thread's widest load from memory."""
        return max((width_of(n) for n in self.counts if n.startswith("LDG")), default=0)

    @property
    def multiplications(self):
        """Of a warp, by the matrix unit: a group of four warps does 64 x N x K of an HGMMA."""
        total = 0
        for name, n in self.counts.items():
            shape = re.match(r"HGMMA\.64x(\d+)x(\d+)", name)
            if shape:
                total += n * 16 * int(shape[1]) * int(shape[2])
            elif name.startswith("HMMA.16816"):
                total += n * 16 * 8 * 16
        return total


def width_of(name):
    """Bytes of a thread that an instruction moves."""
    bits = re.search(r"\.(64|128)\b", name)
    return int(bits[1]) // 8 if bits else {"U8": 1, "U16": 2}.get(name.split(".")[-1], 4)


def loops_of(listing):
    """Innermost loops of a listing by nvdisasm, the longest first."""
    names, labels, jumps, pending = [], {}, [], []
    for line in listing.splitlines():
        label, instruction = _LABEL.match(line), _INSTRUCTION.match(line)
        if label:
            pending.append(label[1])
        elif instruction:
            labels.update(dict.fromkeys(pending, len(names)))
            pending = []
            target = _TARGET.search(line)
            if instruction[1].startswith("BRA") and target and target[1] in labels:
                jumps.append((labels[target[1]], len(names)))
            names.append(instruction[1])
    inner = [a for a in jumps if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in jumps)]
    found = [Loop(Counter(names[first : last + 1])) for first, last in inner]
    return sorted(found, key=lambda loop: -loop.length)


def disassembled(cubin):
    """Listing of a kernel's machine code."""
    return _said("nvdisasm", "-c", cubin)


def registers_of(cubin):
    """Of a thread."""
    return int(re.search(r"REG:(\d+)", _said("cuobjdump", "--dump-resource-usage", cubin))[1])


def _said(tool, option, cubin):
    """By one of the tools that Triton brings."""
    import triton

    path = Path(triton.__file__).parent / "backends/nvidia/bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(path), option, file.name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def resident(registers, shared_bytes, num_warps):
    """Programs that fit one multiprocessor of sm_90: (how many, what is scarcest)."""
    of_warp = -(-registers * 32 // 256) * 256
    by = {
        "registers": REGISTERS // (of_warp * num_warps),
        "shared": SHARED_BYTES // (shared_bytes + RESERVED_BYTES),
        "warps": WARPS // num_warps,
        "programs": PROGRAMS,
    }
    scarcest = min(by, key=by.get)
    return by[scarcest], scarcest
