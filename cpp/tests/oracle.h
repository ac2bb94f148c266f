// Random cases of every kind of op, with the answer of a plain double-precision reference. No dependencies but C++.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "op.h"

namespace sl::oracle {

class Random {  // splitmix64: the same numbers on every machine
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  int in(int low, int high) { return low + int(next() % uint64_t(high - low + 1)); }
  bool chance(double p) { return uniform() < p; }
  double uniform() { return double(next() >> 11) / 9007199254740992.0; }
  float number(double size = 1.0) { return float((2.0 * uniform() - 1.0) * size); }
  template <class V>
  V pick(std::initializer_list<V> of) {
    return of.begin()[next() % of.size()];
  }
  // Mostly small, now and then up to `most`.
  int size(int most) { return in(1, chance(0.3) ? most : std::min(most, 7)); }
  std::vector<float> numbers(int64_t n, double scale = 1.0) {
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = number(scale);
    return v;
  }

 private:
  uint64_t state_;
};

struct Array {  // N, C, H, W in row-major order, in double precision
  int N = 1, C = 1, H = 1, W = 1;
  std::vector<double> v;
  Array() = default;
  Array(int n, int c, int h, int w) : N(n), C(c), H(h), W(w), v(size_t(n) * size_t(c) * size_t(h) * size_t(w)) {}
  double& operator()(int n, int c, int h = 0, int w = 0) {
    return v[((size_t(n) * size_t(C) + size_t(c)) * size_t(H) + size_t(h)) * size_t(W) + size_t(w)];
  }
  double operator()(int n, int c, int h = 0, int w = 0) const { return const_cast<Array&>(*this)(n, c, h, w); }
  static Array random(Random& random, int n, int c, int h, int w, double scale = 1.0) {
    Array a(n, c, h, w);
    for (double& x : a.v) x = random.number(scale);
    return a;
  }
};

// An expected number, and how much its terms amount to (errors are relative to that).
struct Answer {
  Array value, size;
  Answer() = default;
  Answer(int n, int c, int h, int w) : value(n, c, h, w), size(n, c, h, w) {}
};

struct Case {
  Op op;
  std::string text;                         // what to print when it fails
  std::vector<Tensor> tensors;              // no data yet
  std::vector<Array> values;                // of each input
  std::vector<std::vector<int64_t>> ids;    // of ids
  std::vector<bool> interleaved;            // plain in the order N, H, W, C
  std::deque<std::vector<uint64_t>> store;  // bytes of the blobs
  std::vector<Answer> answers;              // one per output
  double tolerance = 1e-5;

  int tensor(Random& random, Layout layout, int n, int c, int h, int w, int rows = 0, int lanes = 0);
  int input(Random& random, Layout layout, const Array& a, int rows = 0, int lanes = 0);
  int output(Random& random, Layout layout, const Answer& a, int rows = 0, int lanes = 0);
  int token_ids(int n, int length, const std::vector<int64_t>& of);
  template <class V>
  void blob(const std::vector<V>& numbers) {
    const size_t bytes = numbers.size() * sizeof(V);
    store.emplace_back(bytes / 8 + 9);  // 64 bytes beyond it may be read
    if (bytes) std::memcpy(store.back().data(), numbers.data(), bytes);
    op.blobs.push_back({reinterpret_cast<const uint8_t*>(store.back().data()), int64_t(bytes)});
  }
};

// Activations, by the textbook.
struct Activated {
  Act act = Act::none;
  float lo = 0, hi = 0;
  double operator()(double v) const;
  static Activated draw(Random& random);
};

Layout any_layout(Random& random);

using Draw = Case (*)(Random&);
struct Kind {
  const char* name;
  Draw draw;
};
const std::vector<Kind>& kinds();

// In cases_*.cc.
Case draw_spmm(Random&), draw_gemm(Random&), draw_fc(Random&);
Case draw_conv(Random&), draw_first_conv(Random&), draw_dwconv(Random&), draw_pool(Random&);
Case draw_norm(Random&), draw_softmax(Random&), draw_attention(Random&), draw_embedding(Random&), draw_rope(Random&);
Case draw_pack(Random&), draw_unpack(Random&), draw_gap(Random&), draw_unary(Random&), draw_binary(Random&);
Case draw_channel(Random&), draw_concat(Random&), draw_slice(Random&), draw_relayout(Random&);

}  // namespace sl::oracle
