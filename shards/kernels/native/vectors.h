// Sixteen floats at once, by the compiler's own vectors: each family compiles these with its own
// flags, so everything here is static. Sums go lane by lane and then over the lanes in one order.
#pragma once
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <cstring>

#include "family.h"

namespace galerne {

constexpr int LANES16 = 16;
typedef float f32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));

template <typename Vector>
static inline Vector load(const void* from) {
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <typename Vector>
static inline void store(void* to, const Vector& v) {
  std::memcpy(to, &v, sizeof v);
}

// rows[i][j] becomes rows[j][i]: in four rounds, blocks of 1, 2, 4 and 8 change places.
template <int distance>
static inline void transpose_blocks(u32x16* rows) {
  u32x16 low, high;
  for (int j = 0; j < LANES16; ++j) {
    low[j] = j & distance ? LANES16 + j - distance : j;
    high[j] = j & distance ? LANES16 + j : j + distance;
  }
  for (int i = 0; i < LANES16; ++i) {
    if (i & distance) continue;
    const u32x16 a = rows[i], b = rows[i + distance];
#ifdef __clang__
    for (int j = 0; j < LANES16; ++j) {
      rows[i][j] = low[j] < LANES16 ? a[low[j]] : b[low[j] - LANES16];
      rows[i + distance][j] = high[j] < LANES16 ? a[high[j]] : b[high[j] - LANES16];
    }
#else
    rows[i] = __builtin_shuffle(a, b, low);
    rows[i + distance] = __builtin_shuffle(a, b, high);
#endif
  }
}

static inline void transpose16(u32x16* rows) {
  transpose_blocks<1>(rows);
  transpose_blocks<2>(rows);
  transpose_blocks<4>(rows);
  transpose_blocks<8>(rows);
}

// x where a > b, else y; so also where one of both is not a number. GCC compares vectors that are
// wider than the machine's lane by lane, hence the parts.
static inline f32x16 where_greater(const f32x16& a, const f32x16& b, const f32x16& x,
                                   const f32x16& y) {
#if defined(__AVX512F__) || !defined(__SSE2__)
  return a > b ? x : y;
#elif defined(__AVX2__)
  __m256 part[4][2];
  store(part[0], a), store(part[1], b), store(part[2], x), store(part[3], y);
  for (int i = 0; i < 2; ++i) {
    const __m256 is = _mm256_cmp_ps(part[0][i], part[1][i], _CMP_GT_OQ);
    part[0][i] = _mm256_blendv_ps(part[3][i], part[2][i], is);
  }
  return load<f32x16>(part[0]);
#else
  __m128 part[4][4];
  store(part[0], a), store(part[1], b), store(part[2], x), store(part[3], y);
  for (int i = 0; i < 4; ++i) {
    const __m128 is = _mm_cmpgt_ps(part[0][i], part[1][i]);
    part[0][i] = _mm_or_ps(_mm_and_ps(is, part[2][i]), _mm_andnot_ps(is, part[3][i]));
  }
  return load<f32x16>(part[0]);
#endif
}

// All ones in the lanes that are no numbers.
static inline u32x16 is_nan(const f32x16& value) {
#if defined(__AVX512F__)
  return reinterpret_cast<u32x16>(value != value);
#endif
  const u32x16 size = reinterpret_cast<u32x16>(value) & 0x7fffffff;
  return reinterpret_cast<u32x16>(reinterpret_cast<i32x16>(0x7f800000u - size) >> 31);
}

static inline f32x16 fill(float value) { return f32x16{} + value; }

static inline f32x16 widen16(const bf16* from) {
  const u32x16 bits = __builtin_convertvector(load<u16x16>(from), u32x16) << 16;
  return reinterpret_cast<f32x16>(bits);
}

// To the nearest even; what is not a number stays one.
static inline void narrow16(f32x16 value, bf16* to) {
  const u32x16 bits = reinterpret_cast<u32x16>(value);
  const u32x16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const u32x16 odd = is_nan(value);
  const u32x16 chosen = (odd & ((bits >> 16) | 0x40)) | (~odd & rounded);
  store(to, __builtin_convertvector(chosen, u16x16));
}

static inline float sum_lanes(const f32x16& v) {
  float part[8];
  for (int i = 0; i < 8; ++i) part[i] = v[i] + v[i + 8];
  for (int width = 4; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) part[i] += part[i + width];
  return part[0];
}

static inline f32x16 larger(f32x16 a, f32x16 b) { return where_greater(a, b, a, b); }

// exp by 2^n * polynomial on [-1/2, 1/2] (Taylor of 2^f), relative error below 2e-7; 0 below -87.
static inline f32x16 exp16(f32x16 x) {
  constexpr float TAYLOR[] = {1.5403530e-4f, 1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f,
                              2.4022651e-1f, 6.9314718e-1f, 1.0f};  // ln(2)^i / i!, i from 6 down
  constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: what is added to it becomes whole
  const f32x16 low = fill(-87.0f), high = fill(88.0f);
  const f32x16 bounded = where_greater(x, low, where_greater(high, x, x, high), low);
  const f32x16 t = bounded * 1.44269504f;
  const f32x16 n = (t + ROUND) - ROUND;
  const f32x16 f = t - n;
  f32x16 p = fill(TAYLOR[0]);
  for (int i = 1; i < 7; ++i) p = p * f + TAYLOR[i];
  const i32x16 power = (__builtin_convertvector(n, i32x16) + 127) << 23;
  const u32x16 odd = is_nan(x);  // what is not a number stays one
  const u32x16 result = reinterpret_cast<u32x16>(p * reinterpret_cast<f32x16>(power));
  const u32x16 kept = (odd & reinterpret_cast<u32x16>(x)) | (~odd & result);
  return where_greater(low, x, f32x16{}, reinterpret_cast<f32x16>(kept));
}

}  // namespace galerne
