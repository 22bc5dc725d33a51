// Tokens in the order (-score, id), as router/engine/filters.py `ranked` has them.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

namespace galerne {

// A token as one number: the smaller, the earlier. The upper half falls when the score rises.
using RankKey = uint64_t;

static inline RankKey rank_key(float score, int64_t id) {
  const float value = score + 0.0f;  // -0 + 0 is 0
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t falling = bits & 0x80000000u ? bits : bits ^ 0x7fffffffu;
  return static_cast<RankKey>(falling) << 32 | static_cast<uint32_t>(id);
}

static inline int64_t id_of(RankKey key) { return static_cast<uint32_t>(key); }

constexpr int DIGIT_BITS = 11;
constexpr int NUM_DIGITS = 1 << DIGIT_BITS;
constexpr int64_t FEW = 256;  // below, comparing is as fast as counting

// Sorts keys whose ids ascend. `other` has room for as many; the result is where it returns.
static inline RankKey* sort_keys(RankKey* keys, int64_t n, RankKey* other) {
  if (n <= FEW) {
    std::sort(keys, keys + n);
    return keys;
  }
  for (int shift = 32; shift < 64; shift += DIGIT_BITS) {
    int64_t next[NUM_DIGITS] = {};
    for (int64_t i = 0; i < n; ++i) ++next[keys[i] >> shift & (NUM_DIGITS - 1)];
    int64_t first = 0;
    for (int64_t& at : next) first += std::exchange(at, first);
    for (int64_t i = 0; i < n; ++i) other[next[keys[i] >> shift & (NUM_DIGITS - 1)]++] = keys[i];
    std::swap(keys, other);
  }
  return keys;
}

}  // namespace galerne
