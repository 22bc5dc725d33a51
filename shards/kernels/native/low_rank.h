// What an adapter (LoRA) changes of a layer: low-rank parts that are added to a product's sums before
// they are rounded. A row's part depends on the row and its adapter alone, so neighbours with other
// adapters, or none, change no bit of it; rows without one meet none of this.
#pragma once
#include "family.h"

namespace galerne {

constexpr int64_t MAX_CHANGES = 64;  // adapters of a step

// Filled in by adapters.py, field by field. y += out^T (scale * in x); rank 0: nothing.
struct LowRank {
  const bf16* in;   // [rank, in_stride]: k inputs, then zeros up to a multiple of COLUMNS
  const bf16* out;  // [rank, out_stride]: n columns, then zeros, at least COLUMNS of them
  int64_t rank, in_stride, out_stride;
  double scale;
};

struct ExpertChange {
  LowRank gate, up, down;
};

struct LayerChange {
  LowRank qkv_a, q_b, kv_b, o;
  ExpertChange shared;
  const ExpertChange* routed;  // [num_experts]; null: none of them
};

// The adapters of a call's rows, by token: `of` is an index of `tables`, or -1. A table is by expert;
// null where an adapter changes none.
struct ExpertChanges {
  int64_t max_rank;  // 0: nobody has one, and nothing below is read
  int64_t num_changes;
  const int64_t* of;
  const ExpertChange* const* tables;
};

static inline bool has_changes(int64_t max_rank, int64_t num_changes, const int64_t* of,
                               int64_t num_tokens) {
  if (max_rank < 0 || num_changes < 0 || num_changes > MAX_CHANGES) return false;
  if (!max_rank) return true;
  for (int64_t t = 0; t < num_tokens; ++t)
    if (of[t] < -1 || of[t] >= num_changes) return false;
  return true;
}

// hidden = scale * in x.
static inline void reduce(const Family& f, const LowRank& w, const bf16* x, int64_t k,
                          float* hidden) {
  f.rows->low_rank_in(x, w.in, k, w.in_stride, w.rank, static_cast<float>(w.scale), hidden);
}

// sums += columns of out^T hidden.
static inline void expand(const Family& f, const LowRank& w, const float* hidden, int64_t column,
                          int num_columns, float* sums) {
  f.rows->low_rank_out(hidden, w.rank, w.out + column, w.out_stride, num_columns, sums);
}

}  // namespace galerne
