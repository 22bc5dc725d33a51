#pragma once
#include <chrono>

namespace galerne {

static inline double seconds_now() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace galerne
