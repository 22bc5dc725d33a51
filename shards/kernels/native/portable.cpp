// Plain C++ for any machine, and the easiest to read.
#include "rows.h"

namespace galerne {
namespace {

void superblock(int num_rows, const bf16* const* x, const bf16* w, int64_t k, const Ahead&,
                float* out) {
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

}  // namespace

const Family portable = {"portable", is_supported, superblock, silu_mul_by_16, round_by_16, &ROW_OPS};

}  // namespace galerne
