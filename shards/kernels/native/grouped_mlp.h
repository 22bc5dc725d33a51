// The experts' computation, shared by those who sort rows themselves and those who leave it to us.
#pragma once
#include "team.h"
#include "work.h"

namespace galerne {

struct Pair {  // an expert's weights
  const bf16 *gate_up, *down;
};

struct Groups {
  const bf16* x;
  int64_t hidden, width, num_groups;
  const int64_t* first;  // [num_groups + 1] rows
  bf16* active;          // [num_rows, width up to the next multiple of HALF]
  bf16* out;
};

// One member's part. `weights(g)` are those of a group, `token_of(r)` is the row's input, `place_of(r)`
// its output. Columns of `active` beyond the width become zero.
template <typename Weights, typename TokenOf, typename PlaceOf>
void grouped_mlp(const Family& f, Member& member, const Groups& groups, const Weights& weights,
                 const TokenOf& token_of, const PlaceOf& place_of) {
  const int64_t hidden = groups.hidden, num_groups = groups.num_groups;
  const int64_t* const first = groups.first;
  bf16* const active = groups.active;
  const int64_t up_blocks = (groups.width + HALF - 1) / HALF, down_blocks = num_superblocks(hidden);
  const int64_t inner = up_blocks * HALF;
  const auto up_block = [&](int64_t item) {
    item = std::min(item, num_groups * up_blocks - 1);
    return weights(item / up_blocks).gate_up + item % up_blocks * COLUMNS * hidden;
  };
  const auto down_block = [&](int64_t item) {
    item = std::min(item, num_groups * down_blocks - 1);
    return weights(item / down_blocks).down + item % down_blocks * COLUMNS * inner;
  };
  member.for_each_ahead(num_groups * up_blocks, [&](int64_t item, int64_t next) {
    const int64_t g = item / up_blocks, block = item % up_blocks;
    const bf16* after = next < num_groups * up_blocks ? up_block(next) : down_block(member.id);
    times_superblock(
        f, first[g + 1] - first[g],
        [&](int64_t r) { return groups.x + token_of(first[g] + r) * hidden; }, up_block(item), hidden, after, [&](int64_t r, const float* sums) {
          f.silu_mul(sums, active + (first[g] + r) * inner + block * HALF);
        });
  });
  member.for_each_ahead(num_groups * down_blocks, [&](int64_t item, int64_t next) {
    const int64_t g = item / down_blocks, column = item % down_blocks * COLUMNS;
    times_superblock(
        f, first[g + 1] - first[g], [&](int64_t r) { return active + (first[g] + r) * inner; },
        down_block(item), inner, down_block(next), [&](int64_t r, const float* sums) {
          bf16* to = groups.out + place_of(first[g] + r) * hidden + column;
          store_rounded(f, sums, to, hidden - column);
        });
  });
}

// Slots by expert, in order within an expert: slot[first[g]] to slot[first[g + 1] - 1] are those of
// expert group[g]. Returns the number of groups. `first` and `group` have room for
// num_experts + 1.
static inline int64_t sort_slots(const int64_t* expert_ids, int64_t num_slots, int64_t num_experts,
                                 int64_t* first, int64_t* group, int64_t* slot) {
  int64_t* place = group;  // of the expert's next slot, until it becomes the list of groups
  std::fill_n(place, num_experts + 1, 0);
  for (int64_t i = 0; i < num_slots; ++i) ++place[expert_ids[i] + 1];
  for (int64_t e = 0; e < num_experts; ++e) place[e + 1] += place[e];
  for (int64_t i = 0; i < num_slots; ++i) slot[place[expert_ids[i]]++] = i;
  int64_t num_groups = 0, start = 0;
  for (int64_t e = 0; e < num_experts; ++e) {
    const int64_t end = place[e];  // by now
    if (end == start) continue;
    first[num_groups] = start;
    group[num_groups++] = e;
    start = end;
  }
  first[num_groups] = start;
  return num_groups;
}

struct Experts {  // by id; null where there is none
  const bf16* const* gate_up;
  const bf16* const* down;
  int64_t num_experts, width;
};

struct Routed {
  const bf16* x;  // [num_tokens, hidden]
  int64_t num_tokens, hidden;
  const int64_t* expert_ids;  // [num_tokens, top_k]
  int64_t top_k;
  Experts experts;
};

static inline bool has_experts(const Routed& r) {
  for (int64_t i = 0; i < r.num_tokens * r.top_k; ++i) {
    const int64_t e = r.expert_ids[i];
    if (e < 0 || e >= r.experts.num_experts || !r.experts.gate_up[e] || !r.experts.down[e])
      return false;
  }
  return true;
}

// out[t * top_k + k] of every token's every expert. Scratch: `places` of 2 * (num_experts + 1) +
// num_tokens * top_k, `active` of a row (see Groups) for each of those tokens' choices.
static inline void routed_mlp(const Family& f, int num_threads, const Routed& r, int64_t* places,
                              bf16* active, bf16* out) {
  const Experts& e = r.experts;
  int64_t *first = places, *group = first + e.num_experts + 1, *slot = group + e.num_experts + 1;
  const int64_t num_groups =
      sort_slots(r.expert_ids, r.num_tokens * r.top_k, e.num_experts, first, group, slot);
  const auto weights = [&](int64_t g) { return Pair{e.gate_up[group[g]], e.down[group[g]]}; };
  in_team(num_threads, [&](Member& member) {
    grouped_mlp(f, member, {r.x, r.hidden, e.width, num_groups, first, active, out}, weights,
                [&](int64_t i) { return slot[i] / r.top_k; }, [&](int64_t i) { return slot[i]; });
  });
}

}  // namespace galerne
