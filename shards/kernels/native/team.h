// The threads of the kernels: one team per process, whose members share out phases of a call.
//
// OpenMP's own threads sleep between the phases of a call as soon as a process has had more of them
// than cores (each thread that ever called it keeps workers): measured 10 us a barrier, at 11
// barriers a layer. Between calls these wait actively for as long as GALERNE_SPIN_US says (default 0:
// where shards share the cores, waiting would cost the others), within a call for a little at least:
// the others are about to come. Then they sleep.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>

namespace galerne {

constexpr int MAX_THREADS = 64;

// Waits until a word is no longer `old`: a while actively, then asleep. Whoever changes the word
// calls `wake`.
class Word {
 public:
  uint32_t read() const { return value_.load(std::memory_order_acquire); }
  void set(uint32_t value);  // and wake
  uint32_t wait_while(uint32_t old, int64_t active_ns);

 private:
  std::atomic<uint32_t> value_{0};
  std::atomic<int32_t> num_sleepers_{0};
};

// One thread's part in a call.
class Member {
 public:
  Member(int id, int size, std::atomic<int64_t>& next, std::atomic<int>& arrived, Word& phase)
      : id(id), size_(size), next_(next), arrived_(arrived), phase_(phase) {}

  // Calls `body(i)` for every i < n, each in one member; returns when all are done.
  template <typename Body>
  void for_each(int64_t n, const Body& body) {
    if (size_ == 1) {
      for (int64_t i = 0; i < n; ++i) body(i);
      return;
    }
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < n;) body(i);
    meet();
  }

  // The same with `body(i, next)`: the member's next item is known while it works on one; n if none.
  template <typename Body>
  void for_each_ahead(int64_t n, const Body& body) {
    if (size_ == 1) {
      for (int64_t i = 0; i < n; ++i) body(i, i + 1);
      return;
    }
    for (int64_t i = next_.fetch_add(1, std::memory_order_relaxed); i < n;) {
      const int64_t next = std::min(n, next_.fetch_add(1, std::memory_order_relaxed));
      body(i, next);
      i = next;
    }
    meet();
  }

  int size() const { return size_; }

  const int id;

 private:
  void meet();

  const int size_;
  std::atomic<int64_t>& next_;
  std::atomic<int>& arrived_;
  Word& phase_;
};

// Runs `work(context, member)` in `num_threads` members, the caller being one of them, and returns
// when all have ended. Only one call at a time has the team: others run alone, with the same result.
void run_team(int num_threads, void (*work)(void*, Member&), void* context);

// How long members wait actively between calls, from now on.
void set_spin_ns(int64_t ns);

template <typename Work>
void in_team(int num_threads, Work&& work) {
  run_team(
      num_threads, [](void* context, Member& member) { (*static_cast<Work*>(context))(member); },
      &work);
}

}  // namespace galerne
