// AVX-512 with BF16: two products and sums a lane and instruction.
#include <immintrin.h>

#include "rows.h"

namespace galerne {
namespace {

constexpr int LANES = 16;
constexpr int VECTORS = COLUMNS / LANES;

template <int ROWS>
void rows_times(const bf16* const* x, const bf16* w, int64_t k, const Ahead& ahead, float* out) {
  __m512 sum[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
    for (int v = 0; v < VECTORS; ++v) sum[i][v] = _mm512_setzero_ps();
  int64_t pair = 0;
  const auto read_until = [&](int64_t end, const bf16* fetched) __attribute__((always_inline)) {
    for (; pair < end; ++pair, w += 2 * COLUMNS, fetched += 2 * COLUMNS) {
      __m512bh weight[VECTORS];
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) {
        weight[v] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(w + v * 2 * LANES));
        _mm_prefetch(reinterpret_cast<const char*>(fetched + v * 2 * LANES), _MM_HINT_T0);
      }
#pragma GCC unroll 8
      for (int i = 0; i < ROWS; ++i) {
        int32_t both;
        __builtin_memcpy(&both, x[i] + 2 * pair, sizeof both);
        const __m512bh input = reinterpret_cast<__m512bh>(_mm512_set1_epi32(both));
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], weight[v], input);
      }
    }
  };
  read_until(ahead.near_pairs, ahead.near);
  read_until(k / 2, ahead.far);
  for (int i = 0; i < ROWS; ++i)
    for (int v = 0; v < VECTORS; ++v) _mm512_storeu_ps(out + i * COLUMNS + v * LANES, sum[i][v]);
}

void superblock(int num_rows, const bf16* const* x, const bf16* w, int64_t k, const Ahead& ahead,
                float* out) {
  switch (num_rows) {
    case 1: return rows_times<1>(x, w, k, ahead, out);
    case 2: return rows_times<2>(x, w, k, ahead, out);
    case 3: return rows_times<3>(x, w, k, ahead, out);
    case 4: return rows_times<4>(x, w, k, ahead, out);
    case 5: return rows_times<5>(x, w, k, ahead, out);
    default: return rows_times<6>(x, w, k, ahead, out);
  }
}

// exp by 2^n * polynomial on [-1/2, 1/2] (Taylor of 2^f), relative error below 2e-7 there.
__m512 exp512(__m512 x) {
  x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-87.0f)), _mm512_set1_ps(88.0f));
  const __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
  const __m512 n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(t, n);
  constexpr float TAYLOR[] = {1.5403530e-4f, 1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f,
                              2.4022651e-1f, 6.9314718e-1f, 1.0f};  // ln(2)^i / i!, i from 6 down
  __m512 p = _mm512_setzero_ps();
  for (const float c : TAYLOR) p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(c));
  return _mm512_scalef_ps(p, n);
}

void silu_mul(const float* sums, bf16* out) {
  for (int j = 0; j < HALF; j += LANES) {
    const __m512 gate = _mm512_loadu_ps(sums + j), up = _mm512_loadu_ps(sums + HALF + j);
    const __m512 e = exp512(_mm512_sub_ps(_mm512_setzero_ps(), gate));
    const __m512 silu = _mm512_div_ps(gate, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_mul_ps(silu, up));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + j), reinterpret_cast<__m256i>(rounded));
  }
}

void round(const float* sums, bf16* out) {
  for (int j = 0; j < COLUMNS; j += LANES) {
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(sums + j));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + j), reinterpret_cast<__m256i>(rounded));
  }
}

bool is_supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16");
}

}  // namespace

const Family avx512bf16 = {"avx512bf16", is_supported, superblock, silu_mul, round, &ROW_OPS};

}  // namespace galerne
