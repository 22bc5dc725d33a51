"""exp, log and sum whose bits do not depend on the machine.

numpy's own exp and log pick an AVX-512, AVX2 or scalar version at run time, which differ in the
last bit, and its sum leaves the order of additions open. These use IEEE additions,
multiplications and divisions only, in a written-down order, so two gateways agree on a token
whatever their CPUs are.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

_F32 = np.float32

# Below this exp is taken as 0: what would be subnormal depends on the CPU's flush-to-zero flag.
_EXP_FLOOR = _F32(-87.0)
_LOG2_E = _F32(math.log2(math.e))
_LN2_HIGH = _F32(0.693359375)  # 355 / 512: its product with any exponent is exact
_LN2_LOW = _F32(math.log(2) - 0.693359375)
# Taylor, |r| <= ln(2) / 2: the first missing term is 5e-9, well under half a unit of float32.
_EXP_TERMS = tuple(_F32(1 / math.factorial(k)) for k in range(7, -1, -1))

# log(m) = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.1716: the first missing term is 7e-16.
_LOG_TERMS = tuple(1.0 / (2 * k + 1) for k in range(8, -1, -1))
_SQRT_HALF_BITS = int(np.float64(math.sqrt(0.5)).view(np.int64))

_NUM_LANES = 1024


def fixed_exp(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``exp(x)`` for ``x`` ``[N]`` float32 in [-inf, 0], within 1 unit in the last place.

    0 below -87; exactly 1 at 0.
    """
    clipped = np.maximum(x, _EXP_FLOOR)
    exponent: npt.NDArray[np.float32] = np.rint(clipped * _LOG2_E)
    r = (clipped - exponent * _LN2_HIGH) - exponent * _LN2_LOW
    total: npt.NDArray[np.float32] = np.full_like(r, _EXP_TERMS[0])
    for term in _EXP_TERMS[1:]:
        total *= r
        total += term
    bits = exponent.astype(np.int32)
    bits += 127
    bits <<= 23
    power = bits.view(np.float32)  # 2 ** exponent
    total *= power
    total[x < _EXP_FLOOR] = 0
    return total


def fixed_log(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``log(x)`` for ``x`` ``[N]`` float64, positive, normal, finite; within 1.5e-15 relative."""
    bits = x.view(np.int64)
    exponent = (bits - _SQRT_HALF_BITS) >> 52
    mantissa = (bits - (exponent << 52)).view(np.float64)  # in [sqrt(1/2), sqrt(2))
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    total = np.full_like(s, _LOG_TERMS[0])
    for term in _LOG_TERMS[1:]:
        total *= square
        total += term
    s *= 2.0
    total *= s
    total += exponent * math.log(2)
    return total


def fixed_sum(x: npt.NDArray[np.float32]) -> np.float32:
    """Float32 sum of ``x`` ``[N]`` in a fixed order.

    Element i goes to lane ``i % 1024``; each lane is added up in order, then the lanes in order.
    """
    whole = x.size - x.size % _NUM_LANES
    lanes = np.zeros(_NUM_LANES, dtype=np.float32)
    for start in range(0, whole, _NUM_LANES):
        lanes += x[start : start + _NUM_LANES]
    lanes[: x.size - whole] += x[whole:]
    return np.float32(np.cumsum(lanes)[-1])  # cumsum, unlike sum, adds from left to right
