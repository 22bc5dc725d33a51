"""How weights are held: bf16, int8, int4, or fp8. Imports no torch: settings name these too."""

from __future__ import annotations

import enum
from typing import Final

GROUP: Final = 64  # inputs of an int4 weight that share a scale


class WeightFormat(enum.IntEnum):
    """The number is the native library's; rows are bf16 for bf16 and 8 bits wide for the others."""

    BF16 = 0
    INT8 = 1
    INT4 = 2
    FP8 = 3  # what GPUs keep of an fp8 checkpoint where bf16 is asked for; no CPU kernel has it

    @property
    def label(self) -> str:
        """As settings name it."""
        return self.name.lower()

    @property
    def bits_per_weight(self) -> float:
        """With the scales of int4; those of int8 and fp8, one a row, are not counted."""
        return (16.0, 8.0, 4.5, 8.0)[self]


FORMATS: Final = {f.label: f for f in (WeightFormat.BF16, WeightFormat.INT8, WeightFormat.INT4)}
