// bf16 superblocks: for every pair of inputs (k, k+1) the pairs of all output rows one after the
// other, [K / 2][COLUMNS][2].
#pragma once
#include "family.h"

namespace galerne {

static int64_t bf16_block_bytes(int64_t k) { return COLUMNS * k * static_cast<int64_t>(sizeof(bf16)); }
static int64_t no_row_bytes(int64_t) { return 0; }

static inline const bf16* as_bf16(const char* from) { return reinterpret_cast<const bf16*>(from); }

}  // namespace galerne
