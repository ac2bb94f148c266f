// Eight doubles at a time through the compiler's vector types, their exponentials and their logarithm, and functions
// that exist once per instruction set in one translation unit (cpp/include/simd.h is the layer of floats, for units
// compiled once per set).
#pragma once
#include <cstdint>
#include <limits>

// One function, three instruction sets, chosen when the library is loaded; elsewhere the compiler's default.
#if defined(__x86_64__) && defined(__linux__) && !defined(__clang__) && __GNUC__ >= 12
#define SL_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SL_CLONES
#endif
#define SL_IN inline __attribute__((always_inline))

namespace sl::doubles {

constexpr int W = 8;          // doubles per vector; narrower machines take it in parts
constexpr double LEAST = -700.0;  // e^-700 = 1e-304: taken as nothing

typedef double vd __attribute__((vector_size(W * 8), may_alias));
typedef double vdu __attribute__((vector_size(W * 8), may_alias, aligned(8)));
typedef int64_t vl __attribute__((vector_size(W * 8), may_alias));

SL_IN vd load(const double* p) { return *reinterpret_cast<const vdu*>(p); }
SL_IN void store(double* p, vd v) { *reinterpret_cast<vdu*>(p) = v; }
SL_IN vd load_some(const double* p, int64_t count) {  // the others are 0
  vd v = {};
  for (int i = 0; i < W; ++i)
    if (i < count) v[i] = p[i];
  return v;
}
SL_IN void store_some(double* p, vd v, int64_t count) {
  for (int i = 0; i < W; ++i)
    if (i < count) p[i] = v[i];
}
SL_IN vd set(double x) {  // by a shuffle: GCC fills the lanes of x - vd{} one by one in a function of many targets
  const vd v = {x};
  return __builtin_shufflevector(v, v, 0, 0, 0, 0, 0, 0, 0, 0);
}
SL_IN vd magnitude(vd v) { return (vd)((vl)v & 0x7fffffffffffffffLL); }
SL_IN vd larger(vd a, vd b) { return a > b ? a : b; }
SL_IN double largest(vd v) {
  const vd a = larger(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
  const vd b = larger(a, __builtin_shufflevector(a, a, 2, 3, 0, 1, 6, 7, 4, 5));
  return b[0] > b[1] ? b[0] : b[1];
}
SL_IN double sum(vd v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

// p = p x + c of N vectors. What is done to one is done to all before the next step, because a single chain of
// multiply-adds leaves the machine waiting.
template <int N>
SL_IN void horner(vd (&p)[N], const vd (&x)[N], double c) {
  for (int k = 0; k < N; ++k) p[k] = p[k] * x[k] + set(c);
}

// e^r in place, |r| <= 0.35: the series to r^13.
template <int N>
SL_IN void series(vd (&r)[N]) {
  vd p[N];
  for (int k = 0; k < N; ++k) p[k] = set(1.0 / 6227020800.0);
  horner(p, r, 1.0 / 479001600.0);
  horner(p, r, 1.0 / 39916800.0);
  horner(p, r, 1.0 / 3628800.0);
  horner(p, r, 1.0 / 362880.0);
  horner(p, r, 1.0 / 40320.0);
  horner(p, r, 1.0 / 5040.0);
  horner(p, r, 1.0 / 720.0);
  horner(p, r, 1.0 / 120.0);
  horner(p, r, 1.0 / 24.0);
  horner(p, r, 1.0 / 6.0);
  horner(p, r, 0.5);
  horner(p, r, 1.0);
  horner(p, r, 1.0);
  for (int k = 0; k < N; ++k) r[k] = p[k];
}

constexpr double ROUND = 6755399441055744.0;  // 1.5 * 2^52: the low bits of x + ROUND are the rounded x
SL_IN vd power_of_two(vd rounded) { return (vd)(((vl)rounded - 0x4338000000000000LL + 1023) << 52); }

// e^x, relative error < 3e-16; 0 below LEAST, infinity above 709.
SL_IN vd exponential(vd x) {
  const vd low = set(LEAST), high = set(709.0), magic = set(ROUND);
  vd y = x < low ? low : x;
  y = y > high ? high : y;
  const vd m = y * set(1.4426950408889634074) + magic;
  const vd n = m - magic;
  vd r[1] = {(y - n * set(6.93147180369123816490e-01)) - n * set(1.90821492927058770002e-10)};
  series(r);
  const vd p = x < low ? vd{} : r[0] * power_of_two(m);
  return x > high ? set(std::numeric_limits<double>::infinity()) : p;
}

// 2^x in place, relative error < 3e-16; -1022 <= x <= 1023.
template <int N>
SL_IN void exp2(vd (&x)[N]) {
  vd m[N];
  for (int k = 0; k < N; ++k) m[k] = x[k] + set(ROUND);
  for (int k = 0; k < N; ++k) x[k] = (x[k] - (m[k] - set(ROUND))) * set(0.69314718055994530942);
  series(x);
  for (int k = 0; k < N; ++k) x[k] *= power_of_two(m[k]);
}

// log2 x in place of normal numbers > 0, relative error < 1e-15. With x = 2^e m, sqrt(1/2) <= m < sqrt(2), and
// s = (m - 1) / (m + 1) it is e + 2 atanh(s) / log 2; the polynomial in s^2 is fdlibm's.
template <int N>
SL_IN void log2(vd (&x)[N]) {
  constexpr int64_t HALF = 0x3fe6a09e667f3bcdLL, BIAS = 1023LL << 52;
  vd e[N], s[N], z[N], p[N];
  for (int k = 0; k < N; ++k) {
    const vl bits = (vl)x[k], shifted = bits - HALF + BIAS;  // > 0, so that a logical shift will do
    const vl exponent = shifted & (0x7ffLL << 52);
    const vd m = (vd)(bits - exponent + BIAS);
    e[k] = (vd)((exponent >> 52) | 0x4330000000000000LL) - set(4503599627370496.0 + 1023.0);
    s[k] = (m - set(1.0)) / (m + set(1.0));
  }
  for (int k = 0; k < N; ++k) z[k] = s[k] * s[k], p[k] = set(1.479819860511658591e-01);
  horner(p, z, 1.531383769920937332e-01);
  horner(p, z, 1.818357216161805012e-01);
  horner(p, z, 2.222219843214978396e-01);
  horner(p, z, 2.857142874366239149e-01);
  horner(p, z, 3.999999999940941908e-01);
  horner(p, z, 6.666666666666735130e-01);
  horner(p, z, 2.0);
  for (int k = 0; k < N; ++k) x[k] = e[k] + s[k] * p[k] * set(1.4426950408889634074);
}

}  // namespace sl::doubles
