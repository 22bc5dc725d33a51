// Frames through shared memory: rings of one writer and one reader, and a bell to wake a process.
//
// A ring holds records one after the other, each whole and aligned, behind two counters of bytes:
// what was ever written, and what was ever freed; and the count that lies at its start. Each end keeps
// its own position and the capacity in memory of its own, so that a peer that writes nonsense is found
// out and reaches nothing else.
#pragma once
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstring>

#include "clock.h"

namespace galerne {

constexpr int64_t ALIGNMENT = 64;
constexpr int64_t HEADER = 2 * ALIGNMENT;  // of a ring: a cache line for each counter
constexpr uint32_t URGENT = 1u << 16;      // more than anybody waits for

struct Counters {
  alignas(ALIGNMENT) std::atomic<uint64_t> written;
  std::atomic<uint64_t> origin;  // the writer's too; changes only while the ring is empty
  alignas(ALIGNMENT) std::atomic<uint64_t> freed;
};
static_assert(sizeof(Counters) == HEADER && std::atomic<uint64_t>::is_always_lock_free,
              "the layout is shared between processes");

// What a record is.
enum Kind : uint32_t {
  SKIP = 0,     // nothing until the ring's end
  FRAME = 1,    // its header, indices and rows
  ADAPTED = 2,  // and behind the rows the key of every row's adapter, 64 bits each
};

// First of a record. An answer tells, in microseconds, how long its request waited in num_tokens and
// how long it was computed in num_groups.
struct Record {
  uint32_t bytes;  // with this header
  uint32_t kind;
  uint32_t frame, layer;
  uint64_t epoch, step;
  uint32_t attempt, micro_batch, dtype, num_tokens, num_groups, num_rows, hidden;
  uint32_t written_us;  // clock_us when it was: of a request, from when on it waits
};
static_assert(sizeof(Record) == ALIGNMENT, "the layout is shared between processes");

// One end, in its own process' memory.
struct End {
  Counters* counters;
  int64_t capacity;
  uint64_t position;  // written, or read
  int64_t found;      // bytes of the last record that was read
  uint64_t origin;    // which position lies at the ring's start
};

struct Bell {
  std::atomic<uint32_t> count;
  std::atomic<uint32_t> wake_at;
  std::atomic<uint32_t> is_waited_for;
};

inline int64_t offset_of(const End& end, uint64_t position) {
  return (position - end.origin) % static_cast<uint64_t>(end.capacity);
}

inline char* at(const End& end, uint64_t position) {
  return reinterpret_cast<char*>(end.counters) + HEADER + offset_of(end, position);
}

inline int64_t aligned(int64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

// Room for a record of so many bytes, the rest of the ring skipped if it is too short for it; null if
// there is none. At most half the ring, so that an empty one has room for two.
// An empty ring starts over, so that few frames stay within few, warm pages. Its origin moves for
// that: what is skipped is used until the reader has freed the record behind it.
inline char* reserve(End& end, int64_t bytes) {
  const int64_t used = end.position - end.counters->freed.load(std::memory_order_acquire);
  if (used < 0 || used > end.capacity || bytes > end.capacity / 2) return nullptr;
  if (used == 0) {
    end.origin = end.position;
    end.counters->origin.store(end.origin, std::memory_order_relaxed);  // seen with what is published
  }
  const int64_t left = end.capacity - offset_of(end, end.position);
  const bool is_skipped = left < bytes;
  if (used + bytes + (is_skipped ? left : 0) > end.capacity) return nullptr;
  if (is_skipped) {
    Record skip{};
    skip.bytes = static_cast<uint32_t>(left);
    std::memcpy(at(end, end.position), &skip, sizeof skip);
    end.position += left;
  }
  return at(end, end.position);
}

inline uint32_t clock_us() { return static_cast<uint32_t>(clock_ns() / 1000); }

inline bool is_due(uint32_t count, uint32_t wake_at) {
  return static_cast<int32_t>(count - wake_at) >= 0;
}

// Until the count is due, or the time is over.
inline void wait_for(Bell& bell, uint32_t wake_at, int64_t timeout_ns) {
  const int64_t end = clock_ns() + timeout_ns;
  bell.wake_at.store(wake_at);
  bell.is_waited_for.store(1);
  for (uint32_t count; !is_due(count = bell.count.load(), wake_at);) {
    const int64_t left = end - clock_ns();
    if (left <= 0) break;
    const timespec time{static_cast<time_t>(left / 1000000000), static_cast<long>(left % 1000000000)};
    // Returns at once if the count has moved on; not private: the word is shared with others.
    syscall(SYS_futex, &bell.count, FUTEX_WAIT, count, &time, nullptr, 0);
  }
  bell.is_waited_for.store(0);
}

// Bytes of the record that is there; 0: there is none, -1: nonsense is.
inline int64_t find(End& end, const Record** found) {
  for (;;) {
    const int64_t there = end.counters->written.load(std::memory_order_acquire) - end.position;
    if (there == 0) return 0;
    end.origin = end.counters->origin.load(std::memory_order_relaxed);
    if (end.origin % ALIGNMENT) return -1;
    const int64_t left = end.capacity - offset_of(end, end.position);
    const Record* const record = reinterpret_cast<const Record*>(at(end, end.position));
    // Read once: it is checked, and the peer may change it meanwhile.
    const int64_t bytes = *const_cast<const volatile uint32_t*>(&record->bytes);
    if (there < 0 || there > end.capacity || bytes < ALIGNMENT || bytes % ALIGNMENT ||
        bytes > there || bytes > left)
      return -1;
    if (record->kind != SKIP) {
      *found = record;
      return bytes;
    }
    end.position += bytes;
  }
}

// The record that was reserved is there.
inline void publish(End& end, int64_t bytes) {
  end.position += bytes;
  end.counters->written.store(end.position, std::memory_order_release);
}

// Everything that was read may be written over.
inline void release(End& end) {
  end.counters->freed.store(end.position, std::memory_order_release);
}

// Where a record's rows start, behind its indices.
inline int64_t rows_at(int64_t num_groups, int64_t num_indices) {
  return aligned(static_cast<int64_t>(sizeof(Record)) + 4 * (2 * num_groups + num_indices));
}

// Where the adapters' keys start, behind the rows.
inline int64_t keys_at(int64_t rows, int64_t row_bytes) { return (rows * row_bytes + 7) / 8 * 8; }

// Somebody may have something to look at.
inline void ring(Bell& bell, uint32_t step) {
  const uint32_t count = bell.count.fetch_add(step) + step;
  if (bell.is_waited_for.load() && is_due(count, bell.wake_at.load()))
    syscall(SYS_futex, &bell.count, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

}  // namespace galerne
