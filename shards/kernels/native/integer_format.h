// int8 and int4 weights with rows in 8 bits: sums of integers are exact, so all families agree but for
// the float scales.
//
// int8 superblock: scales [COLUMNS] float, 128 * sum of each row's weights [COLUMNS] int32, then
// [K / 4][COLUMNS][4] int8; K up to a multiple of 4. Rows: scale, then x / scale + 128 as bytes.
//
// int4 superblock, for every GROUP inputs: scales [COLUMNS] float, then [2][GROUP / 8][32][4] bytes:
// a half's columns, 8 inputs at a time, of which a byte's low nibble is one of the first 4 and its
// high nibble one of the others, plus 8. K up to a multiple of GROUP. Rows: scale, the sum of every
// group, then x / scale.
#pragma once
#include "vectors.h"

namespace galerne {

constexpr int GROUP = 64;
constexpr int HEADER = 64;  // of an encoded row: its scale

static inline int64_t whole(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

static int64_t int8_block_bytes(int64_t k) { return COLUMNS * (8 + whole(k, 4)); }
static int64_t int8_row_bytes(int64_t k) { return HEADER + whole(k, 64); }

static inline int64_t num_groups_of(int64_t k) { return (k + GROUP - 1) / GROUP; }
static inline int64_t int4_head_bytes(int64_t k) { return HEADER + whole(4 * num_groups_of(k), 64); }
static int64_t int4_block_bytes(int64_t k) { return num_groups_of(k) * (COLUMNS * (4 + GROUP / 2)); }
static int64_t int4_row_bytes(int64_t k) { return int4_head_bytes(k) + num_groups_of(k) * GROUP; }

typedef int8_t i8x16 __attribute__((vector_size(16)));

// out[i] = x[i] / scale to the nearest of -127 to 127, plus `offset`. Returns the scale.
static float to_8_bits(const bf16* x, int64_t n, int32_t offset, char* out) {
  const int64_t full = n / LANES16 * LANES16;
  bf16 rest[LANES16] = {};
  std::memcpy(rest, x + full, (n - full) * sizeof(bf16));
  const auto values = [&](int64_t i) { return widen16(i < full ? x + i : rest); };
  f32x16 most{};
  for (int64_t i = 0; i < n; i += LANES16) {
    const f32x16 v = values(i);
    most = larger(larger(v, -v), most);
  }
  float top = 1e-30f;
  for (int i = 0; i < LANES16; ++i) top = most[i] > top ? most[i] : top;
  constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: what is added to it becomes whole
  const float inverse = 127.0f / top;
  for (int64_t i = 0; i < n; i += LANES16) {
    const f32x16 scaled = (values(i) * inverse + ROUND) - ROUND;
    // A row that is not finite gives zeros here, and what is not finite stays in the residual.
    const f32x16 bounded = scaled >= -127.0f ? (scaled <= 127.0f ? scaled : f32x16{}) : f32x16{};
    const i8x16 bytes =
        __builtin_convertvector(__builtin_convertvector(bounded, i32x16) + offset, i8x16);
    std::memcpy(out + i, &bytes, i < full ? LANES16 : n - full);
  }
  return top / 127.0f;
}

static void int8_encode(const bf16* x, int64_t k, char* row) {
  const float scale = to_8_bits(x, k, 128, row + HEADER);
  std::memset(row + HEADER + k, 128, whole(k, 64) - k);
  std::memcpy(row, &scale, sizeof scale);
}

static void int4_encode(const bf16* x, int64_t k, char* row) {
  char* const q = row + int4_head_bytes(k);
  const float scale = to_8_bits(x, k, 0, q);
  std::memset(q + k, 0, num_groups_of(k) * GROUP - k);
  for (int64_t g = 0; g < num_groups_of(k); ++g) {
    int32_t sum = 0;
    for (int i = 0; i < GROUP; ++i) sum += static_cast<int8_t>(q[g * GROUP + i]);
    std::memcpy(row + HEADER + 4 * g, &sum, sizeof sum);
  }
  std::memcpy(row, &scale, sizeof scale);
}

static inline float scale_of(const char* row) {
  float scale;
  std::memcpy(&scale, row, sizeof scale);
  return scale;
}

static inline int32_t group_sum(const char* row, int64_t g) {
  int32_t sum;
  std::memcpy(&sum, row + HEADER + 4 * g, sizeof sum);
  return sum;
}

[[maybe_unused]] static void int8_superblock(int num_rows, const char* const* x, const char* w,
                                             int64_t k, const Ahead&, float* out) {
  float scales[COLUMNS];
  int32_t comp[COLUMNS];
  std::memcpy(scales, w, sizeof scales);
  std::memcpy(comp, w + sizeof scales, sizeof comp);
  const int8_t* q = reinterpret_cast<const int8_t*>(w) + sizeof scales + sizeof comp;
  for (int i = 0; i < num_rows; ++i) {
    const uint8_t* row = reinterpret_cast<const uint8_t*>(x[i]) + HEADER;
    int32_t sum[COLUMNS] = {};
    for (int64_t four = 0; four < whole(k, 4); four += 4)
      for (int j = 0; j < COLUMNS; ++j)
        for (int b = 0; b < 4; ++b) sum[j] += row[four + b] * q[four * COLUMNS + 4 * j + b];
    for (int j = 0; j < COLUMNS; ++j)
      out[i * COLUMNS + j] = static_cast<float>(sum[j] - comp[j]) * (scales[j] * scale_of(x[i]));
  }
}

[[maybe_unused]] static void int4_superblock(int num_rows, const char* const* x, const char* w,
                                             int64_t k, const Ahead&, float* out) {
  for (int i = 0; i < num_rows; ++i) {
    const int8_t* row = reinterpret_cast<const int8_t*>(x[i] + int4_head_bytes(k));
    const char* at = w;
    float total[COLUMNS] = {};
    for (int64_t g = 0; g < num_groups_of(k); ++g, at += int4_block_bytes(GROUP)) {
      float scales[COLUMNS];
      std::memcpy(scales, at, sizeof scales);
      const uint8_t* nibbles = reinterpret_cast<const uint8_t*>(at) + sizeof scales;
      int32_t sum[COLUMNS] = {};
      for (int half = 0; half < 2; ++half)
        for (int eight = 0; eight < GROUP / 8; ++eight, nibbles += 4 * HALF)
          for (int j = 0; j < HALF; ++j)
            for (int b = 0; b < 4; ++b) {
              const int8_t* from = row + g * GROUP + 8 * eight + b;
              const uint8_t both = nibbles[4 * j + b];
              sum[half * HALF + j] += (both & 15) * from[0] + (both >> 4) * from[4];
            }
      for (int j = 0; j < COLUMNS; ++j)
        total[j] += static_cast<float>(sum[j] - 8 * group_sum(x[i], g)) * scales[j];
    }
    for (int j = 0; j < COLUMNS; ++j) out[i * COLUMNS + j] = total[j] * scale_of(x[i]);
  }
}

}  // namespace galerne
