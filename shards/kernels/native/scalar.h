// bf16 and back, one at a time. Static, as everything that families share: each must have its own,
// compiled with its own flags, and not the linker's choice of one.
#pragma once
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

}  // namespace galerne
