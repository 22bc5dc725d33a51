// AVX2 and FMA: bf16 widened to float32, even inputs first, then odd ones.
#include <immintrin.h>

#include "bf16_format.h"
#include "integer_format.h"
#include "rows.h"
#include "sampling.h"

namespace galerne {
namespace {

constexpr int LANES = 8;
constexpr int VECTORS = 2;  // at a time: with 4 rows, 8 sums and what they need fit 16 registers
constexpr int ROWS_AT_ONCE = 4;

template <int ROWS>
void columns_times(const bf16* const* x, const bf16* w, int64_t k, float* out) {
  const __m256i odd_half = _mm256_set1_epi32(static_cast<int32_t>(0xffff0000));
  __m256 sum[ROWS][VECTORS];
  for (int i = 0; i < ROWS; ++i)
    for (int v = 0; v < VECTORS; ++v) sum[i][v] = _mm256_setzero_ps();
  for (int64_t pair = 0; pair < k / 2; ++pair, w += 2 * COLUMNS) {
    __m256 even[VECTORS], odd[VECTORS];
    for (int v = 0; v < VECTORS; ++v) {
      const __m256i both =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + v * 2 * LANES));
      even[v] = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
      odd[v] = _mm256_castsi256_ps(_mm256_and_si256(both, odd_half));
    }
    for (int i = 0; i < ROWS; ++i) {
      const __m256 first = _mm256_set1_ps(widen(x[i][2 * pair]));
      const __m256 second = _mm256_set1_ps(widen(x[i][2 * pair + 1]));
      for (int v = 0; v < VECTORS; ++v) {
        sum[i][v] = _mm256_fmadd_ps(even[v], first, sum[i][v]);
        sum[i][v] = _mm256_fmadd_ps(odd[v], second, sum[i][v]);
      }
    }
  }
  for (int i = 0; i < ROWS; ++i)
    for (int v = 0; v < VECTORS; ++v) _mm256_storeu_ps(out + i * COLUMNS + v * LANES, sum[i][v]);
}

template <int ROWS>
void rows_times(const bf16* const* x, const bf16* w, int64_t k, float* out) {
  for (int column = 0; column < COLUMNS; column += VECTORS * LANES)
    columns_times<ROWS>(x, w + 2 * column, k, out + column);
}

void superblock(int num_rows, const char* const* rows, const char* weights, int64_t k, const Ahead&,
                float* out) {
  const bf16 *x[MAX_ROWS], *w = as_bf16(weights);
  for (int i = 0; i < num_rows; ++i) x[i] = as_bf16(rows[i]);
  for (int first = 0; first < num_rows; first += ROWS_AT_ONCE, out += ROWS_AT_ONCE * COLUMNS) {
    switch (num_rows - first) {
      case 1: rows_times<1>(x + first, w, k, out); break;
      case 2: rows_times<2>(x + first, w, k, out); break;
      case 3: rows_times<3>(x + first, w, k, out); break;
      default: rows_times<ROWS_AT_ONCE>(x + first, w, k, out);
    }
  }
}

bool is_supported() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

const Format bf16_format = {bf16_block_bytes, no_row_bytes, nullptr, superblock, 1 << 12};
const Format int8_format = {int8_block_bytes, int8_row_bytes, int8_encode, int8_superblock, 1 << 13};
const Format int4_format = {int4_block_bytes, int4_row_bytes, int4_encode, int4_superblock, 3 << 12};

}  // namespace

const Family avx2 = {"avx2",           is_supported, {&bf16_format, &int8_format, &int4_format},
                     silu_mul_by_16, round_by_16,  &ROW_OPS, &SAMPLING_OPS};

}  // namespace galerne
