// Eight doubles at a time through the compiler's vector types, their exponential, and functions that exist once per
// instruction set in one translation unit (cpp/include/simd.h is the layer of floats, for units compiled once per set).
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
SL_IN vd set(double x) { return x - vd{}; }
SL_IN vd larger(vd a, vd b) { return a > b ? a : b; }
SL_IN double largest(vd v) {
  const vd a = larger(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
  const vd b = larger(a, __builtin_shufflevector(a, a, 2, 3, 0, 1, 6, 7, 4, 5));
  return b[0] > b[1] ? b[0] : b[1];
}
SL_IN double sum(vd v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

// e^x, relative error < 3e-16; 0 below LEAST, infinity above 709.
SL_IN vd exponential(vd x) {
  const vd low = set(LEAST), high = set(709.0), magic = set(6755399441055744.0);  // 1.5 * 2^52
  vd y = x < low ? low : x;
  y = y > high ? high : y;
  const vd m = y * set(1.4426950408889634074) + magic;  // its low bits are the rounded integer
  const vd n = m - magic;
  const vd r = (y - n * set(6.93147180369123816490e-01)) - n * set(1.90821492927058770002e-10);
  vd p = set(1.0 / 6227020800.0);  // the series to r^13; |r| <= 0.35
  p = p * r + set(1.0 / 479001600.0);
  p = p * r + set(1.0 / 39916800.0);
  p = p * r + set(1.0 / 3628800.0);
  p = p * r + set(1.0 / 362880.0);
  p = p * r + set(1.0 / 40320.0);
  p = p * r + set(1.0 / 5040.0);
  p = p * r + set(1.0 / 720.0);
  p = p * r + set(1.0 / 120.0);
  p = p * r + set(1.0 / 24.0);
  p = p * r + set(1.0 / 6.0);
  p = p * r + set(0.5);
  p = p * r + set(1.0);
  p = p * r + set(1.0);
  const vl bits = (vl)m - 0x4338000000000000LL + 1023;
  p = p * (vd)(bits << 52);
  p = x < low ? vd{} : p;
  return x > high ? set(std::numeric_limits<double>::infinity()) : p;
}

}  // namespace sl::doubles
