// The C interface: checks what it is given, shares the work out, calls the family. It allocates
// nothing, so nothing can throw into the caller.
//
// Work is cut by superblock (and expert), never by input: a sum is always made by one thread, so
// neither the number of threads nor who takes which item changes a bit.
#include <algorithm>
#include <cstring>

#include "family.h"

#define GALERNE_API __attribute__((visibility("default")))

using namespace galerne;

namespace {

const Family* const FAMILIES[] = {  // best last
    &portable,
#ifdef __x86_64__
    &avx2,
    &avx512bf16,
#endif
};
constexpr int NUM_FAMILIES = sizeof(FAMILIES) / sizeof(FAMILIES[0]);

enum Status : int32_t { OK = 0, BAD_FAMILY = 1, BAD_SIZE = 2, BAD_INDEX = 3 };

int64_t num_superblocks(int64_t n) { return (n + COLUMNS - 1) / COLUMNS; }

const Family* family_of(int32_t index) {
  return index >= 0 && index < NUM_FAMILIES && FAMILIES[index]->is_supported() ? FAMILIES[index]
                                                                                : nullptr;
}

// Rows of one group times one superblock: sums go to `use(row, sums)`.
template <typename RowOf, typename Use>
void times_superblock(const Family& f, int64_t num_rows, const RowOf& row_of, const bf16* w,
                      int64_t k, const Use& use) {
  alignas(64) float sums[MAX_ROWS * COLUMNS];
  const bf16* x[MAX_ROWS];
  for (int64_t start = 0; start < num_rows; start += MAX_ROWS) {
    const int count = static_cast<int>(std::min<int64_t>(MAX_ROWS, num_rows - start));
    for (int i = 0; i < count; ++i) x[i] = row_of(start + i);
    f.superblock(count, x, w, k, sums);
    for (int i = 0; i < count; ++i) use(start + i, sums + i * COLUMNS);
  }
}

// A superblock's sums to the columns of `out` that exist.
void store(const Family& f, const float* sums, bf16* out, int64_t num_columns) {
  if (num_columns >= COLUMNS) {
    f.round(sums, out);
    return;
  }
  alignas(64) bf16 rounded[COLUMNS];
  f.round(sums, rounded);
  std::memcpy(out, rounded, num_columns * sizeof(bf16));
}

}  // namespace

extern "C" {

GALERNE_API int32_t galerne_num_families() { return NUM_FAMILIES; }

GALERNE_API const char* galerne_family_name(int32_t family) {
  return family >= 0 && family < NUM_FAMILIES ? FAMILIES[family]->name : nullptr;
}

GALERNE_API int32_t galerne_is_supported(int32_t family) { return family_of(family) != nullptr; }

// out[t] = weight x[t]; rows of x and out are `x_stride` and `out_stride` elements apart.
GALERNE_API int32_t galerne_linear(int32_t family, int32_t num_threads, const bf16* x, int64_t num_rows,
                       int64_t k, int64_t x_stride, const bf16* packed, int64_t n, bf16* out,
                       int64_t out_stride) {
  const Family* f = family_of(family);
  if (!f) return BAD_FAMILY;
  if (num_rows < 0 || n < 1 || k < 2 || k % 2 || x_stride < k || out_stride < n || num_threads < 1)
    return BAD_SIZE;
#pragma omp parallel for schedule(dynamic, 1) num_threads(num_threads) if (num_threads > 1)
  for (int64_t block = 0; block < num_superblocks(n); ++block)
    times_superblock(
        *f, num_rows, [&](int64_t row) { return x + row * x_stride; },
        packed + block * COLUMNS * k, k, [&](int64_t row, const float* sums) {
          const int64_t first = block * COLUMNS;
          store(*f, sums, out + row * out_stride + first, n - first);
        });
  return OK;
}

// out[r] = down_g(silu(gate_g(x)) * up_g(x)) of x[row_token[r]] for every row r of every group g.
// Group g has the rows first[g] to first[g + 1] - 1. `active` is scratch of num_rows * (width up to
// the next multiple of HALF); the columns beyond `width` become zero.
GALERNE_API int32_t galerne_grouped_mlp(int32_t family, int32_t num_threads, const bf16* x,
                                        int64_t num_tokens, int64_t hidden,
                                        const int64_t* row_token, int64_t num_rows,
                                        const int64_t* first, const bf16* const* gate_up,
                                        const bf16* const* down, int64_t num_groups, int64_t width,
                                        bf16* active, bf16* out) {
  const Family* f = family_of(family);
  if (!f) return BAD_FAMILY;
  if (hidden < 2 || hidden % 2 || width < 1 || num_rows < 0 || num_groups < 0 || num_threads < 1)
    return BAD_SIZE;
  if (first[0] != 0 || first[num_groups] != num_rows) return BAD_SIZE;
  for (int64_t g = 0; g < num_groups; ++g) {
    if (first[g] > first[g + 1]) return BAD_SIZE;
    if (!gate_up[g] || !down[g]) return BAD_INDEX;
  }
  for (int64_t r = 0; r < num_rows; ++r)
    if (row_token[r] < 0 || row_token[r] >= num_tokens) return BAD_INDEX;

  const int64_t up_blocks = (width + HALF - 1) / HALF, down_blocks = num_superblocks(hidden);
  const int64_t inner = up_blocks * HALF;
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
  {
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < num_groups * up_blocks; ++item) {
      const int64_t g = item / up_blocks, block = item % up_blocks;
      times_superblock(
          *f, first[g + 1] - first[g],
          [&](int64_t row) { return x + row_token[first[g] + row] * hidden; },
          gate_up[g] + block * COLUMNS * hidden, hidden, [&](int64_t row, const float* sums) {
            f->silu_mul(sums, active + (first[g] + row) * inner + block * HALF);
          });
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < num_groups * down_blocks; ++item) {
      const int64_t g = item / down_blocks, block = item % down_blocks;
      times_superblock(
          *f, first[g + 1] - first[g],
          [&](int64_t row) { return active + (first[g] + row) * inner; },
          down[g] + block * COLUMNS * inner, inner, [&](int64_t row, const float* sums) {
            const int64_t column = block * COLUMNS;
            store(*f, sums, out + (first[g] + row) * hidden + column, hidden - column);
          });
    }
  }
  return OK;
}

}  // extern "C"
