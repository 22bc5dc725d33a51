// A whole exchange of a layer from the gateway's side: all frames of a call into the rings of its
// shards, and all answers out of them into their slots.
#include <algorithm>
#include <utility>

#include "ring.h"

#define GALERNE_API extern "C" __attribute__((visibility("default")))

using namespace galerne;

namespace {

// Filled in by calls.py, field by field. T tokens, K experts of each, E experts, S shards.
struct Call {
  int64_t num_tokens, top_k, num_experts, num_shards, row_budget;
  int64_t hidden, row_bytes, dtype;
  int64_t epoch, step, layer, micro_batch, first_frame;  // shard i gets frame first_frame + i
  const int64_t* owner;       // [E] the shard of every expert
  const int64_t* expert_ids;  // [T, K]
  const char* tokens;         // [T] rows
  End* const* requests;       // [S]
  End* const* replies;        // [S]
  Bell* const* bells;         // [S]
  Bell* bell;                 // ours
  int64_t* slots;             // [T * K] by owner, of one by expert
  int64_t* first;             // [S + 1] where the slots of a shard start
  int64_t* is_in;             // [S] 0, or once its answer is in: 1 + microseconds it has been here
  int64_t* times;             // [S] of whose answer is in: microseconds queued, and << 32 computed
  int64_t* memory;            // [S * 2 + E + T]
};

struct Frames {
  explicit Frames(const Call& c)
      : record(reinterpret_cast<char**>(c.memory)),
        bytes(c.memory + c.num_shards),
        place(bytes + c.num_shards),
        token(place + c.num_experts) {}

  char** record;   // [S]
  int64_t* bytes;  // [S]
  int64_t* place;  // [E]
  int64_t* token;  // [T] its place in the frame, or -1
};

bool sort_slots_by_owner(const Call& c, const Frames& frames) {
  const int64_t num_slots = c.num_tokens * c.top_k;
  std::fill_n(frames.place, c.num_experts, 0);
  for (int64_t i = 0; i < num_slots; ++i) {
    const int64_t e = c.expert_ids[i];
    if (e < 0 || e >= c.num_experts || c.owner[e] < 0 || c.owner[e] >= c.num_shards) return false;
    ++frames.place[e];
  }
  int64_t at = 0;
  for (int64_t s = 0; s < c.num_shards; ++s) {
    c.first[s] = at;
    for (int64_t e = 0; e < c.num_experts; ++e)
      if (c.owner[e] == s) at += std::exchange(frames.place[e], at);
  }
  c.first[c.num_shards] = at;
  for (int64_t i = 0; i < num_slots; ++i) c.slots[frames.place[c.expert_ids[i]]++] = i;
  return true;
}

// Marks the tokens of a shard's slots; their number, and that of the experts.
void count(const Call& c, const Frames& frames, int64_t shard, int64_t* num_tokens,
           int64_t* num_groups) {
  std::fill_n(frames.token, c.num_tokens, -1);
  *num_tokens = *num_groups = 0;
  for (int64_t i = c.first[shard], last = -1; i < c.first[shard + 1]; ++i) {
    const int64_t slot = c.slots[i], expert = c.expert_ids[slot];
    *num_groups += expert != last;
    last = expert;
    int64_t& token = frames.token[slot / c.top_k];
    *num_tokens += token < 0;
    token = 0;
  }
}

void write_frame(const Call& c, const Frames& frames, int64_t shard) {
  int64_t num_tokens, num_groups;
  count(c, frames, shard, &num_tokens, &num_groups);
  const int64_t num_rows = c.first[shard + 1] - c.first[shard];
  char* const record = frames.record[shard];
  Record header{};
  header.bytes = static_cast<uint32_t>(frames.bytes[shard]);
  header.kind = FRAME;
  header.frame = static_cast<uint32_t>(c.first_frame + shard);
  header.layer = static_cast<uint32_t>(c.layer);
  header.epoch = c.epoch;
  header.step = c.step;
  header.micro_batch = static_cast<uint32_t>(c.micro_batch);
  header.dtype = static_cast<uint32_t>(c.dtype);
  header.num_tokens = static_cast<uint32_t>(num_tokens);
  header.num_groups = static_cast<uint32_t>(num_groups);
  header.num_rows = static_cast<uint32_t>(num_rows);
  header.hidden = static_cast<uint32_t>(c.hidden);
  header.written_us = clock_us();
  std::memcpy(record, &header, sizeof header);
  char* to = record + rows_at(num_groups, num_rows);
  for (int64_t t = 0, place = 0; t < c.num_tokens; ++t) {
    if (frames.token[t] < 0) continue;
    frames.token[t] = place++;
    std::memcpy(to, c.tokens + t * c.row_bytes, c.row_bytes);
    to += c.row_bytes;
  }
  uint32_t* const experts = reinterpret_cast<uint32_t*>(record + sizeof header);
  uint32_t *const counts = experts + num_groups, *row_token = counts + num_groups;
  int64_t group = -1;
  for (int64_t i = c.first[shard], last = -1; i < c.first[shard + 1]; ++i) {
    const int64_t slot = c.slots[i], expert = c.expert_ids[slot];
    if (expert != last) {
      experts[++group] = static_cast<uint32_t>(expert);
      counts[group] = 0;
      last = expert;
    }
    ++counts[group];
    *row_token++ = static_cast<uint32_t>(frames.token[slot / c.top_k]);
  }
  reinterpret_cast<Record*>(record)->written_us = clock_us();
}

// Whether a record is the answer of this shard to this call.
bool is_answer(const Call& c, int64_t shard, const Record& r, int64_t bytes) {
  const int64_t num_rows = c.first[shard + 1] - c.first[shard];
  return r.frame == static_cast<uint32_t>(c.first_frame + shard) && r.num_rows == num_rows &&
         r.hidden == c.hidden && r.dtype == c.dtype &&
         static_cast<int64_t>(sizeof r) + num_rows * c.row_bytes <= bytes;
}

void take_answer(const Call& c, int64_t shard, const Record* record, int64_t bytes, char* out) {
  const char* from = reinterpret_cast<const char*>(record + 1);
  const uint32_t written_us = record->written_us;
  c.times[shard] = static_cast<int64_t>(record->num_tokens) |
                   static_cast<int64_t>(static_cast<uint64_t>(record->num_groups) << 32);
  for (int64_t i = c.first[shard]; i < c.first[shard + 1]; ++i, from += c.row_bytes)
    std::memcpy(out + c.slots[i] * c.row_bytes, from, c.row_bytes);
  End& replies = *c.replies[shard];
  replies.position += bytes;
  release(replies);
  c.is_in[shard] = 1 + static_cast<uint32_t>(clock_us() - written_us);
}

}  // namespace

// Sends the frames of a call, one to every shard that has slots of it. 1, or 0 if one of them finds
// no room, has more rows than the budget, or an expert has no owner: then nothing is sent. (A ring
// may have been skipped to its start; the next record there says so.)
GALERNE_API int32_t galerne_exchange_send(const Call* call) {
  const Call& c = *call;
  const Frames frames(c);
  if (!sort_slots_by_owner(c, frames)) return 0;
  for (int64_t s = 0; s < c.num_shards; ++s) {
    const int64_t num_rows = c.first[s + 1] - c.first[s];
    c.is_in[s] = num_rows == 0;
    if (!num_rows) continue;
    int64_t num_tokens, num_groups;
    count(c, frames, s, &num_tokens, &num_groups);
    frames.bytes[s] = aligned(rows_at(num_groups, num_rows) + num_tokens * c.row_bytes);
    frames.record[s] = reserve(*c.requests[s], frames.bytes[s]);
    if (!frames.record[s] || num_rows > c.row_budget) return 0;
  }
  for (int64_t s = 0; s < c.num_shards; ++s) {
    if (c.is_in[s]) continue;
    write_frame(c, frames, s);
    publish(*c.requests[s], frames.bytes[s]);
  }
  for (int64_t s = 0; s < c.num_shards; ++s)
    if (!c.is_in[s]) ring(*c.bells[s], 1);
  return 1;
}

// Puts the answers' rows into their slots of `out`. Returns 0 when all are in; 1 when something else
// is there, or the bell was rung urgently since its count was `seen`, or the time is over.
GALERNE_API int32_t galerne_exchange_collect(const Call* call, char* out, uint32_t seen,
                                             int64_t timeout_ns) {
  const Call& c = *call;
  const int64_t end = clock_ns() + timeout_ns;
  for (;;) {
    const uint32_t rung = c.bell->count.load();
    uint32_t num_missing = 0;
    for (int64_t s = 0; s < c.num_shards; ++s) {
      if (c.is_in[s]) continue;
      const Record* record;
      const int64_t bytes = find(*c.replies[s], &record);
      if (!bytes)
        ++num_missing;
      else if (bytes > 0 && is_answer(c, s, *record, bytes))
        take_answer(c, s, record, bytes, out);
      else
        return 1;
    }
    if (!num_missing) return 0;
    const int64_t left = end - clock_ns();
    if (left <= 0 || is_due(rung, seen + URGENT)) return 1;
    wait_for(*c.bell, rung + num_missing, left);
  }
}
