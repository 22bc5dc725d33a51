// What a kernel family provides. The drivers (kernels.cpp) are the same for all families.
#pragma once
#include <cstdint>

namespace galerne {

using bf16 = uint16_t;  // the upper half of a float32

// A packed weight [N, K] is cut into superblocks of COLUMNS output rows (the last one filled up with
// zeros), each read from front to back in steps of STEP bytes. packing.py makes them.
constexpr int COLUMNS = 64;
constexpr int HALF = COLUMNS / 2;  // gate-up superblocks hold HALF gate rows, then HALF up rows
constexpr int MAX_ROWS = 6;        // input rows that share one pass over a superblock
constexpr int STEP = 256;

// What to fetch from memory while a superblock is read, as much as is read: `near` for the first
// `near_steps`, then `far`. Only a hint.
struct Ahead {
  const char* near;
  int64_t near_steps;
  const char* far;
};

// How weights are held, and the rows that meet them.
struct Format {
  int64_t (*block_bytes)(int64_t k);  // of a superblock; a multiple of STEP
  int64_t (*row_bytes)(int64_t k);    // of an encoded row; 0: bf16 rows are taken as they are
  void (*encode)(const bf16* x, int64_t k, char* row);
  // out[i][j] = sum over k of x[i][k] * w[j][k], every sum in the order of k whatever num_rows is.
  // 1 <= num_rows <= MAX_ROWS; k is even; out is [num_rows][COLUMNS].
  void (*superblock)(int num_rows, const char* const* x, const char* w, int64_t k,
                     const Ahead& ahead, float* out);
  // How far ahead of its reading a weight is fetched: the hardware stops at pages. Fewer bits are
  // used up sooner. Measured; see bench-kernels.
  int64_t fetch_bytes;
};

enum FormatIndex { BF16 = 0, INT8 = 1, INT4 = 2, NUM_FORMATS = 3 };

// Single rows and key blocks: rows.h says what each does.
struct RowOps {
  void (*rms_norm)(const bf16*, const float*, int64_t, float, bf16*);
  void (*pack_keys)(const bf16* const*, int, int64_t, bf16*);
  void (*pack_values)(const bf16* const*, int, int64_t, bf16*);
  float (*softmax)(float*, int, float*, bf16*);
  void (*join)(float*, float*, float*, const float*, float, float, int64_t);
  void (*divide)(const float*, float, int64_t, bf16*);
  void (*combine)(const bf16*, const bf16*, const bf16*, const float*, int64_t, int64_t, bf16*);
  void (*low_rank_in)(const bf16*, const bf16*, int64_t, int64_t, int64_t, float, float*);
  void (*low_rank_out)(const float*, int64_t, const bf16*, int64_t, int, float*);
};

// One row of logits and how its token is drawn; packed as `sampling.py` has it.
struct SampledRow {
  const float* logits;
  const uint8_t* allowed;  // 0: its logit is -inf; nullptr: every token
  const int64_t* edit_ids;  // tokens whose logit is another, whatever is allowed
  const float* edit_values;
  int64_t num_edits;
  int64_t seed;
  int64_t position;
  double top_p;
  int32_t choice;
  int32_t top_k;      // 0: all
  float temperature;  // 0: the largest logit
  float floor;        // lowest score that may be drawn: the logarithm of min-p
  // What comes out.
  int32_t token;  // -1: the largest is not finite
  float largest;  // logit, also of those not allowed; what is not a number if one is not
};

// One row of logits and whose log probabilities are wanted.
struct JudgedRow {
  const float* logits;
  int32_t token;
  int32_t num_best;  // at most the vocabulary
  // What comes out.
  float logprob;      // of the token
  int32_t* best_ids;  // [num_best], the largest first, lower ids first among equal ones
  float* best_logprobs;
};

// What a row is worked out in; each as long as the vocabulary, filled up to whole blocks.
struct SampleMemory {
  float* scores;
  uint64_t* keys;
  uint64_t* other;
};

constexpr int64_t SAMPLE_BLOCK = 32;  // tokens looked at together: eight blocks of Philox

inline int64_t sample_length(int64_t vocabulary) {
  return (vocabulary + SAMPLE_BLOCK - 1) / SAMPLE_BLOCK * SAMPLE_BLOCK;
}

struct SamplingOps {
  void (*sample)(SampledRow& row, int64_t n, const SampleMemory& memory);
  void (*judge)(JudgedRow& row, int64_t n, const SampleMemory& memory);
};

struct Family {
  const char* name;
  bool (*is_supported)();
  const Format* formats[NUM_FORMATS];
  // out[j] = silu(sums[j]) * sums[HALF + j] for j < HALF, rounded to bf16.
  void (*silu_mul)(const float* sums, bf16* out);
  // COLUMNS sums, rounded to the nearest even bf16.
  void (*round)(const float* sums, bf16* out);
  const RowOps* rows;
  const SamplingOps* sampling;
};

extern const Family avx512bf16;
extern const Family avx2;
extern const Family portable;

}  // namespace galerne
