// Rings and bells for rings.py: one record at a time.
#include "ring.h"

#define GALERNE_API extern "C" __attribute__((visibility("default")))

using namespace galerne;

namespace {

uint32_t* write_indices(uint32_t* to, const int64_t* from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<uint32_t>(from[i]);
  return to + n;
}

}  // namespace

GALERNE_API int64_t galerne_ring_header_bytes() { return HEADER; }

// Writes a record: `header` but for its size and kind, `experts` and `counts` [num_groups],
// `row_token` [num_indices], and `num_data` rows of `row_bytes`: row data_rows[i] of `data`, or row i
// if that is null; and `keys` [num_data], unless that is null. 1, or 0 if there is no room.
GALERNE_API int32_t galerne_ring_send(End* end, const Record* header, const int64_t* experts,
                                      const int64_t* counts, int64_t num_groups,
                                      const int64_t* row_token, int64_t num_indices,
                                      const char* data, const int64_t* data_rows, int64_t num_data,
                                      int64_t row_bytes, const uint64_t* keys) {
  const int64_t start = rows_at(num_groups, num_indices);
  const int64_t num_key_bytes = keys ? 8 * num_data : 0;
  const int64_t bytes = aligned(start + keys_at(num_data, row_bytes) + num_key_bytes);
  char* const record = reserve(*end, bytes);
  if (!record) return 0;
  std::memcpy(record, header, sizeof *header);
  reinterpret_cast<Record*>(record)->bytes = static_cast<uint32_t>(bytes);
  reinterpret_cast<Record*>(record)->kind = keys ? ADAPTED : FRAME;
  uint32_t* indices = reinterpret_cast<uint32_t*>(record + sizeof *header);
  indices = write_indices(indices, experts, num_groups);
  indices = write_indices(indices, counts, num_groups);
  write_indices(indices, row_token, num_indices);
  char* const to = record + start;
  if (!data_rows) {
    std::memcpy(to, data, num_data * row_bytes);
  } else {
    for (int64_t i = 0; i < num_data; ++i)
      std::memcpy(to + i * row_bytes, data + data_rows[i] * row_bytes, row_bytes);
  }
  if (keys) std::memcpy(to + keys_at(num_data, row_bytes), keys, num_key_bytes);
  publish(*end, bytes);
  return 1;
}

// The next record: its offset from the ring's start, after which the end is beyond it; -1: there is
// none, -2: nonsense.
GALERNE_API int64_t galerne_ring_next(End* end) {
  const Record* record;
  const int64_t bytes = find(*end, &record);
  if (bytes < 1) return bytes - 1;
  end->position += bytes;
  end->found = bytes;
  return reinterpret_cast<const char*>(record) - reinterpret_cast<const char*>(end->counters);
}

GALERNE_API void galerne_ring_free(End* end) { release(*end); }

GALERNE_API void galerne_bell_ring(Bell* bell, int32_t is_urgent) {
  ring(*bell, is_urgent ? URGENT : 1);
}

// The first of the rings with a record; if none has one, waits until the bell was rung `num_rings`
// times after its count was `seen`, or urgently once, and looks again. -1: none has.
GALERNE_API int32_t galerne_rings_wait(Bell* bell, uint32_t seen, uint32_t num_rings,
                                       int64_t timeout_ns, End* const* ends, int32_t num_ends) {
  for (int look = 0;; ++look) {
    const Record* record;
    for (int32_t i = 0; i < num_ends; ++i)
      if (find(*ends[i], &record)) return i;
    if (look || timeout_ns <= 0) return -1;
    wait_for(*bell, seen + num_rings, timeout_ns);
  }
}
