// From one row's logits to a token, bit for bit as router/engine's draw.py and filters.py define it:
// IEEE operations in a written-down order, so that all families and numpy agree. Each family
// compiles this with its own flags.
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>

#include "fixed_math.h"
#include "noise.h"
#include "ranking.h"

namespace galerne {

constexpr float SLACK = 1e-3f;  // more than the rounding errors of an upper bound
constexpr float NO_SCORE = -HUGE_VALF;

// Plain loops: the compiler makes better code of them than of vectors wider than the machine's.

// Whether one of a block is at least as large.
static inline bool any_from(const float* block, float limit) {
  int32_t any = 0;
  for (int i = 0; i < SAMPLE_BLOCK; ++i) any |= block[i] >= limit;
  return any != 0;
}

// The largest of n; what is not a number if one is not.
static inline float largest_of(const float* x, int64_t n) {
  float tops[SAMPLE_BLOCK];
  uint32_t odd[SAMPLE_BLOCK] = {};
  const auto look = [&](int lane, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    tops[lane] = value > tops[lane] ? value : tops[lane];
    odd[lane] |= 0x7f800000u - (bits & 0x7fffffffu);  // its first bit, if this is no number
  };
  std::fill(tops, tops + SAMPLE_BLOCK, NO_SCORE);
  int64_t i = 0;
  for (; i + SAMPLE_BLOCK <= n; i += SAMPLE_BLOCK)
    for (int j = 0; j < SAMPLE_BLOCK; ++j) look(j, x[i + j]);
  for (; i < n; ++i) look(0, x[i]);
  for (int j = 1; j < SAMPLE_BLOCK; ++j) look(0, tops[j]), odd[0] |= odd[j];
  return odd[0] >> 31 ? NAN : tops[0];
}

static inline float largest_of_block(const float* block) {
  float tops[SAMPLE_BLOCK];
  std::copy(block, block + SAMPLE_BLOCK, tops);
  for (int half = SAMPLE_BLOCK / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) tops[i] = tops[i + half] > tops[i] ? tops[i + half] : tops[i];
  return tops[0];
}

// The first of n that is `value`, the largest.
static inline int64_t first_of(const float* x, int64_t n, float value) {
  int64_t i = 0;
  while (i + SAMPLE_BLOCK <= n && !any_from(x + i, value)) i += SAMPLE_BLOCK;
  while (x[i] != value) ++i;
  return i;
}

// The token with the largest score plus noise, the lowest of equal ones. `best` is one with score 0.
static int64_t draw(const SampledRow& row, const float* scores, int64_t n, int64_t best) {
  alignas(64) uint32_t bits[SAMPLE_BLOCK];
  alignas(64) float bound[SAMPLE_BLOCK];
  random_bits(row, best / SAMPLE_BLOCK, bits);
  float most = scores[best] + gumbel(bits[best % SAMPLE_BLOCK]);
  for (int64_t block = 0; block * SAMPLE_BLOCK < n; ++block) {
    const float* s = scores + block * SAMPLE_BLOCK;
    if (!any_from(s, most - MAX_NOISE - SLACK)) continue;
    random_bits(row, block, bits);
    for (int i = 0; i < SAMPLE_BLOCK; i += LANES16)
      store(bound + i, load<f32x16>(s + i) + noise_bound(bits + i));
    if (!any_from(bound, most - SLACK)) continue;
    for (int i = 0; i < SAMPLE_BLOCK; ++i) {
      if (!(bound[i] >= most - SLACK)) continue;
      const float key = s[i] + gumbel(bits[i]);
      const int64_t id = block * SAMPLE_BLOCK + i;
      if (key > most || (key == most && id < best)) most = key, best = id;
    }
  }
  return best;
}

// Keys of the scores from `lowest` up, their ids ascending; returns how many.
static int64_t keys_from(const float* scores, int64_t n, float lowest, RankKey* keys) {
  int64_t count = 0;
  for (int64_t first = 0; first < n; first += SAMPLE_BLOCK) {
    if (!any_from(scores + first, lowest)) continue;
    for (int64_t i = first; i < std::min(n, first + SAMPLE_BLOCK); ++i)
      if (scores[i] >= lowest) keys[count++] = rank_key(scores[i], i);
  }
  return count;
}

// The first `limit` of n scores in the order.
static RankKey* best_keys(const SampleMemory& memory, int64_t n, int64_t limit) {
  const int64_t num_blocks = sample_length(n) / SAMPLE_BLOCK;
  float lowest = NO_SCORE;
  if (limit <= num_blocks) {  // so many blocks have a score that is no lower
    float* tops = reinterpret_cast<float*>(memory.other);
    for (int64_t b = 0; b < num_blocks; ++b)
      tops[b] = largest_of_block(memory.scores + b * SAMPLE_BLOCK);
    std::nth_element(tops, tops + limit - 1, tops + num_blocks, std::greater<float>());
    lowest = tops[limit - 1];
  }
  const int64_t count = keys_from(memory.scores, n, lowest, memory.keys);
  return sort_keys(memory.keys, count, memory.other);
}

// How many of n keys in order, whose ids have these scores, reach `target` together; all if they
// do not. `has_reached` says which.
static int64_t prefix_of(const float* scores, const RankKey* keys, int64_t n, float target,
                         bool* has_reached) {
  float reached = 0.0f;
  alignas(64) float part[LANES16];
  *has_reached = true;
  for (int64_t i = 0; i < n; i += LANES16) {
    const int count = static_cast<int>(std::min<int64_t>(LANES16, n - i));
    for (int j = 0; j < count; ++j) part[j] = scores[id_of(keys[i + j])];
    for (int j = count; j < LANES16; ++j) part[j] = NO_SCORE;
    const f32x16 weights = fixed_exp16(load<f32x16>(part));
    for (int j = 0; j < count; ++j) {
      reached = i + j == 0 ? weights[0] : reached + weights[j];
      if (reached >= target) return i + j + 1;
    }
  }
  *has_reached = false;
  return n;
}

// Keys of the shortest prefix of the order whose weight is `top_p` of all; its length in `kept`.
static RankKey* nucleus(const SampleMemory& memory, int64_t n, float top_p, int64_t* kept) {
  constexpr float REACHES[] = {4.0f, 10.0f, HUGE_VALF};
  const float* scores = memory.scores;
  const float target = top_p * fixed_sum_of_exp(scores, n);
  RankKey* order = memory.keys;
  for (const float reach : REACHES) {
    const int64_t count = keys_from(scores, n, -reach, memory.keys);
    order = sort_keys(memory.keys, count, memory.other);
    bool has_reached;
    *kept = prefix_of(scores, order, count, target, &has_reached);
    if (has_reached) break;
  }
  return order;
}

// Sums of exp of what is in `order` only, as if all other weights were 0.
static float sum_of_kept(const float* scores, const RankKey* order, int64_t n, RankKey* by_id) {
  std::copy(order, order + n, by_id);
  std::sort(by_id, by_id + n, [](RankKey a, RankKey b) { return id_of(a) < id_of(b); });
  float lanes[SUM_LANES] = {};
  for (int64_t i = 0; i < n; ++i) {
    const int64_t id = id_of(by_id[i]);
    lanes[id % SUM_LANES] += fixed_exp16(fill(scores[id]))[0];
  }
  return sum_in_order(lanes);
}

// Scores that no filter keeps become -inf: top-k, then top-p, then min-p.
static void filter(const SampledRow& row, const SampleMemory& memory, int64_t n) {
  float* scores = memory.scores;
  const bool has_top_k = row.top_k > 0 && row.top_k < n, has_top_p = row.top_p < 1.0;
  if (has_top_k || has_top_p) {
    const float top_p = static_cast<float>(row.top_p);
    int64_t kept = row.top_k;
    RankKey* order;
    if (has_top_k) {
      order = best_keys(memory, n, kept);
      if (has_top_p) {
        RankKey* room = order == memory.keys ? memory.other : memory.keys;
        const float target = top_p * sum_of_kept(scores, order, kept, room);
        bool has_reached;
        kept = prefix_of(scores, order, kept, target, &has_reached);
      }
    } else {
      order = nucleus(memory, n, top_p, &kept);
    }
    // What comes last in the order is the lowest that stays.
    const int64_t last = id_of(order[kept - 1]);
    const float lowest = scores[last];
    for (int64_t i = 0; i < n; ++i)
      if (scores[i] < lowest || (scores[i] == lowest && i > last)) scores[i] = NO_SCORE;
  }
  for (int64_t i = 0; i < n; ++i)
    if (scores[i] < row.floor) scores[i] = NO_SCORE;
}

// The row's logits with its edits, which are made in `room`.
static const float* edited(const SampledRow& row, int64_t n, float* room) {
  const float* logits = row.logits;
  if (row.allowed) {
    for (int64_t i = 0; i < n; ++i) room[i] = row.allowed[i] ? logits[i] : NO_SCORE;
  } else if (row.num_edits) {
    std::copy(logits, logits + n, room);
  } else {
    return logits;
  }
  for (int64_t i = 0; i < row.num_edits; ++i)
    if (row.edit_ids[i] >= 0 && row.edit_ids[i] < n) room[row.edit_ids[i]] = row.edit_values[i];
  return room;
}

static void sample(SampledRow& row, int64_t n, const SampleMemory& memory) {
  const float* logits = edited(row, n, memory.scores);
  const float top = largest_of(logits, n);
  row.largest = logits == row.logits || !std::isfinite(top) ? top : largest_of(row.logits, n);
  row.token = -1;
  if (!std::isfinite(row.largest)) return;
  const int64_t best = first_of(logits, n, top);
  row.token = static_cast<int32_t>(best);
  if (!(row.temperature > 0.0f)) return;
  float* scores = memory.scores;
  for (int64_t i = 0; i < n; ++i) scores[i] = (logits[i] - top) / row.temperature;
  for (int64_t i = n; i < sample_length(n); ++i) scores[i] = NO_SCORE;
  filter(row, memory, n);
  row.token = static_cast<int32_t>(draw(row, scores, n, best));
}

// Log softmax, as router/engine/logprobs.py has it.
static void judge(JudgedRow& row, int64_t n, const SampleMemory& memory) {
  float* values = memory.scores;
  const float largest = largest_of(row.logits, n);
  for (int64_t i = 0; i < n; ++i) values[i] = row.logits[i] - largest;
  for (int64_t i = n; i < sample_length(n); ++i) values[i] = NO_SCORE;
  const float total = static_cast<float>(fixed_log(fixed_sum_of_exp(values, n)));
  for (int64_t i = 0; i < n; ++i) values[i] -= total;
  row.logprob = values[row.token];
  if (row.num_best == 0) return;
  const RankKey* order = best_keys(memory, n, row.num_best);
  for (int32_t i = 0; i < row.num_best; ++i) {
    row.best_ids[i] = static_cast<int32_t>(id_of(order[i]));
    row.best_logprobs[i] = values[id_of(order[i])];
  }
}

static const SamplingOps SAMPLING_OPS = {sample, judge};

}  // namespace galerne
