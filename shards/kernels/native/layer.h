// A decoder layer up to its experts, as plain data: filled in by library.py, field by field.
#pragma once
#include "low_rank.h"

namespace galerne {

constexpr int KEY_BLOCK = 128;  // keys per attention block, by absolute position
// Key blocks whose sums are joined before they join the others: what one thread does of a token.
constexpr int SEGMENT = 32;

// Sizes as in the model reference, section 2. Weights are packed; norms are float32.
struct Layer {
  int64_t hidden, num_heads, q_rank, kv_rank, nope, rope, v_dim, num_experts, top_k;
  int64_t dense_format;  // of qkv_a, q_b and o; the others are bf16
  double eps, routed_scale;
  const float *input_norm, *q_norm, *kv_norm, *post_norm;
  const char* qkv_a;  // [q_rank + kv_rank + rope, hidden]
  const char* q_b;    // [num_heads * (nope + rope), q_rank]
  const bf16* u_k;    // num_heads weights [kv_rank, nope], one after the other
  const bf16* u_v;    // num_heads weights [v_dim, kv_rank]
  const char* o;      // [hidden, num_heads * v_dim]
  const bf16* gate;   // [num_experts, hidden]
};

// The tokens of a step: chunk c has the rows [first_row[c], first_row[c + 1]), consecutive positions
// from start[c] on, and the block table tables[table_at[c]] to tables[table_at[c + 1]].
struct Step {
  int64_t num_tokens, num_chunks;
  int64_t block_size, num_blocks;  // of the cache
  const float *cos, *sin;     // [num_tokens, rope / 2]
  const float* query_scale;   // [num_tokens] softmax scale times temperature
  const int64_t* slots;       // [num_tokens] where each goes in the cache
  const int64_t *first_row, *start, *table_at, *tables;
  int64_t max_rank, num_changes;  // of adapters; 0: no token has one, and the rest is not read
  const int64_t* change_of;       // [num_tokens] index of the next, or -1
  const LayerChange* const* changes;  // by adapter, then by layer
};

// What a layer reads and writes besides.
struct Rows {
  bf16* residual;       // [num_tokens, hidden], in place
  bf16* cache;          // [num_blocks, block_size, kv_rank + rope] of this layer
  bf16* normed;         // [num_tokens, hidden] what the experts get
  int64_t* expert_ids;  // [num_tokens, top_k] ascending
  float* weights;       // [num_tokens, top_k]
  double* seconds;      // [3]: projections, attention over the cache, gate; added to
  int64_t layer;        // which; for `changes`
};

// From the residual to the gate's choice. Everything has been checked.
void layer_front(const Family& f, int num_threads, const Layer& l, const Step& s, const Rows& rows,
                 char* memory);

// x[t] += shared[t] + sum over k of weights[t][k] * rows[t][k], rounded once.
void combine_rows(const Family& f, int num_threads, const bf16* shared, const bf16* rows,
                  const float* weights, int64_t num_tokens, int64_t top_k, int64_t hidden, bf16* x);

}  // namespace galerne
