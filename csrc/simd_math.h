// exp and the tail of the normal distribution over a vector type.
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

// The probability that a normal variable exceeds a, for a >= 0: erfc(a / sqrt 2) / 2.
//
// It is e^(-a^2 / 2) t P(t) with t = 1 / (1 + 11 a / 32), where P, of degree 8, was fitted to
// torch.special.erfcx in float64: least squares of the relative error over 2000 Chebyshev points of
// a in [0, 15], the weights multiplied with the error for 600 rounds, which levels it (Lawson
// 1961), at 2.9e-8. With the coefficients in float32 it is 6.4e-8. Rounding a^2 costs another
// a^2 2^-25 in e^(-a^2 / 2), which is all that matters for large a.
template <typename V>
inline typename V::Floats normal_tail(typename V::Floats a) {
  using F = typename V::Floats;
  const F t = V::div(V::set(1.0f), V::fma(V::set(0.34375f), a, V::set(1.0f)));
  F p = V::set(-2.73670238e-2f);
  p = V::fma(p, t, V::set(1.41812757e-1f));
  p = V::fma(p, t, V::set(-2.67751843e-1f));
  p = V::fma(p, t, V::set(1.86679631e-1f));
  p = V::fma(p, t, V::set(-3.65845747e-2f));
  p = V::fma(p, t, V::set(1.11588567e-1f));
  p = V::fma(p, t, V::set(1.16990633e-1f));
  p = V::fma(p, t, V::set(1.37510493e-1f));
  p = V::fma(p, t, V::set(1.3712135e-1f));
  return p * t * exp<V>(V::set(-0.5f) * a * a);
}

}  // namespace pdrt
