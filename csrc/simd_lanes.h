// From the lanes of a vector to one number.
#pragma once

namespace pdrt {

// Halves with halves, down to one.
template <typename V, typename Combine>
inline float over_lanes(typename V::Floats x, Combine combine) {
  float lanes[V::kLanes];
  V::store(lanes, x);
#pragma GCC unroll 4
  for (int half = V::kLanes / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) lanes[i] = combine(lanes[i], lanes[i + half]);
  return lanes[0];
}

template <typename V>
inline float first_lane(typename V::Floats x) {
  float lanes[V::kLanes];
  V::store(lanes, x);
  return lanes[0];
}

}  // namespace pdrt
