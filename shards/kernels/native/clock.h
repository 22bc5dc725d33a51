// The clock that all processes of a host share.
#pragma once
#include <time.h>

#include <cstdint>

namespace galerne {

static inline int64_t clock_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static inline double seconds_now() { return static_cast<double>(clock_ns()) * 1e-9; }

}  // namespace galerne
