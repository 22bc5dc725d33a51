// Noise of tokens as router/engine/philox.py defines it: a pure function of seed, choice, position and
// token, bit for bit.
#pragma once
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "fixed_math.h"

namespace galerne {

constexpr float MAX_NOISE = 22.88f;  // the largest there is, rounded up

typedef uint64_t u64x8 __attribute__((vector_size(64)));

// Products of the lower halves.
static inline u64x8 times_low(u64x8 a, uint32_t b) {
#if defined(__AVX512F__)
  return reinterpret_cast<u64x8>(
      _mm512_mul_epu32(reinterpret_cast<__m512i>(a), _mm512_set1_epi64(b)));
#elif defined(__AVX2__)
  __m256i half[2];
  std::memcpy(half, &a, sizeof a);
  for (__m256i& each : half) each = _mm256_mul_epu32(each, _mm256_set1_epi64x(b));
  std::memcpy(&a, half, sizeof a);
  return a;
#else
  return (a & 0xffffffffu) * static_cast<uint64_t>(b);
#endif
}

// Random bits of the tokens [32 * block, 32 * block + 32).
static inline void random_bits(const SampledRow& row, int64_t block, uint32_t* bits) {
  u64x8 c0, c1, c2, c3;
  for (int i = 0; i < 8; ++i) c0[i] = static_cast<uint64_t>(8 * block + i);
  const uint64_t position = static_cast<uint64_t>(row.position);
  c1 = u64x8{} + (position & 0xffffffffu);
  c2 = u64x8{} + static_cast<uint64_t>(static_cast<uint32_t>(row.choice));
  c3 = u64x8{} + (position >> 32);
  uint32_t k0 = static_cast<uint32_t>(row.seed), k1 = static_cast<uint32_t>(row.seed >> 32);
  for (int round = 0; round < 10; ++round) {  // upper halves of the words are left to chance
    const u64x8 p0 = times_low(c0, 0xD2511F53u), p1 = times_low(c2, 0xCD9E8D57u);
    c0 = (p1 >> 32) ^ c1 ^ static_cast<uint64_t>(k0);
    c2 = (p0 >> 32) ^ c3 ^ static_cast<uint64_t>(k1);
    c1 = p1, c3 = p0;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  const u64x8 first = (c0 & 0xffffffffu) | (c1 << 32), second = (c2 & 0xffffffffu) | (c3 << 32);
  uint64_t pairs[2 * 8];
  for (int i = 0; i < 8; ++i) pairs[2 * i] = first[i], pairs[2 * i + 1] = second[i];
  std::memcpy(bits, pairs, sizeof pairs);  // little-endian: lane id % 4 of block id / 4
}

// Standard Gumbel noise, -log(-log(u)).
static inline float gumbel(uint32_t bits) {
  const double u = (static_cast<double>(bits) + 0.5) * 0x1p-32;
  return static_cast<float>(-fixed_log(-fixed_log(u)));
}

// No less than the noise: -log(1 - u), by a logarithm that is too small.
static inline f32x16 noise_bound(const uint32_t* bits) {
  constexpr float LN2 = 0.693147181f;
  const f32x16 rest = __builtin_convertvector(~load<u32x16>(bits), f32x16);
  const f32x16 log2 = __builtin_convertvector(reinterpret_cast<i32x16>(rest), f32x16) * 0x1p-23f;
  return (127.0f + 32.0f) * LN2 - log2 * LN2;
}

}  // namespace galerne
