// The C interface of sampling: shares rows out among threads.
#include "work.h"
#include "team.h"

#define GALERNE_API __attribute__((visibility("default")))

using namespace galerne;

namespace {

constexpr int64_t MAX_VOCABULARY = int64_t{1} << 30;

int64_t bytes_per_thread(int64_t vocabulary) {
  return sample_length(vocabulary) * static_cast<int64_t>(sizeof(float) + 2 * sizeof(uint64_t));
}

SampleMemory memory_at(char* memory, int64_t vocabulary) {
  const int64_t length = sample_length(vocabulary);
  uint64_t* keys = reinterpret_cast<uint64_t*>(memory);
  return {reinterpret_cast<float*>(keys + 2 * length), keys, keys + length};
}

template <typename Row, typename Choose>
int32_t for_rows(int32_t family, int32_t num_threads, Row* rows, int64_t num_rows,
                 int64_t vocabulary, char* memory, const Choose& choose) {
  const Family* f = family_of(family);
  if (!f) return BAD_FAMILY;
  if (num_rows < 0 || vocabulary < 1 || vocabulary > MAX_VOCABULARY || num_threads < 1 ||
      num_threads > MAX_THREADS)
    return BAD_SIZE;
  const auto work = choose(*f->sampling);
  in_team(num_threads, [&](Member& member) {
    const SampleMemory room =
        memory_at(memory + member.id * bytes_per_thread(vocabulary), vocabulary);
    member.for_each(num_rows, [&](int64_t i) { work(rows[i], vocabulary, room); });
  });
  return OK;
}

}  // namespace

extern "C" {

// Bytes that every thread of galerne_sample needs.
GALERNE_API int64_t galerne_sample_bytes(int64_t vocabulary) {
  if (vocabulary < 1 || vocabulary > MAX_VOCABULARY) return -BAD_SIZE;
  return bytes_per_thread(vocabulary);
}

// A token for each row; `memory` is aligned to 8 bytes and has galerne_sample_bytes for each thread.
GALERNE_API int32_t galerne_sample(int32_t family, int32_t num_threads, SampledRow* rows,
                                   int64_t num_rows, int64_t vocabulary, char* memory) {
  return for_rows(family, num_threads, rows, num_rows, vocabulary, memory,
                  [](const SamplingOps& ops) { return ops.sample; });
}

// Log probabilities for each row, in memory like that; tokens and numbers fit the vocabulary.
GALERNE_API int32_t galerne_judge(int32_t family, int32_t num_threads, JudgedRow* rows,
                                  int64_t num_rows, int64_t vocabulary, char* memory) {
  return for_rows(family, num_threads, rows, num_rows, vocabulary, memory,
                  [](const SamplingOps& ops) { return ops.judge; });
}

}  // extern "C"
