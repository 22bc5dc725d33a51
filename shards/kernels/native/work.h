// How the drivers feed a family: rows times superblocks.
#pragma once
#include <algorithm>
#include <cstring>

#include "family.h"

namespace galerne {

enum Status : int32_t { OK = 0, BAD_FAMILY = 1, BAD_SIZE = 2, BAD_INDEX = 3 };

const Family* family_of(int32_t index);  // nullptr if this machine lacks it

static inline int64_t num_superblocks(int64_t n) { return (n + COLUMNS - 1) / COLUMNS; }

// What a pass over a superblock fetches: itself, and of the superblock that this thread reads next
// the beginning; all of it if there is another pass, which finds its own weight in the cache.
static inline Ahead ahead_of(const char* w, int64_t num_bytes, int64_t fetch_bytes,
                             const char* next, int64_t pass, bool is_last) {
  const int64_t steps = num_bytes / STEP;
  if (pass == 1) return {next, steps, next};
  const int64_t near_steps = std::max<int64_t>(0, steps - fetch_bytes / STEP);
  return {w + fetch_bytes, near_steps, is_last ? next : w};
}

// Rows of one group times one superblock of k inputs: sums go to `use(row, sums)`. `row_of(row)` is
// bf16, or encoded where the format wants that. `next` is the superblock that this thread reads
// afterwards, or any address.
template <typename RowOf, typename Use>
void times_superblock(const Format& format, int64_t num_rows, const RowOf& row_of, const void* w,
                      int64_t k, const void* next, const Use& use) {
  alignas(64) float sums[MAX_ROWS * COLUMNS];
  const char* x[MAX_ROWS];
  const char *from = static_cast<const char*>(w), *after = static_cast<const char*>(next);
  const int64_t num_bytes = format.block_bytes(k);
  for (int64_t start = 0, pass = 0; start < num_rows; start += MAX_ROWS, ++pass) {
    const int count = static_cast<int>(std::min<int64_t>(MAX_ROWS, num_rows - start));
    for (int i = 0; i < count; ++i) x[i] = reinterpret_cast<const char*>(row_of(start + i));
    const bool is_last = start + count == num_rows;
    const Ahead ahead = ahead_of(from, num_bytes, format.fetch_bytes, after, pass, is_last);
    format.superblock(count, x, from, k, ahead, sums);
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
