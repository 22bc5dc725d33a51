"""Sizes and times for people."""

from __future__ import annotations

import math

UNITS = ("KiB", "MiB", "GiB", "TiB")


def size_text(num_bytes: int) -> str:
    """Bytes in the largest binary unit that leaves a number of at least 1, KiB at the least."""
    value, unit = num_bytes / 1024, UNITS[0]
    for larger in UNITS[1:]:
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:,.2f} {unit}"


def seconds_text(seconds: float) -> str:
    """Such as 1.20 s or 35 ms; a dash for what never ends."""
    if math.isinf(seconds):
        return "-"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
