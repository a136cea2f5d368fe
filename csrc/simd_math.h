// exp, the tail of the normal distribution and what activations are made of, over a vector type.
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

// x Phi(x) = max(x, 0) - |x| (1 - Phi(|x|)), which loses nothing for x < 0. Beyond 30 the last
// factor is 0; the bound keeps infinity out of the product. Where both are equal, V::max gives
// the second, by which -0 stays -0.
template <typename V>
inline typename V::Floats gelu(typename V::Floats x) {
  using F = typename V::Floats;
  const F zero = V::set(0.0f), size = V::min(V::set(30.0f), V::max(x, zero - x));
  return V::fma(size, zero - normal_tail<V>(size), V::max(zero, x));
}

// x / (1 + e^-y)
template <typename V>
inline typename V::Floats times_sigmoid(typename V::Floats x, typename V::Floats y) {
  return x / (V::set(1.0f) + exp<V>(V::set(0.0f) - y));
}

// (1 + tanh u) / 2 is the sigmoid of 2u; 2 sqrt(2 / pi) = 1.5957691
template <typename V>
inline typename V::Floats gelu_tanh(typename V::Floats x) {
  const typename V::Floats cubic = V::fma(V::set(0.044715f) * x * x, x, x);
  return times_sigmoid<V>(x, V::set(1.5957691216f) * cubic);
}

template <typename V>
inline typename V::Floats silu(typename V::Floats x) {
  return times_sigmoid<V>(x, x);
}

}  // namespace pdrt
