// What a step's positions are in every layer: rotary angles, and the scale of the queries.
#include <cmath>
#include <cstdint>

// For n positions: cosines [n, pairs], then sines, then query scales [n], one after the other in
// `out`. Angles are float64. A query's scale is `scale` times the llama-4 temperature, which grows
// with every `period` positions (model reference, section 2).
extern "C" __attribute__((visibility("default"))) int32_t galerne_positions(
    const int64_t* positions, int64_t n, const double* frequencies, int64_t pairs, int64_t period,
    double beta, double scale, float* out) {
  if (n < 0 || pairs < 1 || period < 1) return 2;  // BAD_SIZE of work.h
  float *cosines = out, *sines = out + n * pairs, *scales = out + 2 * n * pairs;
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t i = 0; i < pairs; ++i) {
      const double angle = static_cast<double>(positions[t]) * frequencies[i];
      *cosines++ = static_cast<float>(std::cos(angle));
      *sines++ = static_cast<float>(std::sin(angle));
    }
    const double periods = static_cast<double>(positions[t] / period);
    const float temperature = static_cast<float>(1.0 + beta * std::log1p(periods));
    scales[t] = temperature * static_cast<float>(scale);
  }
  return 0;
}
