// AVX-512 with BF16 and VNNI: two products and sums a lane and instruction, four of bytes.
#include <immintrin.h>

#include "bf16_format.h"
#include "integer_format.h"
#include "rows.h"
#include "sampling.h"

namespace galerne {
namespace {

constexpr int LANES = 16;
constexpr int VECTORS = COLUMNS / LANES;

// Fetches what goes with a step. Loops over steps stand written out below: with the body in a lambda
// the compiler stores every sum at every step.
inline void fetch(const Ahead& ahead, int64_t step) {
  const int64_t behind = step - ahead.near_steps;
  const char* from = behind < 0 ? ahead.near + step * STEP : ahead.far + behind * STEP;
  for (int v = 0; v < VECTORS; ++v) _mm_prefetch(from + v * 64, _MM_HINT_T1);
}

// The same for `count` lines from `line` on; a step has VECTORS of them.
inline void fetch_lines(const Ahead& ahead, int64_t line, int count) {
  for (int i = 0; i < count; ++i, ++line) {
    const int64_t behind = line - ahead.near_steps * VECTORS;
    _mm_prefetch(behind < 0 ? ahead.near + line * 64 : ahead.far + behind * 64, _MM_HINT_T1);
  }
}

template <int ROWS>
void bf16_rows(const char* const* x, const char* w, int64_t k, const Ahead& ahead, float* out) {
  __m512 sum[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) sum[i][v] = _mm512_setzero_ps();
  for (int64_t pair = 0; pair < k / 2; ++pair) {
    fetch(ahead, pair);
    __m512bh weight[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v)
      weight[v] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(w + pair * STEP + v * 64));
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
      int32_t both;
      __builtin_memcpy(&both, x[i] + 4 * pair, sizeof both);
      const __m512bh input = reinterpret_cast<__m512bh>(_mm512_set1_epi32(both));
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], weight[v], input);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) _mm512_storeu_ps(out + i * COLUMNS + v * LANES, sum[i][v]);
}

// Four products of an unsigned and a signed byte each, added to `sum`.
inline i32x16 dot4(i32x16 sum, __m512i unsigned_bytes, __m512i signed_bytes) {
  return reinterpret_cast<i32x16>(
      _mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), unsigned_bytes, signed_bytes));
}

template <int ROWS>
void int8_rows(const char* const* x, const char* w, int64_t k, const Ahead& ahead, float* out) {
  i32x16 sum[ROWS][VECTORS];  // not __m512i: its 8 longs keep the compiler from using registers
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) sum[i][v] = i32x16{};
  const char* const q = w + 2 * STEP;  // behind scales and sums
  for (int64_t four = 0; four < whole(k, 4) / 4; ++four) {
    fetch(ahead, four);
    __m512i weight[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) weight[v] = _mm512_loadu_si512(q + four * STEP + v * 64);
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
      int32_t four_inputs;
      __builtin_memcpy(&four_inputs, x[i] + HEADER + 4 * four, sizeof four_inputs);
      const __m512i input = _mm512_set1_epi32(four_inputs);
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) sum[i][v] = dot4(sum[i][v], input, weight[v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i) {
    const __m512 row_scale = _mm512_set1_ps(scale_of(x[i]));
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) {
      const __m512i comp = _mm512_loadu_si512(w + STEP + v * 64);
      const __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(w + v * 64), row_scale);
      const __m512 exact = _mm512_cvtepi32_ps(
          _mm512_sub_epi32(reinterpret_cast<__m512i>(sum[i][v]), comp));
      _mm512_storeu_ps(out + i * COLUMNS + v * LANES, _mm512_mul_ps(exact, scale));
    }
  }
}

template <int ROWS>
void int4_rows(const char* const* x, const char* w, int64_t k, const Ahead& ahead, float* out) {
  constexpr int HALF_VECTORS = VECTORS / 2;
  const int64_t num_groups = num_groups_of(k), steps_of_group = int4_block_bytes(GROUP) / STEP;
  const int64_t head = int4_head_bytes(k);
  const __m512i low = _mm512_set1_epi8(15);
  alignas(64) float total[ROWS][COLUMNS] = {};
  int64_t line = 0;  // fetched next: few at a time, or they would wait for one another
  for (int64_t g = 0; g < num_groups; ++g, w += steps_of_group * STEP) {
    fetch_lines(ahead, line, VECTORS);
    line += VECTORS;
#pragma GCC unroll 1
    for (int half = 0; half < 2; ++half) {
      i32x16 sum[ROWS][HALF_VECTORS];
#pragma GCC unroll 8
      for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < HALF_VECTORS; ++v)
          sum[i][v] = i32x16{} - 8 * group_sum(x[i], g);
      const char* q = w + STEP + half * (GROUP / 8) * HALF_VECTORS * 64;
      for (int eight = 0; eight < GROUP / 8; ++eight, q += HALF_VECTORS * 64) {
        fetch_lines(ahead, line, HALF_VECTORS);
        line += HALF_VECTORS;
        __m512i first[HALF_VECTORS], second[HALF_VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < HALF_VECTORS; ++v) {
          const __m512i both = _mm512_loadu_si512(q + v * 64);
          first[v] = _mm512_and_si512(both, low);
          second[v] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        }
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; ++i) {
          int32_t inputs[2];
          __builtin_memcpy(inputs, x[i] + head + g * GROUP + 8 * eight, sizeof inputs);
#pragma GCC unroll 2
          for (int v = 0; v < HALF_VECTORS; ++v) {
            sum[i][v] = dot4(sum[i][v], first[v], _mm512_set1_epi32(inputs[0]));
            sum[i][v] = dot4(sum[i][v], second[v], _mm512_set1_epi32(inputs[1]));
          }
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < HALF_VECTORS; ++v) {
          float* const so_far = &total[i][half * HALF + v * LANES];
          const __m512 scale = _mm512_loadu_ps(w + 4 * (half * HALF + v * LANES));
          const __m512 exact = _mm512_cvtepi32_ps(reinterpret_cast<__m512i>(sum[i][v]));
          _mm512_store_ps(so_far, _mm512_fmadd_ps(exact, scale, _mm512_load_ps(so_far)));
        }
    }
  }
  for (int i = 0; i < ROWS; ++i)
    for (int j = 0; j < COLUMNS; j += LANES)
      _mm512_storeu_ps(out + i * COLUMNS + j, _mm512_mul_ps(_mm512_load_ps(&total[i][j]),
                                                            _mm512_set1_ps(scale_of(x[i]))));
}

#define SUPERBLOCK(name)                                                                     \
  void name##_times(int num_rows, const char* const* x, const char* w, int64_t k, const Ahead& ahead, \
            float* out) {                                                                    \
    switch (num_rows) {                                                                      \
      case 1: return name##_rows<1>(x, w, k, ahead, out);                                    \
      case 2: return name##_rows<2>(x, w, k, ahead, out);                                    \
      case 3: return name##_rows<3>(x, w, k, ahead, out);                                    \
      case 4: return name##_rows<4>(x, w, k, ahead, out);                                    \
      case 5: return name##_rows<5>(x, w, k, ahead, out);                                    \
      default: return name##_rows<6>(x, w, k, ahead, out);                                   \
    }                                                                                        \
  }
SUPERBLOCK(bf16)
SUPERBLOCK(int8)
SUPERBLOCK(int4)
#undef SUPERBLOCK

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
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vnni");
}

const Format bf16_format = {bf16_block_bytes, no_row_bytes, nullptr, bf16_times, 1 << 12};
const Format int8_format = {int8_block_bytes, int8_row_bytes, int8_encode, int8_times, 1 << 13};
const Format int4_format = {int4_block_bytes, int4_row_bytes, int4_encode, int4_times, 1 << 14};

}  // namespace

const Family avx512bf16 = {
    "avx512bf16", is_supported, {&bf16_format, &int8_format, &int4_format}, silu_mul, round, &ROW_OPS, &SAMPLING_OPS};

}  // namespace galerne
