// The shard's loop over its rings: plain frames are computed from ring to ring, everything else is
// left where it is for the shard's own code.
#include <algorithm>

#include "grouped_mlp.h"
#include "ring.h"

using namespace galerne;

namespace {

constexpr uint32_t BF16_ROWS = 1;  // DType.BF16 of frame.py

struct ServedLink {
  End *requests, *replies;
  Bell* bell;  // the gateway's
};

// Filled in by serve.py, field by field.
struct Served {
  int64_t family, num_threads, hidden, num_layers, num_links, num_epochs, memory_bytes;
  const Experts* layers;
  const ServedLink* links;
  const uint64_t* epochs;
  char* memory;
  Bell* bell;
  int64_t* expert_rows;       // [num_layers, num_experts]; as the next two, added to
  int64_t* totals;            // [4] frames, rows, nanoseconds computed, and waited
  int64_t* passes;            // [num_bounds + 1] by how long they took
  int64_t* waits;             // [num_bounds + 1] by how long the frame lay in its ring before
  const int64_t* bounds;      // [num_bounds] nanoseconds, ascending
  int64_t num_bounds, num_experts;
  int64_t memory_wanted;      // what a frame needed that found too little
};

// Indices of a frame and what is made of them, in `memory`.
struct Plan {
  Plan(const Record& r, char* memory)
      : row_token(reinterpret_cast<int64_t*>(memory)),
        first(row_token + r.num_rows),
        expert(first + r.num_groups + 1),
        mlp(memory + aligned(8 * (r.num_rows + 2 * static_cast<int64_t>(r.num_groups) + 1))) {}

  int64_t *row_token, *first, *expert;
  char* mlp;
};

// Copies the indices out of the shared memory; whether they say what can be computed.
bool read_plan(const Record& r, const Record* shared, const Experts& experts, const Plan& plan) {
  // Every number is read once: the sender may change it between a check and its use.
  const volatile uint32_t* const ids = reinterpret_cast<const volatile uint32_t*>(shared + 1);
  const volatile uint32_t *counts = ids + r.num_groups, *tokens = counts + r.num_groups;
  plan.first[0] = 0;
  for (int64_t g = 0; g < r.num_groups; ++g) {
    const int64_t e = plan.expert[g] = ids[g];
    if (e >= experts.num_experts || !experts.gate_up[e] || !experts.down[e]) return false;
    plan.first[g + 1] = plan.first[g] + counts[g];
  }
  for (int64_t i = 0; i < r.num_rows; ++i)
    if ((plan.row_token[i] = tokens[i]) >= r.num_tokens) return false;
  return plan.first[r.num_groups] == r.num_rows;
}

bool is_served(const Served& s, uint64_t epoch) {
  return std::find(s.epochs, s.epochs + s.num_epochs, epoch) != s.epochs + s.num_epochs;
}

// Whether the frame was computed and answered.
bool serve(Served& s, const ServedLink& link, const Record* shared, int64_t bytes) {
  Record r;
  std::memcpy(&r, shared, sizeof r);
  std::atomic_signal_fence(std::memory_order_seq_cst);  // from here on, what was copied counts
  const Family* const f = family_of(static_cast<int32_t>(s.family));
  if (!f || r.kind != FRAME || r.dtype != BF16_ROWS || r.hidden != s.hidden ||
      r.layer >= s.num_layers || !r.num_rows || !is_served(s, r.epoch))
    return false;
  const Experts& experts = s.layers[r.layer];
  if (!has_format(experts.format)) return false;
  const Format& format = *f->formats[experts.format];
  const int64_t data = rows_at(r.num_groups, r.num_rows), row_bytes = s.hidden * sizeof(bf16);
  if (data + r.num_tokens * row_bytes > bytes) return false;
  const Plan plan(r, s.memory);
  const MlpScratch scratch(format, r.num_tokens, r.num_rows, s.hidden, experts.width, 0, plan.mlp);
  s.memory_wanted = plan.mlp - s.memory + scratch.num_bytes;
  if (s.memory_wanted > s.memory_bytes || !read_plan(r, shared, experts, plan)) return false;
  const int64_t reply_bytes = aligned(sizeof(Record) + r.num_rows * row_bytes);
  char* const reply = reserve(*link.replies, reply_bytes);
  if (!reply) return false;

  const int64_t started = clock_ns();
  const uint32_t started_us = static_cast<uint32_t>(started / 1000);
  const uint32_t waited_us = started_us - r.written_us;
  const bf16* const x =
      reinterpret_cast<const bf16*>(reinterpret_cast<const char*>(shared) + data);
  bf16* const out = reinterpret_cast<bf16*>(reply + sizeof(Record));
  const auto weights = [&](int64_t g) {
    return Pair{static_cast<const char*>(experts.gate_up[plan.expert[g]]),
                static_cast<const char*>(experts.down[plan.expert[g]])};
  };
  in_team(static_cast<int>(s.num_threads), [&](Member& member) {
    grouped_mlp(*f, format, member,
                {x, r.num_tokens, s.hidden, experts.width, r.num_groups, plan.first, plan.mlp, out},
                weights, [&](int64_t g) { return plan.expert[g]; },
                [&](int64_t i) { return plan.row_token[i]; },
                [](int64_t i) { return i; });
  });
  Record header = r;
  header.bytes = static_cast<uint32_t>(reply_bytes);
  header.kind = FRAME;
  header.written_us = clock_us();
  header.num_tokens = waited_us;
  header.num_groups = header.written_us - started_us;
  std::memcpy(reply, &header, sizeof header);
  link.requests->position += bytes;
  release(*link.requests);  // first: whoever has all answers finds an empty ring
  publish(*link.replies, reply_bytes);
  ring(*link.bell, 1);

  const int64_t ns = clock_ns() - started;
  for (int64_t g = 0; g < r.num_groups; ++g)
    s.expert_rows[r.layer * s.num_experts + plan.expert[g]] += plan.first[g + 1] - plan.first[g];
  s.totals[0] += 1;
  s.totals[1] += r.num_rows;
  s.totals[2] += ns;
  const int64_t waited = int64_t{waited_us} * 1000;
  s.totals[3] += waited;
  const auto bucket = [&](int64_t of) {
    return std::lower_bound(s.bounds, s.bounds + s.num_bounds, of) - s.bounds;
  };
  s.passes[bucket(ns)] += 1;
  s.waits[bucket(waited)] += 1;
  return true;
}

}  // namespace

// Computes what comes. Returns 1 when a frame is there that wants more than that, or frames of
// several links, which are better computed together; 0 when the bell was rung urgently since its
// count was `seen`, or nothing came for the time given.
extern "C" __attribute__((visibility("default"))) int32_t galerne_serve_rings(Served* s,
                                                                              uint32_t seen,
                                                                              int64_t timeout_ns) {
  for (;;) {
    const uint32_t count = s->bell->count.load();
    if (is_due(count, seen + URGENT)) return 0;
    const ServedLink* link = nullptr;
    const Record *record, *found = nullptr;
    int64_t bytes = 0;
    for (int64_t i = 0; i < s->num_links; ++i) {
      const int64_t there = find(*s->links[i].requests, &record);
      if (there < 0 || (there > 0 && link)) return 1;
      if (there > 0) link = &s->links[i], found = record, bytes = there;
    }
    if (link) {
      if (!serve(*s, *link, found, bytes)) return 1;
      continue;
    }
    wait_for(*s->bell, count + 1, timeout_ns);
    if (s->bell->count.load() == count) return 0;
  }
}
