// Tokens: norm, softmax, attention, embedding, rope.
#include "oracle.h"

namespace sl::oracle {

namespace {

void softmax(std::vector<double>& row) {  // a row of nothing but -inf: zeros
  const double most = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (double& v : row) v = std::isinf(most) ? 0.0 : std::exp(v - most), sum += v;
  for (double& v : row) v = sum > 0 ? v / sum : 0.0;
}

struct Mask {
  bool there = false, full = true;
  Array a;
};

Mask draw_mask(Random& random, int N, int heads, int queries, int keys) {
  Mask m;
  m.there = random.chance(0.5);
  if (!m.there) return m;
  m.a = Array::random(random, random.chance(0.5) ? 1 : N, random.chance(0.5) ? 1 : heads,
                      random.chance(0.2) ? 1 : queries, keys);
  const double hidden = random.pick({0.0, 0.3, 0.9});
  for (double& v : m.a.v)
    if (random.chance(hidden)) v = -std::numeric_limits<double>::infinity();
  return m;
}

Answer attended(const Array& q, const Array& k, const Array& v, const Mask& m, int heads, int kv_heads, bool causal,
                double scale) {
  const int d = q.C / heads, dv = v.C / kv_heads;
  Answer y(q.N, heads * dv, q.H, 1);
  std::vector<double> row(static_cast<size_t>(k.H));
  for (int n = 0; n < q.N; ++n)
    for (int h = 0; h < heads; ++h)
      for (int i = 0; i < q.H; ++i) {
        const int shared = h / (heads / kv_heads);
        for (int j = 0; j < k.H; ++j) {
          double s = 0;
          for (int c = 0; c < d; ++c) s += q(n, h * d + c, i) * k(n, shared * d + c, j);
          s *= scale;
          if (m.there) s += m.a(m.a.N == 1 ? 0 : n, m.a.C == 1 ? 0 : h, m.a.H == 1 ? 0 : i, j);
          if (causal && j > i) s = -std::numeric_limits<double>::infinity();
          row[size_t(j)] = s;
        }
        softmax(row);
        for (int c = 0; c < dv; ++c) {
          double sum = 0;
          for (int j = 0; j < k.H; ++j) sum += row[size_t(j)] * v(n, shared * dv + c, j);
          y.value(n, h * dv + c, i) = sum, y.size(n, h * dv + c, i) = 1;
        }
      }
  return y;
}

}  // namespace

Case draw_norm(Random& random) {
  Case c;
  const int N = random.in(1, 3), C = random.size(130), H = random.size(150),
            W = random.chance(0.6) ? 1 : random.size(9);
  const bool rms = random.chance(0.4), has_weight = random.chance(0.7), has_bias = random.chance(0.6);
  const double eps = random.pick({1e-5, 1e-6, 1e-3});
  const auto weight = random.numbers(C), bias = random.numbers(C);
  Array x = Array::random(random, N, C, H, W);
  const double offset = random.chance(0.3) ? random.number(3.0) : 0.0;
  for (double& v : x.v) v = double(float(v + offset));
  Answer y(N, C, H, W);
  for (int n = 0; n < N; ++n)
    for (int h = 0; h < H; ++h)
      for (int w = 0; w < W; ++w) {
        double mean = 0, var = 0;
        for (int i = 0; i < C; ++i) mean += x(n, i, h, w) / C;
        if (rms) mean = 0;
        for (int i = 0; i < C; ++i) var += (x(n, i, h, w) - mean) * (x(n, i, h, w) - mean) / C;
        const double scale = 1.0 / std::sqrt(var + double(float(eps)));
        for (int i = 0; i < C; ++i) {
          const double a = has_weight ? weight[size_t(i)] : 1.0, b = has_bias ? bias[size_t(i)] : 0.0;
          y.value(n, i, h, w) = (x(n, i, h, w) - mean) * scale * a + b;
          y.size(n, i, h, w) = (std::fabs(x(n, i, h, w)) + std::fabs(mean)) * scale * std::fabs(a) + std::fabs(b) + 1;
        }
      }
  const int xi = c.input(random, Layout::tiles, x);
  c.output(random, Layout::tiles, y, c.tensors[size_t(xi)].R, c.tensors[size_t(xi)].T);
  c.op.ints = {rms ? 1 : 0};
  c.op.floats = {float(eps)};
  c.blob(has_weight ? weight : std::vector<float>());
  c.blob(has_bias ? bias : std::vector<float>());
  return c;
}

Case draw_softmax(Random& random) {
  Case c;
  const int W = random.size(200);
  const Array x =
      Array::random(random, random.in(1, 3), random.size(5), random.size(20), W, random.chance(0.2) ? 50.0 : 3.0);
  const int cols = random.chance(0.2) ? W * x.H : W;
  Answer y(x.N, x.C, x.H, x.W);
  for (size_t first = 0; first < x.v.size(); first += size_t(cols)) {
    std::vector<double> row(x.v.begin() + int64_t(first), x.v.begin() + int64_t(first) + cols);
    softmax(row);
    for (size_t i = 0; i < row.size(); ++i) y.value.v[first + i] = row[i], y.size.v[first + i] = 1;
  }
  c.input(random, Layout::plain, x);
  c.output(random, Layout::plain, y);
  c.op.ints = {cols};
  return c;
}

Case draw_attention(Random& random) {
  Case c;
  const int N = random.in(1, 2), kv_heads = random.in(1, 3), heads = kv_heads * random.in(1, 3);
  const int queries = random.size(90), keys = random.chance(0.6) ? queries : random.size(90);
  const int d = random.size(40), dv = random.chance(0.7) ? d : random.size(40);
  const bool causal = random.chance(0.4);
  const float scale = random.chance(0.7) ? float(1.0 / std::sqrt(double(d))) : random.number();
  const Array q = Array::random(random, N, heads * d, queries, 1, 2.0),
              k = Array::random(random, N, kv_heads * d, keys, 1, 2.0);
  const Array v = Array::random(random, N, kv_heads * dv, keys, 1);
  const Mask mask = draw_mask(random, N, heads, queries, keys);
  const int qi = c.input(random, Layout::tiles, q);
  c.input(random, Layout::tiles, k), c.input(random, Layout::tiles, v);
  if (mask.there) c.input(random, Layout::plain, mask.a);
  else c.op.in.push_back(-1);
  c.output(random, Layout::tiles, attended(q, k, v, mask, heads, kv_heads, causal, scale), c.tensors[size_t(qi)].R,
           c.tensors[size_t(qi)].T);
  c.op.ints = {heads, kv_heads, causal ? 1 : 0};
  c.op.floats = {scale};
  c.tolerance = 3e-5;  // scores carry errors into exponentials
  return c;
}

Case draw_embedding(Random& random) {
  Case c;
  const int N = random.in(1, 3), D = random.size(70), L = random.size(60), tables = random.in(1, 3);
  Answer y(N, D, L, 1);
  for (double& s : y.size.v) s = 1;
  for (int t = 0; t < tables; ++t) {
    const bool fixed = random.chance(0.3);
    const int rows = fixed ? L : random.size(50);
    const auto table = random.numbers(int64_t(rows) * D);
    std::vector<int64_t> ids;
    for (int i = 0; i < N * L; ++i) ids.push_back(fixed ? i % L : random.in(0, rows - 1));
    if (fixed) c.op.in.push_back(-1);
    else c.token_ids(N, L, ids);
    for (int n = 0; n < N; ++n)
      for (int l = 0; l < L; ++l)
        for (int i = 0; i < D; ++i) y.value(n, i, l) += table[size_t(ids[size_t(n * L + l)]) * size_t(D) + size_t(i)];
    c.blob(table);
  }
  c.output(random, Layout::tiles, y);
  return c;
}

Case draw_rope(Random& random) {
  Case c;
  const int N = random.in(1, 3), heads = random.in(1, 4), half = random.size(20), d = 2 * half, L = random.size(80);
  const Array x = Array::random(random, N, heads * d, L, 1);
  const auto cosines = random.numbers(int64_t(L) * d), sines = random.numbers(int64_t(L) * d);
  Answer y(N, heads * d, L, 1);
  for (int n = 0; n < N; ++n)
    for (int h = 0; h < heads; ++h)
      for (int l = 0; l < L; ++l)
        for (int i = 0; i < d; ++i) {
          const double turned = i < half ? -x(n, h * d + i + half, l) : x(n, h * d + i - half, l);
          const size_t at = size_t(l) * size_t(d) + size_t(i);
          y.value(n, h * d + i, l) = x(n, h * d + i, l) * cosines[at] + turned * sines[at];
          y.size(n, h * d + i, l) = 1;
        }
  const int xi = c.input(random, Layout::tiles, x);
  c.output(random, Layout::tiles, y, c.tensors[size_t(xi)].R, c.tensors[size_t(xi)].T);
  c.op.ints = {heads};
  c.blob(cosines), c.blob(sines);
  return c;
}

}  // namespace sl::oracle
