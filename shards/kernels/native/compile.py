"""Compiles the kernels: a plain C library beside this file, loaded by ``library.py``.

Called by ``deploy/build_hook.py`` when the package is built or installed, so it imports nothing
but the standard library.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

DIRECTORY = Path(__file__).parent
STEM = "libgalerne_kernels"
# Unfused, unless the source says so: every compiler must give the same bits.
COMMON = (
    *("-std=c++17", "-O3", "-fPIC", "-pthread", "-fvisibility=hidden", "-ffp-contract=off"),
    "-Wno-psabi",  # vectors are passed between functions of one file only
)
PLAIN = (
    *("kernels.cpp", "team.cpp", "layer.cpp", "attention.cpp", "local_layers.cpp"),
    *("portable.cpp", "ring.cpp", "serve.cpp", "exchange.cpp"),
    *("positions.cpp", "sampling.cpp"),
)
SOURCES: dict[str, tuple[str, ...]] = dict.fromkeys(PLAIN, ())
X86_SOURCES: dict[str, tuple[str, ...]] = {
    "avx2.cpp": ("-mavx2", "-mfma"),
    "avx512bf16.cpp": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512bf16", "-mavx512vnni"),
}


def _library_path() -> Path:
    """The name has a digest of the sources, so that what was built of others counts as missing.

    It does not end with ".so": that would be a Python module.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in DIRECTORY.iterdir() if p.suffix in (".cpp", ".h")):
        digest.update(path.read_bytes())
    return DIRECTORY / f"{STEM}-{digest.hexdigest()[:12]}.so.1"


LIBRARY = _library_path()


def compile_library(compiler: Sequence[str]) -> Path:
    """Compile every source with its own flags; ``LIBRARY`` takes the place of older ones.

    Args:
        compiler: The compiler's command, and arguments of its own if it has any.

    Raises:
        subprocess.CalledProcessError: The compiler's words are in ``stderr``.
        OSError: The compiler cannot be started, or the directory not written to.
    """
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    sources = SOURCES | (X86_SOURCES if is_x86 else {})
    with tempfile.TemporaryDirectory(dir=DIRECTORY) as scratch:
        objects = [str(Path(scratch) / f"{name}.o") for name in sources]
        for (name, flags), target in zip(sources.items(), objects, strict=True):
            _run(*compiler, *COMMON, *flags, "-c", str(DIRECTORY / name), "-o", target)
        linked = Path(scratch) / LIBRARY.name
        _run(*compiler, "-shared", *objects, "-o", str(linked))
        for older in DIRECTORY.glob(f"{STEM}*.so.1"):
            older.unlink()
        linked.replace(LIBRARY)
    return LIBRARY


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
