// Where a layer's intermediate rows lie, in memory that the caller lends.
#pragma once
#include "layer.h"
#include "team.h"
#include "work.h"

namespace galerne {

// Query tokens that share the packing of a key block.
static inline int64_t tile_tokens(const Layer& l) { return std::max<int64_t>(1, 128 / l.num_heads); }

struct Piece {  // of the attention: some tokens of a chunk, over all keys or over one segment
  int64_t chunk, first, count, segment;
};

constexpr int NUM_LOW = 3;  // products of a layer that an adapter changes, but for those of the heads

// What one thread works in.
struct ThreadScratch {
  bf16 *keys, *values, *p;
  float *part, *segment, *total, *maxima;
};

class Scratch {
 public:
  // At most MAX_THREADS.
  Scratch(const Layer& l, const Step& s, const Format& dense, int64_t num_pieces, int num_threads,
          char* memory)
      : memory_(memory) {
    const int64_t t = s.num_tokens, heads = l.num_heads, latent = l.kv_rank + l.rope;
    dims = num_superblocks(l.kv_rank) * COLUMNS;
    const int64_t tile_rows = tile_tokens(l) * heads;
    take(normed, t * l.hidden);
    take(encoded, t * dense.row_bytes(std::max({l.hidden, l.q_rank, heads * l.v_dim})));
    take(qkv_a, t * (l.q_rank + latent));
    take(q_a, t * l.q_rank);
    take(q_b, t * heads * (l.nope + l.rope));
    take(queries, t * heads * latent);
    take(mixed, t * heads * dims);
    take(values, t * heads * l.v_dim);
    take(low_rank, t * (NUM_LOW + heads) * s.max_rank);
    take(logits, t * num_superblocks(l.num_experts) * COLUMNS);
    take(pieces, num_pieces);
    take(partial, num_pieces * heads * (dims + 2));
    for (int i = 0; i < num_threads; ++i) {
      ThreadScratch mine;
      take(mine.keys, KEY_BLOCK * latent);
      take(mine.values, KEY_BLOCK * dims);
      take(mine.p, MAX_ROWS * KEY_BLOCK);
      take(mine.part, MAX_ROWS * dims);
      take(mine.segment, tile_rows * dims);
      take(mine.total, tile_rows * dims);
      take(mine.maxima, tile_rows * 4);  // maximum and sum of segment, then of total
      threads[i] = mine;
    }
  }

  int64_t num_bytes() const { return used_; }

  int64_t dims;  // kv_rank, up to the next superblock
  char* encoded;  // what a dense weight multiplies, where its format wants that
  bf16 *normed, *qkv_a, *q_a, *q_b, *queries, *mixed, *values;
  float *logits, *partial;
  float* low_rank;  // [t, NUM_LOW + heads, max_rank]: what adapters have reduced a token's rows to
  Piece* pieces;
  ThreadScratch threads[MAX_THREADS];

 private:
  template <typename T>
  void take(T*& where, int64_t count) {
    where = reinterpret_cast<T*>(memory_ + used_);
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
  }

  char* memory_;
  int64_t used_ = 0;
};

}  // namespace galerne
