#include "team.h"

#include <pthread.h>
#include <sched.h>

#include <cstdlib>
#include <new>

#include "clock.h"

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace galerne {

namespace {

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

std::atomic<int64_t>& spin() {
  static std::atomic<int64_t> value = [] {
    const char* text = std::getenv("GALERNE_SPIN_US");
    return text ? std::strtoll(text, nullptr, 10) * 1000 : 0;
  }();
  return value;
}

int64_t spin_ns() { return spin().load(std::memory_order_relaxed); }

void sleep_while(std::atomic<uint32_t>& word, uint32_t old) {
#ifdef __linux__
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
#else
  if (word.load() == old) sched_yield();
#endif
}

void wake_all(std::atomic<uint32_t>& word) {
#ifdef __linux__
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 0x7fffffff, nullptr, nullptr, 0);
#else
  (void)word;
#endif
}

constexpr int64_t PHASE_NS = 20000;  // of active waiting within a call, at least
constexpr uint32_t SIZE_BITS = 8;  // of the job word: the number of members; above it, a count

struct Team {
  std::atomic_flag is_taken = ATOMIC_FLAG_INIT;
  int num_workers = 0;
  Word job;    // changes with every call
  Word phase;  // changes with every meeting
  std::atomic<int64_t> next{0};
  std::atomic<int> arrived{0};
  void (*work)(void*, Member&) = nullptr;
  void* context = nullptr;

  void take_part(int id, int size) {
    Member member(id, size, next, arrived, phase);
    work(context, member);
    member.for_each(0, [](int64_t) {});  // nobody leaves before the last
  }
};

Team* team = nullptr;  // never freed: workers live as long as the process
pthread_once_t once = PTHREAD_ONCE_INIT;

void make_team() { team = new (std::nothrow) Team; }

void start() {
  make_team();
  pthread_atfork(nullptr, nullptr, make_team);  // a child has none of its parent's threads
}

void* worker(void* argument) {
  Team* const mine = team;
  const int id = static_cast<int>(reinterpret_cast<intptr_t>(argument));
  for (uint32_t seen = 0;;) {
    seen = mine->job.wait_while(seen, spin_ns());
    const int size = static_cast<int>(seen & ((1u << SIZE_BITS) - 1));
    if (id < size) mine->take_part(id, size);
  }
}

// As many members as there are threads for, the caller among them.
int grow(Team& t, int num_threads) {
  while (t.num_workers + 1 < num_threads) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    void* const id = reinterpret_cast<void*>(static_cast<intptr_t>(t.num_workers + 1));
    const bool has_started = pthread_create(&thread, &attributes, worker, id) == 0;
    pthread_attr_destroy(&attributes);
    if (!has_started) break;
    ++t.num_workers;
  }
  return num_threads < t.num_workers + 1 ? num_threads : t.num_workers + 1;
}

void run_alone(void (*work)(void*, Member&), void* context) {
  std::atomic<int64_t> next{0};
  std::atomic<int> arrived{0};
  Word phase;
  Member member(0, 1, next, arrived, phase);
  work(context, member);
}

}  // namespace

void Word::set(uint32_t value) {
  value_.store(value);
  if (num_sleepers_.load() > 0) wake_all(value_);
}

uint32_t Word::wait_while(uint32_t old, int64_t active_ns) {
  uint32_t value = read();
  if (value != old) return value;
  if (active_ns > 0) {
    const int64_t end = clock_ns() + active_ns;
    do {
      for (int i = 0; i < 64; ++i, relax())
        if ((value = read()) != old) return value;
      // Whoever else wants this core gets it: a frontend, a client, or the member waited for.
      sched_yield();
    } while (clock_ns() < end);
  }
  num_sleepers_.fetch_add(1);
  while ((value = value_.load()) == old) sleep_while(value_, old);
  num_sleepers_.fetch_sub(1);
  return value;
}

void Member::meet() {
  const uint32_t old = phase_.read();
  if (arrived_.fetch_add(1) + 1 < size_) {
    phase_.wait_while(old, spin_ns() > PHASE_NS ? spin_ns() : PHASE_NS);
    return;
  }
  arrived_.store(0);
  next_.store(0);
  phase_.set(old + 1);
}

void run_team(int num_threads, void (*work)(void*, Member&), void* context) {
  if (num_threads > MAX_THREADS) num_threads = MAX_THREADS;
  if (num_threads > 1) pthread_once(&once, start);
  Team* const t = team;
  if (num_threads < 2 || !t || t->is_taken.test_and_set(std::memory_order_acquire))
    return run_alone(work, context);
  const int size = grow(*t, num_threads);
  if (size == 1) {
    run_alone(work, context);
  } else {
    t->work = work;
    t->context = context;
    const uint32_t count = (t->job.read() >> SIZE_BITS) + 1;
    t->job.set(count << SIZE_BITS | static_cast<uint32_t>(size));
    t->take_part(0, size);
  }
  t->is_taken.clear(std::memory_order_release);
}

void set_spin_ns(int64_t ns) { spin().store(ns, std::memory_order_relaxed); }

}  // namespace galerne
