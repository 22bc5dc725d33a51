// Scalar pieces of the families without bf16 instructions. All are static: each family must have
// its own, compiled with its own flags, and not the linker's choice of one.
#pragma once
#include <cmath>
#include <cstring>

#include "family.h"

namespace galerne {

static inline float widen(bf16 value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

static inline bf16 narrow(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<bf16>((bits >> 16) | 0x40);  // nan
  return static_cast<bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline void scalar_silu_mul(const float* sums, bf16* out) {
  for (int j = 0; j < HALF; ++j)
    out[j] = narrow(sums[j] / (1.0f + std::exp(-sums[j])) * sums[HALF + j]);
}

static inline void scalar_round(const float* sums, bf16* out) {
  for (int j = 0; j < COLUMNS; ++j) out[j] = narrow(sums[j]);
}

}  // namespace galerne
