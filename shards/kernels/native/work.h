// How the drivers feed a family: rows times superblocks.
#pragma once
#include <algorithm>
#include <cstring>

#include "family.h"

namespace galerne {

enum Status : int32_t { OK = 0, BAD_FAMILY = 1, BAD_SIZE = 2, BAD_INDEX = 3 };

const Family* family_of(int32_t index);  // nullptr if this machine lacks it

static inline int64_t num_superblocks(int64_t n) { return (n + COLUMNS - 1) / COLUMNS; }

// How far ahead of its reading a weight is fetched: the hardware stops at pages.
constexpr int64_t FETCH_PAIRS = 4096 / (2 * COLUMNS * sizeof(bf16));

// What a pass over a superblock fetches: itself, and of the superblock that this thread reads next
// the beginning; all of it if there is another pass, which finds its own weight in the cache.
static inline Ahead ahead_of(const bf16* w, int64_t k, const bf16* next, int64_t pass,
                             bool is_last) {
  const int64_t pairs = k / 2, own = std::max<int64_t>(0, pairs - FETCH_PAIRS);
  if (pass == 1) return {next, pairs, next};
  return {w + FETCH_PAIRS * 2 * COLUMNS, own, is_last ? next : w};
}

// Rows of one group times one superblock: sums go to `use(row, sums)`. `next` is the superblock that
// this thread reads afterwards, or any address.
template <typename RowOf, typename Use>
void times_superblock(const Family& f, int64_t num_rows, const RowOf& row_of, const bf16* w,
                      int64_t k, const bf16* next, const Use& use) {
  alignas(64) float sums[MAX_ROWS * COLUMNS];
  const bf16* x[MAX_ROWS];
  for (int64_t start = 0, pass = 0; start < num_rows; start += MAX_ROWS, ++pass) {
    const int count = static_cast<int>(std::min<int64_t>(MAX_ROWS, num_rows - start));
    for (int i = 0; i < count; ++i) x[i] = row_of(start + i);
    f.superblock(count, x, w, k, ahead_of(w, k, next, pass, start + count == num_rows), sums);
    for (int i = 0; i < count; ++i) use(start + i, sums + i * COLUMNS);
  }
}

// A superblock's sums to the columns of `out` that exist.
static inline void store_rounded(const Family& f, const float* sums, bf16* out,
                                 int64_t num_columns) {
  if (num_columns >= COLUMNS) {
    f.round(sums, out);
    return;
  }
  alignas(64) bf16 rounded[COLUMNS];
  f.round(sums, rounded);
  std::memcpy(out, rounded, num_columns * sizeof(bf16));
}

}  // namespace galerne
