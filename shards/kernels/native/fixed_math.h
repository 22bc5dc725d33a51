// exp, log and sum as router/engine/fixed_math.py writes them down: the same bits everywhere.
#pragma once
#include <cstring>

#include "vectors.h"

namespace galerne {

constexpr int SUM_LANES = 1024;

// exp for x in [-inf, 0]; 0 below -87.
static inline f32x16 fixed_exp16(f32x16 x) {
  constexpr float TERMS[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24,
                             1.0f / 6,    0.5f,       1.0f,       1.0f};
  constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: what is added to it becomes whole
  constexpr float LN2_HIGH = 0.693359375f, LN2_LOW = -0x1.bd0106p-13f, LOG2_E = 0x1.715476p+0f;
  const f32x16 floor = fill(-87.0f);
  const f32x16 clipped = larger(x, floor);
  const f32x16 exponent = (clipped * LOG2_E + ROUND) - ROUND;
  const f32x16 r = (clipped - exponent * LN2_HIGH) - exponent * LN2_LOW;
  f32x16 total = fill(TERMS[0]);
  for (int i = 1; i < 8; ++i) total = total * r + TERMS[i];
  const i32x16 power = (__builtin_convertvector(exponent, i32x16) + 127) << 23;
  total = total * reinterpret_cast<f32x16>(power);
  return where_greater(floor, x, f32x16{}, total);
}

// log of what is positive, normal and finite.
static inline double fixed_log(double x) {
  constexpr int64_t SQRT_HALF_BITS = 0x3fe6a09e667f3bcd;
  int64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const int64_t exponent = (bits - SQRT_HALF_BITS) >> 52;
  const int64_t mantissa_bits = bits - exponent * (int64_t{1} << 52);
  double mantissa;  // in [sqrt(1/2), sqrt(2))
  std::memcpy(&mantissa, &mantissa_bits, sizeof mantissa);
  double s = (mantissa - 1.0) / (mantissa + 1.0);
  const double square = s * s;
  double total = 1.0 / 17;
  for (int k = 7; k >= 0; --k) total = total * square + 1.0 / (2 * k + 1);
  s *= 2.0;
  total *= s;
  return total + static_cast<double>(exponent) * 0.6931471805599453;
}

// Lanes added up from left to right.
static inline float sum_in_order(const float* lanes) {
  float total = lanes[0];
  for (int i = 1; i < SUM_LANES; ++i) total += lanes[i];
  return total;
}

// fixed_sum of fixed_exp: element i goes to lane i % 1024. `x` is filled up with -inf to a multiple
// of 16.
static inline float fixed_sum_of_exp(const float* x, int64_t n) {
  alignas(64) float lanes[SUM_LANES] = {};
  for (int64_t i = 0; i < n; i += LANES16) {
    float* at = lanes + i % SUM_LANES;
    store(at, load<f32x16>(at) + fixed_exp16(load<f32x16>(x + i)));
  }
  return sum_in_order(lanes);
}

}  // namespace galerne
