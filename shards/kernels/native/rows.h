// What attention does to single rows and key blocks; each family compiles its own (see vectors.h).
#pragma once
#include <cmath>

#include "scalar.h"
#include "vectors.h"

namespace galerne {

// out = weight * x / sqrt(mean(x^2) + eps), rounded once.
static void rms_norm(const bf16* x, const float* weight, int64_t n, float eps, bf16* out) {
  const int64_t whole = n / LANES16 * LANES16;
  f32x16 squares{};
  for (int64_t i = 0; i < whole; i += LANES16) {
    const f32x16 v = widen16(x + i);
    squares += v * v;
  }
  float sum = sum_lanes(squares);
  for (int64_t i = whole; i < n; ++i) sum += widen(x[i]) * widen(x[i]);
  const float inverse = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < whole; i += LANES16)
    narrow16(widen16(x + i) * inverse * load<f32x16>(weight + i), out + i);
  for (int64_t i = whole; i < n; ++i) out[i] = narrow(widen(x[i]) * inverse * weight[i]);
}

// A key block as superblocks: [COLUMNS keys per superblock][dim / 2][COLUMNS][2], zeros behind
// `count`. `keys` are the rows of the cache. Sixteen keys and sixteen pairs at a time.
static void pack_keys(const bf16* const* keys, int count, int64_t dim, bf16* out) {
  const int64_t pairs = dim / 2, whole = pairs / LANES16 * LANES16;
  for (int first = 0; first < count; first += COLUMNS, out += COLUMNS * dim) {
    const int here = count - first < COLUMNS ? count - first : COLUMNS;
    char* const to = reinterpret_cast<char*>(out);
    for (int key = 0; key < COLUMNS; key += LANES16) {
      for (int64_t pair = 0; pair < whole; pair += LANES16) {
        u32x16 block[LANES16];
        for (int i = 0; i < LANES16; ++i)
          block[i] = key + i < here ? load<u32x16>(keys[first + key + i] + 2 * pair) : u32x16{};
        transpose16(block);
        for (int i = 0; i < LANES16; ++i) store(to + ((pair + i) * COLUMNS + key) * 4, block[i]);
      }
      for (int64_t pair = whole; pair < pairs; ++pair)
        for (int i = 0; i < LANES16; ++i) {
          uint32_t both = 0;
          if (key + i < here) std::memcpy(&both, keys[first + key + i] + 2 * pair, 4);
          std::memcpy(to + (pair * COLUMNS + key + i) * 4, &both, 4);
        }
    }
  }
}

// The block's first `dim` columns as the other factor: [dim / COLUMNS][count / 2][COLUMNS][2], keys
// in pairs. `count` is even; columns behind `dim` are zeros.
static void pack_values(const bf16* const* keys, int count, int64_t dim, bf16* out) {
  for (int64_t first = 0; first < dim; first += COLUMNS, out += COLUMNS * count) {
    const int64_t here = dim - first < COLUMNS ? dim - first : COLUMNS;
    for (int pair = 0; pair < count / 2; ++pair) {
      const bf16 *even = keys[2 * pair] + first, *odd = keys[2 * pair + 1] + first;
      bf16* to = out + pair * 2 * COLUMNS;
      if (here == COLUMNS) {
        for (int i = 0; i < COLUMNS; i += LANES16)
          store(to + 2 * i, __builtin_convertvector(load<u16x16>(even + i), u32x16) |
                                (__builtin_convertvector(load<u16x16>(odd + i), u32x16) << 16));
        continue;
      }
      std::memset(to, 0, 2 * COLUMNS * sizeof(bf16));
      for (int64_t i = 0; i < here; ++i) to[2 * i] = even[i], to[2 * i + 1] = odd[i];
    }
  }
}

// Scores of the first `visible` keys of a block to p = exp(score - max) in bf16, zeros up to a
// multiple of 16; returns the sum of what was rounded from, and the maximum.
static float softmax(float* scores, int visible, float* maximum, bf16* p) {
  const int whole = visible / LANES16 * LANES16;
  float tail[LANES16];
  for (int i = 0; i < LANES16; ++i)
    tail[i] = whole + i < visible ? scores[whole + i] : -HUGE_VALF;
  f32x16 best = load<f32x16>(tail);
  for (int i = 0; i < whole; i += LANES16) best = larger(load<f32x16>(scores + i), best);
  float top = best[0];
  for (int i = 1; i < LANES16; ++i) top = best[i] > top ? best[i] : top;
  f32x16 sum{};
  for (int i = 0; i < visible; i += LANES16) {
    f32x16 e = exp16((i < whole ? load<f32x16>(scores + i) : load<f32x16>(tail)) - top);
    narrow16(e, p + i);
    sum += e;
  }
  *maximum = top;
  return sum_lanes(sum);
}

// A running (acc, maximum, sum) takes in a later part: Milakov and Gimelshein, arXiv:1805.02867.
static void join(float* acc, float* maximum, float* sum, const float* part, float part_maximum,
                 float part_sum, int64_t n) {
  const float top = *maximum > part_maximum ? *maximum : part_maximum;
  const float keep = *sum == 0.0f ? 0.0f : exp16(fill(*maximum - top))[0];
  const float take = exp16(fill(part_maximum - top))[0];
  for (int64_t i = 0; i < n; i += LANES16)
    store(acc + i, load<f32x16>(acc + i) * keep + load<f32x16>(part + i) * take);
  *sum = *sum * keep + part_sum * take;
  *maximum = top;
}

// out = acc / sum, rounded; n is a multiple of 16, `out` has room for it.
static void divide(const float* acc, float sum, int64_t n, bf16* out) {
  for (int64_t i = 0; i < n; i += LANES16) narrow16(load<f32x16>(acc + i) / sum, out + i);
}

// out = residual + (shared + sum over k of weights[k] * rows[k]), in this order, rounded once.
static void combine(const bf16* residual, const bf16* shared, const bf16* rows,
                    const float* weights, int64_t top_k, int64_t n, bf16* out) {
  const int64_t whole = n / LANES16 * LANES16;
  for (int64_t i = 0; i < whole; i += LANES16) {
    f32x16 total = widen16(shared + i);
    for (int64_t k = 0; k < top_k; ++k) total += widen16(rows + k * n + i) * weights[k];
    narrow16(widen16(residual + i) + total, out + i);
  }
  for (int64_t i = whole; i < n; ++i) {
    float total = widen(shared[i]);
    for (int64_t k = 0; k < top_k; ++k) total += widen(rows[k * n + i]) * weights[k];
    out[i] = narrow(widen(residual[i]) + total);
  }
}

// For families without instructions for bf16.
[[maybe_unused]] static void silu_mul_by_16(const float* sums, bf16* out) {
  for (int j = 0; j < HALF; j += LANES16) {
    const f32x16 gate = load<f32x16>(sums + j), up = load<f32x16>(sums + HALF + j);
    narrow16(gate / (1.0f + exp16(-gate)) * up, out + j);
  }
}

[[maybe_unused]] static void round_by_16(const float* sums, bf16* out) {
  for (int j = 0; j < COLUMNS; j += LANES16) narrow16(load<f32x16>(sums + j), out + j);
}

// hidden[r] = scale * sum over i of in[r][i] * x[i], i < k; rows of `in` are `stride` apart.
static void low_rank_in(const bf16* x, const bf16* in, int64_t k, int64_t stride, int64_t rank,
                        float scale, float* hidden) {
  const int64_t whole = k / LANES16 * LANES16;
  for (int64_t r = 0; r < rank; ++r, in += stride) {
    f32x16 products{};
    for (int64_t i = 0; i < whole; i += LANES16) products += widen16(x + i) * widen16(in + i);
    float sum = sum_lanes(products);
    for (int64_t i = whole; i < k; ++i) sum += widen(x[i]) * widen(in[i]);
    hidden[r] = sum * scale;
  }
}

// sums[j] += sum over r of hidden[r] * out[r][j] for so many columns, a multiple of 16.
static void low_rank_out(const float* hidden, int64_t rank, const bf16* out, int64_t stride,
                         int num_columns, float* sums) {
  for (int j = 0; j < num_columns; j += LANES16) {
    f32x16 total{};
    for (int64_t r = 0; r < rank; ++r) total += widen16(out + r * stride + j) * hidden[r];
    store(sums + j, load<f32x16>(sums + j) + total);
  }
}

static const RowOps ROW_OPS = {rms_norm, pack_keys, pack_values, softmax,     join,
                               divide,   combine,   low_rank_in, low_rank_out};

}  // namespace galerne
