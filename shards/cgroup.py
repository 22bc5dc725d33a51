"""What a container's limits leave: of cores and of memory. Linux, cgroup v2.

The system's own counts are those of the whole machine, also inside a container.
"""

from __future__ import annotations

from pathlib import Path

import psutil

_OWN = Path("/sys/fs/cgroup")  # inside a container: its own group


def cpu_limit(group: Path = _OWN) -> float | None:
    """Cores' worth of time that the group may use; None: no limit, or none that can be read."""
    fields = _read(group / "cpu.max").split()
    if len(fields) != 2 or not all(field.isdecimal() for field in fields):
        return None
    quota, period = map(int, fields)
    return quota / period


def memory_left(group: Path = _OWN) -> int | None:
    """Bytes until the group's limit; None: no limit, or none that can be read.

    Pages of files count as free, as the kernel takes them back before it ends a process.
    """
    limit, used = (_read(group / name).strip() for name in ("memory.max", "memory.current"))
    if not (limit.isdecimal() and used.isdecimal()):
        return None
    lines = (line.split() for line in _read(group / "memory.stat").splitlines())
    counts = {name: int(value) for name, value in lines}
    files = counts.get("active_file", 0) + counts.get("inactive_file", 0)
    return max(int(limit) - int(used) + files, 0)


def available_memory() -> int:
    """Bytes that processes of this machine, or of this container, may still take."""
    free = int(psutil.virtual_memory().available)
    left = memory_left()
    return free if left is None else min(free, left)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # not Linux, cgroup v1, or the group of the whole machine
        return ""
