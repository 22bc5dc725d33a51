"""Compiles the kernels: a plain C library beside this file, loaded by ``library.py``.

Called by ``deploy/build_hook.py`` when the package is built or installed, so it imports nothing
but the standard library.
"""

from __future__ import annotations

import platform
import subprocess
import tempfile
from pathlib import Path

DIRECTORY = Path(__file__).parent
LIBRARY = DIRECTORY / "libgalerne_kernels.so.1"  # not ".so": that would be a Python module
# Unfused, unless the source says so: every compiler must give the same bits.
COMMON = ("-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-ffp-contract=off")
SOURCES: dict[str, tuple[str, ...]] = {"kernels.cpp": (), "portable.cpp": ()}
X86_SOURCES: dict[str, tuple[str, ...]] = {
    "avx2.cpp": ("-mavx2", "-mfma"),
    "avx512bf16.cpp": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512bf16"),
}


def compile_library(compiler: str) -> Path:
    """Compile every source with its own flags and replace ``LIBRARY`` by the result.

    Raises:
        subprocess.CalledProcessError: The compiler's words are in ``stderr``.
    """
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    sources = SOURCES | (X86_SOURCES if is_x86 else {})
    with tempfile.TemporaryDirectory(dir=DIRECTORY) as scratch:
        objects = [str(Path(scratch) / f"{name}.o") for name in sources]
        for (name, flags), target in zip(sources.items(), objects, strict=True):
            _run(compiler, *COMMON, *flags, "-c", str(DIRECTORY / name), "-o", target)
        linked = Path(scratch) / LIBRARY.name
        _run(compiler, "-shared", "-fopenmp", *objects, "-o", str(linked))
        linked.replace(LIBRARY)
    return LIBRARY


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
