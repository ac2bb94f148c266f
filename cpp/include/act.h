// Activations on vectors, chosen once per op at compile time of the loop (template) or per vector (`apply`).
#pragma once
#include "op.h"
#include "simd.h"

namespace sl::SL_ISA {

struct Activation {
  Act act = Act::none;
  float lo = 0, hi = 0;
};

SL_INLINE vf apply(const Activation& a, vf v) {
  switch (a.act) {
    case Act::none: return v;
    case Act::clamp: {  // NaN stays NaN
      v = v < set1(a.lo) ? set1(a.lo) : v;
      return v > set1(a.hi) ? set1(a.hi) : v;
    }
    case Act::hardswish: return v * min(max(v + set1(3.0f), zero()), set1(6.0f)) * set1(1.0f / 6.0f);
    case Act::hardsigmoid: return min(max(v + set1(3.0f), zero()), set1(6.0f)) * set1(1.0f / 6.0f);
    case Act::silu: return v * sigmoid(v);
    case Act::gelu: return set1(0.5f) * v * (set1(1.0f) + erf(v * set1(0.70710678f)));
    case Act::gelu_tanh: {
      const vf inner = set1(2.0f * 0.79788456f) * fma(set1(0.044715f) * v * v, v, v);
      return v * sigmoid(inner);  // (1 + tanh u) / 2 = sigmoid(2 u)
    }
    case Act::sigmoid: return sigmoid(v);
    case Act::tanh: return tanh(v);
  }
  return v;
}

// body(f) with f the activation `a` as a function of a vector whose kind is known to the compiler: the switch stays
// outside of the loops of `body`.
template <Act A>
struct Fixed {
  float lo, hi;
  SL_INLINE vf operator()(vf v) const { return apply(Activation{A, lo, hi}, v); }
};
template <class Body>
SL_INLINE void with_activation(const Activation& a, Body&& body) {
  switch (a.act) {
    case Act::none: return body(Fixed<Act::none>{a.lo, a.hi});
    case Act::clamp: return body(Fixed<Act::clamp>{a.lo, a.hi});
    case Act::hardswish: return body(Fixed<Act::hardswish>{a.lo, a.hi});
    case Act::hardsigmoid: return body(Fixed<Act::hardsigmoid>{a.lo, a.hi});
    case Act::silu: return body(Fixed<Act::silu>{a.lo, a.hi});
    case Act::gelu: return body(Fixed<Act::gelu>{a.lo, a.hi});
    case Act::gelu_tanh: return body(Fixed<Act::gelu_tanh>{a.lo, a.hi});
    case Act::sigmoid: return body(Fixed<Act::sigmoid>{a.lo, a.hi});
    case Act::tanh: return body(Fixed<Act::tanh>{a.lo, a.hi});
  }
}

}  // namespace sl::SL_ISA
