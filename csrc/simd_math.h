// exp over a vector type.
#pragma once

namespace pdrt {

// e^x. For x = n ln 2 + r with |r| <= ln 2 / 2, e^r is a polynomial of degree 6 that is exact at 0
// (so exp(0) is 1, and rescaling by it changes no bit) and elsewhere off by at most 3.1e-9; with
// float32 rounding the whole is within 1.1 ulp. Where the result is subnormal or nearly infinite
// the portable type gives 0 and infinity. NaN stays NaN.
template <typename V>
inline typename V::Floats exp(typename V::Floats x) {
  using F = typename V::Floats;
  x = V::min(V::set(89.0f), V::max(V::set(-110.0f), x));
  const F n = V::round(x * V::set(1.44269504f));
  // ln 2 in two parts; the first has 9 bits, so that n times it is exact.
  F r = V::fma(n, V::set(-0.693359375f), x);
  r = V::fma(n, V::set(2.12194440e-4f), r);
  F p = V::set(1.381455828e-3f);
  p = V::fma(p, r, V::set(8.368745253e-3f));
  p = V::fma(p, r, V::set(4.166839047e-2f));
  p = V::fma(p, r, V::set(1.66665204e-1f));
  p = V::fma(p, r, V::set(4.999999343e-1f));
  p = V::fma(p, r, V::set(1.0f));
  p = V::fma(p, r, V::set(1.0f));
  return V::scale(p, n);
}

}  // namespace pdrt
