// The portable vector layer: SL_W floats at a time, through the compiler's vector types.
//
// A translation unit of kernels is compiled once per instruction set. The build defines SL_ISA (a namespace: avx512,
// avx2, neon, wasm, plain) and SL_W (floats per vector: 16, 8, 4, 4, 1). Everything here lives in that namespace, so the
// variants of a kernel can be linked side by side. Only this file may know instruction sets.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#ifdef __AVX__
#include <immintrin.h>
#endif

#ifndef SL_ISA
#error "compile kernels with -DSL_ISA=<name> -DSL_W=<floats per vector>"
#endif

namespace sl::SL_ISA {

constexpr int W = SL_W;        // floats per vector
constexpr int UNIT = 16;       // lanes of a tile come in units of 16 floats on every machine
constexpr int PER_UNIT = UNIT / W;

typedef float vf __attribute__((vector_size(SL_W * 4), may_alias));
typedef float vfu __attribute__((vector_size(SL_W * 4), may_alias, aligned(4)));
typedef int32_t vi __attribute__((vector_size(SL_W * 4), may_alias));
typedef int32_t viu __attribute__((vector_size(SL_W * 4), may_alias, aligned(4)));

#define SL_INLINE inline __attribute__((always_inline))
#define SL_NOW __attribute__((always_inline))  // of a lambda

SL_INLINE vf load(const float* p) { return *reinterpret_cast<const vfu*>(p); }
SL_INLINE void store(float* p, vf v) { *reinterpret_cast<vfu*>(p) = v; }
SL_INLINE vf zero() { return vf{}; }
SL_INLINE vf set1(float x) { return x - vf{}; }
SL_INLINE vf fma(vf a, vf b, vf c) { return a * b + c; }  // contracted: compile with -ffp-contract=fast
SL_INLINE vf max(vf a, vf b) { return a > b ? a : b; }    // NaN in a gives b
SL_INLINE vf min(vf a, vf b) { return a < b ? a : b; }
SL_INLINE vi to_int(vf v) { return __builtin_convertvector(v, vi); }  // towards zero
SL_INLINE vf to_float(vi v) { return __builtin_convertvector(v, vf); }
SL_INLINE vf as_float(vi v) { return (vf)v; }
SL_INLINE vi as_int(vf v) { return (vi)v; }

// body(0), body(1) .. body(N - 1) one after the other, each index a constant: arrays of vectors stay in registers.
template <int N, class Body>
SL_INLINE void each(Body&& body) {
  [&]<int... I>(std::integer_sequence<int, I...>) SL_NOW {
    (body(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}
#define SL_EACH(i) [&](auto i) SL_NOW

// n floats (0 <= n <= W) in pieces of 16, 8, 4, 2 and 1.
SL_INLINE void copy_part(float* to, const float* from, int n) {
  each<5>(SL_EACH(k) {
    constexpr int piece = 16 >> k;
    if constexpr (piece <= W) {
      if (n & piece) {
        __builtin_memcpy(to, from, piece * 4);
        to += piece, from += piece;
      }
    }
  });
}

#if defined(__AVX2__) && SL_W == 8
SL_INLINE __m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif

// The first n lanes (0 <= n <= W), the others zero / untouched. Memory beyond them is not touched at all.
SL_INLINE vf load_part(const float* p, int n) {
#if defined(__AVX512F__) && SL_W == 16
  return (vf)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1u), p);
#elif defined(__AVX2__) && SL_W == 8
  return (vf)_mm256_maskload_ps(p, first_lanes(n));
#else
  float lanes[W] = {};
  copy_part(lanes, p, n);
  return load(lanes);
#endif
}
SL_INLINE void store_part(float* p, vf v, int n) {
#if defined(__AVX512F__) && SL_W == 16
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1u), (__m512)v);
#elif defined(__AVX2__) && SL_W == 8
  _mm256_maskstore_ps(p, first_lanes(n), (__m256)v);
#else
  float lanes[W];
  store(lanes, v);
  copy_part(p, lanes, n);
#endif
}

// Every second lane of the 2 W lanes a, b; the lanes of a and b in turn (first half, second half).
SL_INLINE vf evens(vf a, vf b) {
  return [&]<int... I>(std::integer_sequence<int, I...>) SL_NOW {
    return __builtin_shufflevector(a, b, (2 * I)...);
  }(std::make_integer_sequence<int, W>{});
}
SL_INLINE vf odds(vf a, vf b) {
  return [&]<int... I>(std::integer_sequence<int, I...>) SL_NOW {
    return __builtin_shufflevector(a, b, (2 * I + 1)...);
  }(std::make_integer_sequence<int, W>{});
}
// Lanes N to N + W - 1 of the 2 W lanes a, b.
template <int N>
SL_INLINE vf shifted(vf a, vf b) {
  return [&]<int... I>(std::integer_sequence<int, I...>) SL_NOW {
    return __builtin_shufflevector(a, b, (I + N)...);
  }(std::make_integer_sequence<int, W>{});
}
// Four floats again and again (a vector of one lane: the first).
SL_INLINE vf repeat4(const float* p) {
#if defined(__AVX512F__) && SL_W == 16
  return (vf)_mm512_broadcast_f32x4(_mm_loadu_ps(p));
#elif defined(__AVX__) && SL_W == 8
  return (vf)_mm256_broadcast_ps(reinterpret_cast<const __m128*>(p));
#else
  return load(p);
#endif
}
template <int HALF>  // 0: the first half of the lanes, 1: the second
SL_INLINE vf in_turn(vf a, vf b) {
  return [&]<int... I>(std::integer_sequence<int, I...>) SL_NOW {
    return __builtin_shufflevector(a, b, (I / 2 + I % 2 * W + HALF * (W / 2))...);
  }(std::make_integer_sequence<int, W>{});
}

// Lane j of v[i] becomes lane i of v[j]: log2 W perfect shuffles.
SL_INLINE void transpose(vf (&v)[W]) {
  each<(W > 1) + (W > 2) + (W > 4) + (W > 8)>(SL_EACH() {
    vf next[W];
    each<W / 2>(SL_EACH(i) {
      next[2 * i] = in_turn<0>(v[i], v[i + W / 2]);
      next[2 * i + 1] = in_turn<1>(v[i], v[i + W / 2]);
    });
    each<W>(SL_EACH(i) { v[i] = next[i]; });
  });
}

// Lane i of the result is the sum of the lanes of v[i].
SL_INLINE vf sums(vf (&v)[W]) {
  each<(W > 1) + (W > 2) + (W > 4) + (W > 8)>(SL_EACH(s) {
    each<(W >> (s + 1))>(SL_EACH(i) { v[i] = evens(v[2 * i], v[2 * i + 1]) + odds(v[2 * i], v[2 * i + 1]); });
  });
  return v[0];
}
SL_INLINE float sum(vf v) {
  each<(W > 1) + (W > 2) + (W > 4) + (W > 8)>(SL_EACH() { v = evens(v, v) + odds(v, v); });
  return v[0];
}
SL_INLINE float largest(vf v) {
  each<(W > 1) + (W > 2) + (W > 4) + (W > 8)>(SL_EACH() { v = max(evens(v, v), odds(v, v)); });
  return v[0];
}

SL_INLINE vf iota() {  // 0, 1, 2 ..
  return []<int... I>(std::integer_sequence<int, I...>) SL_NOW {
    return vf{float(I)...};
  }(std::make_integer_sequence<int, W>{});
}
SL_INLINE vf sqrt(vf v) {
  each<W>(SL_EACH(i) { v[int(i)] = __builtin_sqrtf(v[int(i)]); });
  return v;
}

// 1 / a for normal a, relative error < 2e-7: an estimate and a Newton step where there is one, for it is thrice as fast.
SL_INLINE vf reciprocal(vf a) {
#if defined(__AVX512F__) && SL_W == 16
  const vf r = (vf)_mm512_rcp14_ps((__m512)a);
  return r * fma(-a, r, set1(2.0f));
#else
  return set1(1.0f) / a;
#endif
}

// e^x within [-87.3, 88.3], beyond them what it is there; relative error < 2e-7. NaN stays NaN.
SL_INLINE vf exp_inside(vf x) {
  const vf under = set1(-87.33654f), over = set1(88.37626f);
  vf y = x < under ? under : x;
  y = y > over ? over : y;
  vf m = fma(y, set1(1.44269504f), set1(12582912.0f));  // 1.5 * 2^23: the low bits of m are the rounded integer
  vf n = m - set1(12582912.0f);
  vf r = fma(n, set1(-0.693359375f), y);
  r = fma(n, set1(2.12194440e-4f), r);
  vf p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, r * r, r + set1(1.0f));
  return p * as_float((as_int(m) + 127) << 23);
}
// e^x; 0 below -87.3.
SL_INLINE vf exp(vf x) {
  const vf e = exp_inside(x);
  return x < set1(-87.33654f) ? zero() : e;
}
SL_INLINE vf sigmoid(vf x) { return reciprocal(set1(1.0f) + exp_inside(-x)); }
SL_INLINE vf tanh(vf x) {  // 1 - 2 / (e^2x + 1); for small |x| the odd polynomial, which does not cancel
  vf x2 = x * x;
  vf p = fma(x2, set1(-0.0218694885f), set1(0.0539682540f));  // 62/2835 and 17/315 of the series
  p = fma(p * set1(-1.0f), x2, set1(0.1333333333f));
  p = fma(p, x2, set1(-0.3333333333f));
  vf small = fma(p * x2, x, x);
  vf big = set1(1.0f) - set1(2.0f) / (exp(x + x) + set1(1.0f));
  return (x2 < set1(0.04f)) ? small : big;
}
// x P(x^2) / Q(x^2), fitted to erf on [0, 3.9] for the least largest relative error (2e-8; in floats 4e-7); 1 beyond.
SL_INLINE vf erf(vf x) {
  const vf most = set1(3.9f);
  vf y = x < -most ? -most : x;
  y = y > most ? most : y;
  const vf u = y * y;
  vf p = fma(set1(2.0664724e-06f), u, set1(0.000285061468f));
  p = fma(p, u, set1(0.00373832607f));
  p = fma(p, u, set1(0.0526680173f));
  p = fma(p, u, set1(0.1896664f));
  p = fma(p, u, set1(1.12837915f));
  vf q = fma(set1(3.82699748e-05f), u, set1(0.00115737085f));
  q = fma(q, u, set1(0.0149142362f));
  q = fma(q, u, set1(0.113818774f));
  q = fma(q, u, set1(0.501420252f));
  q = fma(q, u, set1(1.0f));
  vf e = y * p * reciprocal(q);
  e = x > most ? set1(1.0f) : e;
  return x < -most ? set1(-1.0f) : e;
}

}  // namespace sl::SL_ISA
