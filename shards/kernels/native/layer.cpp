// A decoder layer from the residual to what the experts need, in one call: each phase is shared out
// by rows or by superblocks, never by inputs.
#include "attention.h"
#include "clock.h"
#include "scalar.h"
#include "team.h"

#define GALERNE_API __attribute__((visibility("default")))

using namespace galerne;

namespace {

bool has_sizes(const Layer& l, const Step& s) {
  return l.hidden >= 2 && l.hidden % 2 == 0 && l.num_heads >= 1 && l.q_rank >= 2 &&
         l.q_rank % 2 == 0 && l.kv_rank >= 2 && l.kv_rank % 2 == 0 && l.nope >= 2 &&
         l.nope % 2 == 0 && l.rope >= 2 && l.rope % 2 == 0 && l.v_dim >= 2 && l.v_dim % 2 == 0 &&
         l.top_k >= 1 && l.top_k <= 16 && l.num_experts >= l.top_k && l.dense_format >= 0 &&
         l.dense_format < NUM_FORMATS && s.block_size >= 1 &&
         s.num_blocks >= 1 && s.num_tokens >= 1 && s.num_chunks >= 1 &&
         has_changes(s.max_rank, s.num_changes, s.change_of, s.num_tokens);
}

bool has_places(const Step& s) {
  for (int64_t t = 0; t < s.num_tokens; ++t)
    if (s.slots[t] < 0 || s.slots[t] >= s.num_blocks * s.block_size) return false;
  if (s.first_row[0] != 0 || s.first_row[s.num_chunks] != s.num_tokens) return false;
  for (int64_t c = 0; c < s.num_chunks; ++c) {
    const int64_t count = s.first_row[c + 1] - s.first_row[c];
    const int64_t num_blocks = s.table_at[c + 1] - s.table_at[c];
    if (count < 1 || s.start[c] < 0 || s.start[c] > num_blocks * s.block_size - count) return false;
    for (int64_t i = s.table_at[c]; i < s.table_at[c + 1]; ++i)
      if (s.tables[i] < 0 || s.tables[i] >= s.num_blocks) return false;
  }
  return true;
}

// Pairs (even, odd) turned by the token's angles.
template <typename Read, typename Write>
void rotate(const Step& s, int64_t token, int64_t rope, const Read& read, const Write& write) {
  const float *cos = s.cos + token * (rope / 2), *sin = s.sin + token * (rope / 2);
  for (int64_t i = 0; i < rope / 2; ++i) {
    const float even = read(2 * i), odd = read(2 * i + 1);
    write(2 * i, even * cos[i] - odd * sin[i]);
    write(2 * i + 1, odd * cos[i] + even * sin[i]);
  }
}

// One call's work: what a phase does of one token, or of one superblock for all tokens.
struct Front {
  const Family& f;
  const Layer& l;
  const Step& s;
  const Rows& rows;
  Scratch& scratch;
  const int64_t latent = l.kv_rank + l.rope;
  const int64_t head_dim = l.nope + l.rope;
  const Format& format = *f.formats[BF16];
  const Format& dense = *f.formats[l.dense_format];

  enum Low { QKV_A, Q_B, O };  // places of reduced rows

  // What the token's adapter changes of this layer, if it has one.
  const LayerChange* change_of(int64_t t) const {
    if (!s.max_rank || s.change_of[t] < 0) return nullptr;
    return s.changes[s.change_of[t]] + rows.layer;
  }

  float* low(int64_t t, int64_t place) const {
    return scratch.low_rank + (t * (NUM_LOW + l.num_heads) + place) * s.max_rank;
  }
  float* low_of_head(int64_t t, int64_t head) const { return low(t, NUM_LOW + head); }

  void reduce_row(int64_t t, LowRank LayerChange::*which, const bf16* x, int64_t k, Low place) {
    if (const LayerChange* c = change_of(t)) reduce(f, c->*which, x, k, low(t, place));
  }

  // The rows of kv_b that make keys, then those that make values, of a head.
  int64_t kv_row(int64_t head) const { return head * (l.nope + l.v_dim); }

  // W_uk' = W_uk + B_uk A: a head's query goes through B first.
  void reduce_queries(int64_t t) {
    const LayerChange* c = change_of(t);
    if (!c) return;
    LowRank through_out = c->kv_b;
    through_out.in_stride = through_out.out_stride;
    for (int64_t head = 0; head < l.num_heads; ++head) {
      through_out.in = c->kv_b.out + kv_row(head);
      reduce(f, through_out, scratch.q_b + (t * l.num_heads + head) * head_dim, l.nope,
             low_of_head(t, head));
    }
  }

  void reduce_mixed(int64_t t) {
    const LayerChange* c = change_of(t);
    if (!c) return;
    for (int64_t head = 0; head < l.num_heads; ++head)
      reduce(f, c->kv_b, scratch.mixed + (t * l.num_heads + head) * scratch.dims, l.kv_rank,
             low_of_head(t, head));
  }

  // Rows for a dense weight: `encode` fills them in, token by token, where the format wants that.
  void encode(const bf16* in, int64_t k, int64_t t) {
    if (const int64_t bytes = dense.row_bytes(k))
      dense.encode(in + t * k, k, scratch.encoded + t * bytes);
  }

  // A superblock of a dense weight.
  template <typename Use>
  void dense_block(const bf16* in, int64_t k, const char* weight, int64_t block, int64_t next,
                   const Use& use) {
    const int64_t row_bytes = dense.row_bytes(k), block_bytes = dense.block_bytes(k);
    const auto row = [&](int64_t t) -> const void* {
      if (!row_bytes) return in + t * k;
      return scratch.encoded + t * row_bytes;
    };
    times_superblock(dense, s.num_tokens, row, weight + block * block_bytes, k,
                     weight + next * block_bytes, use);
  }

  void block_of(const bf16* in, int64_t k, const char* weight, int64_t block, int64_t next, bf16* to,
                int64_t n, LowRank LayerChange::*which, Low place) {
    dense_block(in, k, weight, block, next, [&](int64_t t, float* sums) {
      if (const LayerChange* c = change_of(t))
        expand(f, c->*which, low(t, place), block * COLUMNS, COLUMNS, sums);
      store_rounded(f, sums, to + t * n + block * COLUMNS, n - block * COLUMNS);
    });
  }

  // The latent of a token: normed and turned, to the cache; the query's low rank, normed.
  void norm_and_store(int64_t t) {
    const bf16* row = scratch.qkv_a + t * (l.q_rank + latent);
    f.rows->rms_norm(row, l.q_norm, l.q_rank, l.eps, scratch.q_a + t * l.q_rank);
    encode(scratch.q_a, l.q_rank, t);
    reduce_row(t, &LayerChange::q_b, scratch.q_a + t * l.q_rank, l.q_rank, Q_B);
    bf16* to = rows.cache + s.slots[t] * latent;
    f.rows->rms_norm(row + l.q_rank, l.kv_norm, l.kv_rank, l.eps, to);
    const bf16* turned = row + l.q_rank + l.kv_rank;
    rotate(
        s, t, l.rope, [&](int64_t i) { return widen(turned[i]); },
        [&](int64_t i, float value) { to[l.kv_rank + i] = narrow(value); });
    // What is not finite would outlive its sequence: weight 0 times NaN is NaN.
    for (int64_t i = 0; i < latent; ++i)
      if ((to[i] & 0x7f80) == 0x7f80) to[i] = 0;
  }

  // Superblocks of U_k: a head's queries in the space of the latents, scaled for the softmax.
  void absorb(int64_t item, int64_t next) {
    const int64_t blocks = num_superblocks(l.kv_rank);
    const int64_t head = item / blocks, block = item % blocks;
    times_superblock(
        format, s.num_tokens,
        [&](int64_t t) { return scratch.q_b + (t * l.num_heads + head) * head_dim; },
        l.u_k + item * COLUMNS * l.nope, l.nope, l.u_k + next * COLUMNS * l.nope,
        [&](int64_t t, float* sums) {
          if (const LayerChange* c = change_of(t))
            f.rows->low_rank_out(low_of_head(t, head), c->kv_b.rank, c->kv_b.in + block * COLUMNS,
                                 c->kv_b.in_stride, COLUMNS, sums);
          alignas(64) float scaled[COLUMNS];
          for (int i = 0; i < COLUMNS; ++i) scaled[i] = sums[i] * s.query_scale[t];
          store_rounded(f, scaled, query(t, head) + block * COLUMNS, l.kv_rank - block * COLUMNS);
        });
  }

  void turn_queries(int64_t t) {
    for (int64_t head = 0; head < l.num_heads; ++head) {
      const bf16* from = scratch.q_b + (t * l.num_heads + head) * head_dim + l.nope;
      bf16* to = query(t, head) + l.kv_rank;
      rotate(
          s, t, l.rope, [&](int64_t i) { return widen(from[i]); },
          [&](int64_t i, float value) { to[i] = narrow(value * s.query_scale[t]); });
    }
  }

  bf16* query(int64_t t, int64_t head) const {
    return scratch.queries + (t * l.num_heads + head) * latent;
  }

  void expand_values(int64_t item, int64_t next) {
    const int64_t blocks = num_superblocks(l.v_dim);
    const int64_t head = item / blocks, block = item % blocks;
    times_superblock(
        format, s.num_tokens,
        [&](int64_t t) { return scratch.mixed + (t * l.num_heads + head) * scratch.dims; },
        l.u_v + item * COLUMNS * l.kv_rank, l.kv_rank, l.u_v + next * COLUMNS * l.kv_rank,
        [&](int64_t t, float* sums) {
          if (const LayerChange* c = change_of(t))
            expand(f, c->kv_b, low_of_head(t, head), kv_row(head) + l.nope + block * COLUMNS,
                   COLUMNS, sums);
          bf16* to = scratch.values + (t * l.num_heads + head) * l.v_dim;
          store_rounded(f, sums, to + block * COLUMNS, l.v_dim - block * COLUMNS);
        });
  }

  void add_output(int64_t block, int64_t next) {
    const int64_t k = l.num_heads * l.v_dim, first = block * COLUMNS;
    const int64_t here = std::min<int64_t>(COLUMNS, l.hidden - first);
    dense_block(scratch.values, k, l.o, block, next, [&](int64_t t, float* sums) {
      if (const LayerChange* c = change_of(t)) expand(f, c->o, low(t, O), first, COLUMNS, sums);
      const int64_t at = t * l.hidden + first;
      alignas(64) float total[COLUMNS] = {};
      for (int64_t i = 0; i < here; ++i) total[i] = widen(rows.residual[at + i]) + sums[i];
      store_rounded(f, total, rows.residual + at, here);
    });
  }

  void score_experts(int64_t block, int64_t next) {
    const int64_t stride = num_superblocks(l.num_experts) * COLUMNS;
    times_superblock(
        format, s.num_tokens, [&](int64_t t) { return rows.normed + t * l.hidden; },
        l.gate + block * COLUMNS * l.hidden, l.hidden, l.gate + next * COLUMNS * l.hidden, [&](int64_t t, const float* sums) {
          std::memcpy(scratch.logits + t * stride + block * COLUMNS, sums, COLUMNS * sizeof(float));
        });
  }

  // The best top_k by (-score, id), then by ascending id; softmax over them.
  void choose(int64_t t) {
    const float* scores = scratch.logits + t * num_superblocks(l.num_experts) * COLUMNS;
    int64_t best[16], count = 0;
    for (int64_t e = 0; e < l.num_experts; ++e) {
      if (count == l.top_k && !(scores[e] > scores[best[count - 1]])) continue;
      int64_t at = count < l.top_k ? count++ : count - 1;
      for (; at > 0 && scores[e] > scores[best[at - 1]]; --at) best[at] = best[at - 1];
      best[at] = e;
    }
    const float top = scores[best[0]];
    std::sort(best, best + count);
    float e[16], sum = 0.0f;
    for (int64_t k = 0; k < count; ++k) sum += e[k] = std::exp(scores[best[k]] - top);
    for (int64_t k = 0; k < count; ++k) {
      rows.expert_ids[t * l.top_k + k] = best[k];
      rows.weights[t * l.top_k + k] = e[k] / sum * static_cast<float>(l.routed_scale);
    }
  }
};

}  // namespace

void galerne::layer_front(const Family& f, int num_threads, const Layer& l, const Step& s,
                          const Rows& rows, char* memory) {
  const int64_t num_pieces = cut_pieces(l, s, nullptr), t_end = s.num_tokens;
  Scratch scratch(l, s, *f.formats[l.dense_format], num_pieces, num_threads, memory);
  cut_pieces(l, s, scratch.pieces);
  Front front{f, l, s, rows, scratch};
  const int64_t latent = l.kv_rank + l.rope, down = l.q_rank + latent;
  const int64_t up = l.num_heads * (l.nope + l.rope);
  double times[4] = {seconds_now()};
  in_team(num_threads, [&](Member& member) {
    const auto mark = [&](int i) {
      if (member.id == 0) times[i] = seconds_now();
    };
    member.for_each(t_end, [&](int64_t t) {
      f.rows->rms_norm(rows.residual + t * l.hidden, l.input_norm, l.hidden, l.eps,
                       scratch.normed + t * l.hidden);
      front.encode(scratch.normed, l.hidden, t);
      front.reduce_row(t, &LayerChange::qkv_a, scratch.normed + t * l.hidden, l.hidden,
                       Front::QKV_A);
    });
    member.for_each_ahead(num_superblocks(down), [&](int64_t i, int64_t next) {
      front.block_of(scratch.normed, l.hidden, l.qkv_a, i, next, scratch.qkv_a, down,
                     &LayerChange::qkv_a, Front::QKV_A);
    });
    member.for_each(t_end, [&](int64_t t) { front.norm_and_store(t); });
    member.for_each_ahead(num_superblocks(up), [&](int64_t i, int64_t next) {
      front.block_of(scratch.q_a, l.q_rank, l.q_b, i, next, scratch.q_b, up, &LayerChange::q_b,
                     Front::Q_B);
    });
    if (s.max_rank) member.for_each(t_end, [&](int64_t t) { front.reduce_queries(t); });
    const int64_t num_absorbs = l.num_heads * num_superblocks(l.kv_rank);
    member.for_each_ahead(num_absorbs + t_end, [&](int64_t i, int64_t next) {
      if (i < num_absorbs)
        front.absorb(i, std::min(next, num_absorbs));
      else
        front.turn_queries(i - num_absorbs);
    });
    mark(1);
    ThreadScratch& mine = scratch.threads[member.id];
    member.for_each(num_pieces,
                    [&](int64_t i) { attend_piece(f, l, s, rows.cache, scratch, i, mine); });
    if (num_pieces > s.num_chunks)  // some token may have several segments
      member.for_each(num_pieces,
                      [&](int64_t i) { join_segments(f, l, s, scratch, num_pieces, i, mine); });
    mark(2);
    if (s.max_rank) member.for_each(t_end, [&](int64_t t) { front.reduce_mixed(t); });
    member.for_each_ahead(l.num_heads * num_superblocks(l.v_dim),
                          [&](int64_t i, int64_t next) { front.expand_values(i, next); });
    if (l.dense_format != BF16 || s.max_rank)
      member.for_each(t_end, [&](int64_t t) {
        const int64_t k = l.num_heads * l.v_dim;
        front.encode(scratch.values, k, t);
        front.reduce_row(t, &LayerChange::o, scratch.values + t * k, k, Front::O);
      });
    member.for_each_ahead(num_superblocks(l.hidden),
                          [&](int64_t i, int64_t next) { front.add_output(i, next); });
    mark(3);
    member.for_each(t_end, [&](int64_t t) {
      f.rows->rms_norm(rows.residual + t * l.hidden, l.post_norm, l.hidden, l.eps,
                       rows.normed + t * l.hidden);
    });
    member.for_each_ahead(num_superblocks(l.num_experts),
                          [&](int64_t i, int64_t next) { front.score_experts(i, next); });
    member.for_each(t_end, [&](int64_t t) { front.choose(t); });
  });
  rows.seconds[0] += times[1] - times[0] + times[3] - times[2];
  rows.seconds[1] += times[2] - times[1];
  rows.seconds[2] += seconds_now() - times[3];
}

void galerne::combine_rows(const Family& f, int num_threads, const bf16* shared, const bf16* rows,
                           const float* weights, int64_t num_tokens, int64_t top_k, int64_t hidden,
                           bf16* x) {
  in_team(num_tokens > 3 ? num_threads : 1, [&](Member& member) {
    member.for_each(num_tokens, [&](int64_t t) {
      f.rows->combine(x + t * hidden, shared + t * hidden, rows + t * top_k * hidden,
                      weights + t * top_k, top_k, hidden, x + t * hidden);
    });
  });
}

extern "C" {

// Bytes of `memory` for galerne_layer_front; negative if sizes or places do not fit.
GALERNE_API int64_t galerne_layer_scratch(int32_t family, int32_t num_threads, const Layer* layer,
                                          const Step* step) {
  const Family* f = family_of(family);
  if (!f) return -BAD_FAMILY;
  if (num_threads < 1 || num_threads > MAX_THREADS || !has_sizes(*layer, *step))
    return -BAD_SIZE;
  if (!has_places(*step)) return -BAD_INDEX;
  const int64_t num_pieces = cut_pieces(*layer, *step, nullptr);
  const Format& dense = *f->formats[layer->dense_format];
  return Scratch(*layer, *step, dense, num_pieces, num_threads, nullptr).num_bytes();
}

// Norm, latent attention, residual, norm and gate of one layer. `memory` is as large as
// galerne_layer_scratch says, which has checked everything.
GALERNE_API int32_t galerne_layer_front(int32_t family, int32_t num_threads, const Layer* layer,
                                        const Step* step, const Rows* rows, char* memory) {
  const Family* f = family_of(family);
  if (!f) return BAD_FAMILY;
  if (num_threads < 1 || num_threads > MAX_THREADS) return BAD_SIZE;
  layer_front(*f, num_threads, *layer, *step, *rows, memory);
  return OK;
}

// x[t] += shared[t] + sum over k of weights[t][k] * rows[t][k], rounded once.
GALERNE_API int32_t galerne_combine(int32_t family, int32_t num_threads, const bf16* shared,
                                    const bf16* rows, const float* weights, int64_t num_tokens,
                                    int64_t top_k, int64_t hidden, bf16* x) {
  const Family* f = family_of(family);
  if (!f) return BAD_FAMILY;
  if (num_tokens < 0 || top_k < 0 || hidden < 1 || num_threads < 1) return BAD_SIZE;
  combine_rows(*f, num_threads, shared, rows, weights, num_tokens, top_k, hidden, x);
  return OK;
}

// out[t] = x[t], normed.
GALERNE_API int32_t galerne_rms_norm(int32_t family, const bf16* x, const float* weight,
                                     int64_t num_tokens, int64_t hidden, double eps, bf16* out) {
  const Family* f = family_of(family);
  if (!f) return BAD_FAMILY;
  if (num_tokens < 0 || hidden < 1) return BAD_SIZE;
  for (int64_t t = 0; t < num_tokens; ++t)
    f->rows->rms_norm(x + t * hidden, weight, hidden, static_cast<float>(eps), out + t * hidden);
  return OK;
}

}  // extern "C"
