// The experts' computation, shared by those who sort rows themselves and those who leave it to us.
#pragma once
#include "low_rank.h"
#include "team.h"
#include "work.h"

namespace galerne {

inline bool has_format(int64_t format) { return format >= 0 && format < NUM_FORMATS; }

constexpr int64_t CLAIM_BYTES = 1 << 16;  // of weights that a thread takes on at once, if it can

struct Pair {  // an expert's weights
  const char *gate_up, *down;
};

struct Groups {
  const bf16* x;  // [num_tokens, hidden]
  int64_t num_tokens, hidden, width, num_groups;
  const int64_t* first;  // [num_groups + 1] rows
  char* memory;          // as MlpScratch says
  bf16* out;
  ExpertChanges changes{};
};

// Rows between the products: `inner` wide, and encoded where the format wants that.
struct MlpScratch {
  MlpScratch(const Format& format, int64_t num_tokens, int64_t num_rows, int64_t hidden,
             int64_t width, int64_t max_rank, char* memory)
      : inner((width + HALF - 1) / HALF * HALF),
        token_bytes(format.row_bytes(hidden)),
        row_bytes(format.row_bytes(inner)),
        active(reinterpret_cast<bf16*>(memory)),
        tokens(memory + (num_rows * inner * static_cast<int64_t>(sizeof(bf16)) + 63) / 64 * 64),
        rows(tokens + num_tokens * token_bytes),
        low_rank(reinterpret_cast<float*>(rows + (num_rows * row_bytes + 63) / 64 * 64)),
        num_bytes(reinterpret_cast<char*>(low_rank + num_rows * 2 * max_rank) - memory) {}

  const int64_t inner, token_bytes, row_bytes;
  bf16* const active;  // [num_rows, inner]; columns beyond the width become zero
  char *const tokens, *const rows;
  float* const low_rank;  // [num_rows, 2, max_rank]: of gate and up, then of down
  const int64_t num_bytes;
};

// One member's part. `weights(g)` are those of a group, `expert_of(g)` its expert's id; `token_of(r)`
// is the row's input, `place_of(r)` its output.
template <typename Weights, typename ExpertOf, typename TokenOf, typename PlaceOf>
void grouped_mlp(const Family& f, const Format& format, Member& member, const Groups& groups,
                 const Weights& weights, const ExpertOf& expert_of, const TokenOf& token_of,
                 const PlaceOf& place_of) {
  const int64_t hidden = groups.hidden, num_groups = groups.num_groups;
  const int64_t* const first = groups.first;
  const int64_t num_rows = first[num_groups];
  const ExpertChanges& changes = groups.changes;
  const MlpScratch scratch(format, groups.num_tokens, num_rows, hidden, groups.width,
                           changes.max_rank, groups.memory);
  const int64_t inner = scratch.inner;
  const int64_t up_blocks = inner / HALF, down_blocks = num_superblocks(hidden);
  const int64_t up_bytes = format.block_bytes(hidden), down_bytes = format.block_bytes(inner);
  // Small superblocks several at a time: to claim one costs as much as to read some kilobytes.
  const int64_t fair = num_groups * down_blocks / (4 * member.size());  // leaves all enough to do
  const int64_t span =
      std::max<int64_t>(1, std::min({CLAIM_BYTES / down_bytes, down_blocks, fair}));
  const int64_t spans = (down_blocks + span - 1) / span;
  const auto up_block = [&](int64_t item) {
    item = std::min(item, num_groups * up_blocks - 1);
    return weights(item / up_blocks).gate_up + item % up_blocks * up_bytes;
  };
  const auto down_block = [&](int64_t item) {
    item = std::min(item, num_groups * down_blocks - 1);
    return weights(item / down_blocks).down + item % down_blocks * down_bytes;
  };
  const auto token = [&](int64_t r) -> const void* {
    const int64_t t = token_of(r);
    if (!scratch.token_bytes) return groups.x + t * hidden;
    return scratch.tokens + t * scratch.token_bytes;
  };
  const auto active = [&](int64_t r) -> const void* {
    if (!scratch.row_bytes) return scratch.active + r * inner;
    return scratch.rows + r * scratch.row_bytes;
  };
  // What the row's adapter changes of group g's expert, if it has one.
  const auto change = [&](int64_t g, int64_t r) -> const ExpertChange* {
    if (!changes.max_rank) return nullptr;
    const int64_t index = changes.of[token_of(r)];
    if (index < 0 || !changes.tables[index]) return nullptr;
    return changes.tables[index] + expert_of(g);
  };
  const auto group_of = [&](int64_t r) {
    return std::upper_bound(first, first + num_groups + 1, r) - first - 1;
  };
  const auto low = [&](int64_t r, int64_t which) {
    return scratch.low_rank + (2 * r + which) * changes.max_rank;
  };
  if (changes.max_rank)
    member.for_each(num_rows, [&](int64_t r) {
      const ExpertChange* c = change(group_of(r), r);
      if (!c) return;
      const bf16* x = groups.x + token_of(r) * hidden;
      reduce(f, c->gate, x, hidden, low(r, 0));
      reduce(f, c->up, x, hidden, low(r, 1));
    });
  if (scratch.token_bytes)
    member.for_each(groups.num_tokens, [&](int64_t t) {
      format.encode(groups.x + t * hidden, hidden, scratch.tokens + t * scratch.token_bytes);
    });
  member.for_each_ahead(num_groups * up_blocks, [&](int64_t item, int64_t next) {
    const int64_t g = item / up_blocks, block = item % up_blocks;
    const char* after = next < num_groups * up_blocks ? up_block(next) : down_block(member.id * span);
    times_superblock(
        format, first[g + 1] - first[g], [&](int64_t r) { return token(first[g] + r); },
        up_block(item), hidden, after, [&](int64_t r, float* sums) {
          if (const ExpertChange* c = change(g, first[g] + r)) {
            expand(f, c->gate, low(first[g] + r, 0), block * HALF, HALF, sums);
            expand(f, c->up, low(first[g] + r, 1), block * HALF, HALF, sums + HALF);
          }
          f.silu_mul(sums, scratch.active + (first[g] + r) * inner + block * HALF);
        });
  });
  if (changes.max_rank)
    member.for_each(num_rows, [&](int64_t r) {
      if (const ExpertChange* c = change(group_of(r), r))
        reduce(f, c->down, scratch.active + r * inner, groups.width, low(r, 0));
    });
  if (scratch.row_bytes)
    member.for_each(num_rows, [&](int64_t r) {
      format.encode(scratch.active + r * inner, inner, scratch.rows + r * scratch.row_bytes);
    });
  const auto first_block = [&](int64_t item) {
    return item / spans * down_blocks + item % spans * span;
  };
  member.for_each_ahead(num_groups * spans, [&](int64_t item, int64_t next) {
    const int64_t g = item / spans, begin = first_block(item);
    const int64_t end = std::min(begin + span, (g + 1) * down_blocks);
    for (int64_t block = begin; block < end; ++block) {
      const int64_t column = block % down_blocks * COLUMNS;
      const char* const after = down_block(block + 1 < end ? block + 1 : first_block(next));
      times_superblock(
          format, first[g + 1] - first[g], [&](int64_t r) { return active(first[g] + r); },
          down_block(block), inner, after, [&](int64_t r, float* sums) {
            if (const ExpertChange* c = change(g, first[g] + r))
              expand(f, c->down, low(first[g] + r, 0), column, COLUMNS, sums);
            bf16* to = groups.out + place_of(first[g] + r) * hidden + column;
            store_rounded(f, sums, to, hidden - column);
          });
    }
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
  const void* const* gate_up;
  const void* const* down;
  int64_t num_experts, width, format;
};

struct Routed {
  const bf16* x;  // [num_tokens, hidden]
  int64_t num_tokens, hidden;
  const int64_t* expert_ids;  // [num_tokens, top_k]
  int64_t top_k;
  Experts experts;
  ExpertChanges changes{};
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
// num_tokens * top_k, `memory` as MlpScratch says.
static inline void routed_mlp(const Family& f, int num_threads, const Routed& r, int64_t* places,
                              char* memory, bf16* out) {
  const Experts& e = r.experts;
  int64_t *first = places, *group = first + e.num_experts + 1, *slot = group + e.num_experts + 1;
  const int64_t num_groups =
      sort_slots(r.expert_ids, r.num_tokens * r.top_k, e.num_experts, first, group, slot);
  const auto weights = [&](int64_t g) { 
    return Pair{static_cast<const char*>(e.gate_up[group[g]]),
                static_cast<const char*>(e.down[group[g]])};
  };
  in_team(num_threads, [&](Member& member) {
    grouped_mlp(f, *f.formats[e.format], member,
                {r.x, r.num_tokens, r.hidden, e.width, num_groups, first, memory, out, r.changes},
                weights, [&](int64_t g) { return group[g]; },
                [&](int64_t i) { return slot[i] / r.top_k; }, [&](int64_t i) { return slot[i]; });
  });
}

}  // namespace galerne
