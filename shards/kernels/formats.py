"""How weights are held: bf16, int8 or int4. Imports no torch: settings name these too."""

from __future__ import annotations

import enum
from typing import Final

GROUP: Final = 64  # inputs of an int4 weight that share a scale


class WeightFormat(enum.IntEnum):
    """The number is the native library's; rows are bf16 for bf16 and 8 bits wide for the others."""

    BF16 = 0
    INT8 = 1
    INT4 = 2

    @property
    def label(self) -> str:
        """As settings name it."""
        return self.name.lower()

    @property
    def bits_per_weight(self) -> float:
        """With the scales of int4; those of int8, one a row, are not counted."""
        return {WeightFormat.BF16: 16.0, WeightFormat.INT8: 8.0, WeightFormat.INT4: 4.5}[self]


FORMATS: Final = {f.label: f for f in WeightFormat}
