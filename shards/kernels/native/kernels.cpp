// The C interface: checks what it is given, shares the work out, calls the family. It allocates
// nothing, so nothing can throw into the caller.
//
// Work is cut by superblock (and expert), never by input: a sum is always made by one thread, so
// neither the number of threads nor who takes which item changes a bit.
#include "grouped_mlp.h"

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

}  // namespace

const Family* galerne::family_of(int32_t index) {
  return index >= 0 && index < NUM_FAMILIES && FAMILIES[index]->is_supported() ? FAMILIES[index]
                                                                                : nullptr;
}

extern "C" {

GALERNE_API int32_t galerne_num_families() { return NUM_FAMILIES; }

GALERNE_API void galerne_set_spin_ns(int64_t ns) { galerne::set_spin_ns(ns); }

GALERNE_API const char* galerne_family_name(int32_t family) {
  return family >= 0 && family < NUM_FAMILIES ? FAMILIES[family]->name : nullptr;
}

GALERNE_API int32_t galerne_is_supported(int32_t family) { return family_of(family) != nullptr; }

// out[t] = weight x[t], rounded to bf16 or, if `is_wide`, as float32; rows of x and out are
// `x_stride` and `out_stride` elements apart. `memory` has galerne_row_bytes for every row.
GALERNE_API int32_t galerne_linear(int32_t family, int32_t format, int32_t num_threads,
                                   const bf16* x, int64_t num_rows, int64_t k, int64_t x_stride,
                                   const char* packed, int64_t n, char* memory, void* out,
                                   int64_t out_stride, int32_t is_wide) {
  const Family* f = family_of(family);
  if (!f || !has_format(format)) return BAD_FAMILY;
  if (num_rows < 0 || n < 1 || k < 2 || k % 2 || x_stride < k || out_stride < n || num_threads < 1)
    return BAD_SIZE;
  const Format& held = *f->formats[format];
  const int64_t row_bytes = held.row_bytes(k), block_bytes = held.block_bytes(k);
  const auto row_of = [&](int64_t row) -> const void* {
    if (!row_bytes) return x + row * x_stride;
    return memory + row * row_bytes;
  };
  in_team(num_threads, [&](Member& member) {
    if (row_bytes)
      member.for_each(num_rows, [&](int64_t row) {
        held.encode(x + row * x_stride, k, memory + row * row_bytes);
      });
    member.for_each_ahead(num_superblocks(n), [&](int64_t block, int64_t next) {
      const int64_t first = block * COLUMNS, here = std::min<int64_t>(COLUMNS, n - first);
      times_superblock(
          held, num_rows, row_of, packed + block * block_bytes, k, packed + next * block_bytes,
          [&](int64_t row, const float* sums) {
            const int64_t at = row * out_stride + first;
            if (is_wide)
              std::memcpy(static_cast<float*>(out) + at, sums, here * sizeof(float));
            else
              store_rounded(*f, sums, static_cast<bf16*>(out) + at, here);
          });
    });
  });
  return OK;
}

// Bytes of an encoded row of k inputs; negative if there is no such format.
GALERNE_API int64_t galerne_row_bytes(int32_t family, int32_t format, int64_t k) {
  const Family* f = family_of(family);
  if (!f || !has_format(format)) return -BAD_FAMILY;
  return k < 2 ? -BAD_SIZE : f->formats[format]->row_bytes(k);
}

// Bytes of scratch for an MLP of so many tokens and rows; negative if sizes do not fit.
GALERNE_API int64_t galerne_mlp_bytes(int32_t family, int32_t format, int64_t num_tokens,
                                      int64_t num_rows, int64_t hidden, int64_t width,
                                      int64_t max_rank) {
  const Family* f = family_of(family);
  if (!f || !has_format(format)) return -BAD_FAMILY;
  if (num_tokens < 0 || num_rows < 0 || hidden < 2 || hidden % 2 || width < 1 || max_rank < 0)
    return -BAD_SIZE;
  return MlpScratch(*f->formats[format], num_tokens, num_rows, hidden, width, max_rank, nullptr)
      .num_bytes;
}

// out[r] = down_g(silu(gate_g(x)) * up_g(x)) of x[row_token[r]] for every row r of every group g.
// Group g has the rows first[g] to first[g + 1] - 1. `memory` is scratch as galerne_mlp_bytes says.
// `changes` may be null; else `group_expert` has the expert of every group, for its tables.
GALERNE_API int32_t galerne_grouped_mlp(int32_t family, int32_t format, int32_t num_threads,
                                        const bf16* x, int64_t num_tokens, int64_t hidden,
                                        const int64_t* row_token, int64_t num_rows,
                                        const int64_t* first, const void* const* gate_up,
                                        const void* const* down, int64_t num_groups, int64_t width,
                                        const int64_t* group_expert, const ExpertChanges* changes,
                                        char* memory, bf16* out) {
  const Family* f = family_of(family);
  if (!f || !has_format(format)) return BAD_FAMILY;
  if (hidden < 2 || hidden % 2 || width < 1 || num_rows < 0 || num_groups < 0 || num_threads < 1)
    return BAD_SIZE;
  if (first[0] != 0 || first[num_groups] != num_rows) return BAD_SIZE;
  for (int64_t g = 0; g < num_groups; ++g) {
    if (first[g] > first[g + 1]) return BAD_SIZE;
    if (!gate_up[g] || !down[g]) return BAD_INDEX;
  }
  const ExpertChanges none{}, &given = changes ? *changes : none;
  if (!has_changes(given.max_rank, given.num_changes, given.of, num_tokens)) return BAD_INDEX;
  for (int64_t r = 0; r < num_rows; ++r)
    if (row_token[r] < 0 || row_token[r] >= num_tokens) return BAD_INDEX;
  const auto weights = [&](int64_t g) {
    return Pair{static_cast<const char*>(gate_up[g]), static_cast<const char*>(down[g])};
  };
  in_team(num_threads, [&](Member& member) {
    grouped_mlp(*f, *f->formats[format], member,
                {x, num_tokens, hidden, width, num_groups, first, memory, out, given}, weights,
                [&](int64_t g) { return group_expert[g]; },
                [&](int64_t r) { return row_token[r]; }, [](int64_t r) { return r; });
  });
  return OK;
}

// The same for every choice k of every token: out[t * top_k + k], by the weights of expert
// expert_ids[t * top_k + k] in the tables, 0 where there is none. `places` is scratch of
// 2 * (num_experts + 1) + num_tokens * top_k, `memory` as galerne_mlp_bytes says.
GALERNE_API int32_t galerne_routed_mlp(int32_t family, int32_t format, int32_t num_threads,
                                       const bf16* x, int64_t num_tokens, int64_t hidden,
                                       const int64_t* expert_ids, int64_t top_k,
                                       const void* const* gate_up, const void* const* down,
                                       int64_t num_experts, int64_t width,
                                       const ExpertChanges* changes, int64_t* places, char* memory,
                                       bf16* out) {
  const Family* f = family_of(family);
  if (!f || !has_format(format)) return BAD_FAMILY;
  if (hidden < 2 || hidden % 2 || width < 1 || num_tokens < 0 || top_k < 1 || num_experts < 1 ||
      num_threads < 1)
    return BAD_SIZE;
  const Routed routed{x, num_tokens, hidden, expert_ids, top_k,
                      {gate_up, down, num_experts, width, format},
                      changes ? *changes : ExpertChanges{}};
  if (!has_experts(routed)) return BAD_INDEX;
  const ExpertChanges& given = routed.changes;
  if (!has_changes(given.max_rank, given.num_changes, given.of, num_tokens)) return BAD_INDEX;
  routed_mlp(*f, num_threads, routed, places, memory, out);
  return OK;
}

}  // extern "C"
