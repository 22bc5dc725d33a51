// Plain C++ for any machine, and the easiest to read.
#include "bf16_format.h"
#include "integer_format.h"
#include "rows.h"
#include "sampling.h"

namespace galerne {
namespace {

void superblock(int num_rows, const char* const* rows, const char* weights, int64_t k, const Ahead&,
                float* out) {
  const bf16 *x[MAX_ROWS], *w = as_bf16(weights);
  for (int i = 0; i < num_rows; ++i) x[i] = as_bf16(rows[i]);
  for (int i = 0; i < num_rows; ++i) {
    float* sum = out + i * COLUMNS;
    for (int j = 0; j < COLUMNS; ++j) sum[j] = 0.0f;
    for (int64_t pair = 0; pair < k / 2; ++pair) {
      const bf16* weight = w + pair * 2 * COLUMNS;
      const float first = widen(x[i][2 * pair]), second = widen(x[i][2 * pair + 1]);
      for (int j = 0; j < COLUMNS; ++j) {
        sum[j] += widen(weight[2 * j]) * first;
        sum[j] += widen(weight[2 * j + 1]) * second;
      }
    }
  }
}

bool is_supported() { return true; }

const Format bf16_format = {bf16_block_bytes, no_row_bytes, nullptr, superblock, 1 << 12};
const Format int8_format = {int8_block_bytes, int8_row_bytes, int8_encode, int8_superblock, 1 << 13};
const Format int4_format = {int4_block_bytes, int4_row_bytes, int4_encode, int4_superblock, 3 << 12};

}  // namespace

const Family portable = {"portable",           is_supported, {&bf16_format, &int8_format, &int4_format},
                     silu_mul_by_16, round_by_16,  &ROW_OPS, &SAMPLING_OPS};

}  // namespace galerne
