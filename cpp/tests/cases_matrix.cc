// Products: spmm, gemm, fc.
#include "oracle.h"
#include "sparse.h"

namespace sl::oracle {

namespace {

// y = act(W (x * scale) + bias + residual), pixel by pixel.
Answer product(const Array& x, const std::vector<float>& weight, const std::vector<float>& bias, int outputs,
               const Array* residual, const Array* scale, const Activated& act) {
  Answer y(x.N, outputs, x.H, x.W);
  for (int n = 0; n < x.N; ++n)
    for (int o = 0; o < outputs; ++o)
      for (int h = 0; h < x.H; ++h)
        for (int w = 0; w < x.W; ++w) {
          double sum = bias[size_t(o)], size = std::fabs(sum);
          for (int c = 0; c < x.C; ++c) {
            const double term =
                double(weight[size_t(o) * size_t(x.C) + size_t(c)]) * x(n, c, h, w) * (scale ? (*scale)(n, c) : 1);
            sum += term, size += std::fabs(term);
          }
          if (residual) sum += (*residual)(n, o, h, w), size += std::fabs((*residual)(n, o, h, w));
          y.value(n, o, h, w) = act(sum);
          y.size(n, o, h, w) = size;
        }
  return y;
}

Case draw_product(Random& random, bool sparse) {
  Case c;
  const bool deep = sparse && random.chance(0.1);  // enough inputs to be taken in layers
  const int N = deep ? 1 : random.in(1, 3), H = deep ? random.in(8, 20) : random.size(20);
  const int W = deep ? random.in(8, 20) : random.chance(0.3) ? 1 : random.size(20);
  const int K = deep ? random.in(200, 500) : random.size(70), O = deep ? random.in(1, 30) : random.size(70);
  const Activated act = Activated::draw(random);
  const double sparsity = sparse ? random.pick({0.0, 0.5, 0.9, 1.0, random.uniform()}) : 0.0;
  const int G = random.pick({1, 2, 4});
  const auto bias = random.numbers(O);
  auto weight = random.numbers(int64_t(O) * K);
  const Blocks blocks = draw_blocks(random, weight, O, K, 1, sparse ? G : 1, sparsity);
  const Array x = Array::random(random, N, K, H, W);
  const bool with_residual = random.chance(0.4), with_scale = random.chance(0.3);
  const Array residual = Array::random(random, N, O, H, W), scale = Array::random(random, N, K, 1, 1);
  const int xi = c.input(random, Layout::tiles, x);
  const int R = c.tensors[size_t(xi)].R, T = c.tensors[size_t(xi)].T;
  if (with_residual) c.input(random, Layout::tiles, residual, R, T);
  else c.op.in.push_back(-1);
  if (with_scale) c.input(random, Layout::plain, scale);
  else c.op.in.push_back(-1);
  const Answer y = product(x, weight, bias, O, with_residual ? &residual : nullptr, with_scale ? &scale : nullptr, act);
  c.output(random, Layout::tiles, y, R, T);
  c.op.floats = {act.lo, act.hi};
  const int chunk = random.pick({0, 0, 16, 32, 64, 256});
  c.blob(bias);
  if (sparse) {
    c.op.ints = {int(act.act), G, chunk};
    blocks.store(c, K);
  } else {
    c.op.ints = {int(act.act), random.in(0, 2), chunk};
    c.blob(weight);
  }
  c.text = "sparsity " + std::to_string(sparsity);
  return c;
}

}  // namespace

Blocks draw_blocks(Random& random, std::vector<float>& weight, int O, int K, int groups, int G, double sparsity) {
  Blocks b;
  b.G = G;
  const int per = O / groups;
  for (int group = 0; group < groups; ++group) {
    std::vector<uint32_t> order(static_cast<size_t>(per));
    std::iota(order.begin(), order.end(), uint32_t(group * per));
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.next() % i]);
    for (size_t first = 0; first < order.size(); first += size_t(G)) {
      const size_t rows = std::min(order.size() - first, size_t(G));
      uint32_t count = 0;
      for (size_t g = 0; g < size_t(G); ++g) b.rows.push_back(g < rows ? order[first + g] : 0xffffffffu);
      for (int k = 0; k < K; ++k) {
        bool any = false;
        std::vector<float> entry(size_t(G), 0.0f);
        for (size_t g = 0; g < rows; ++g) {
          float& w = weight[size_t(order[first + g]) * size_t(K) + size_t(k)];
          if (random.chance(sparsity)) w = 0;
          entry[g] = w, any = any || w != 0;
        }
        if (!any) continue;
        b.index.push_back(uint32_t(k));
        b.values.insert(b.values.end(), entry.begin(), entry.end());
        ++count;
      }
      b.counts.push_back(count);
    }
  }
  return b;
}

void Blocks::store(Case& c, int K) const {
  c.blob(rows), c.blob(counts);
  if (K > 65535) c.blob(index);
  else c.blob(std::vector<uint16_t>(index.begin(), index.end()));
  c.blob(values);
}

Case draw_spmm(Random& random) { return draw_product(random, true); }
Case draw_gemm(Random& random) { return draw_product(random, false); }

Case draw_fc(Random& random) {
  Case c;
  const int N = random.chance(0.5) ? 1 : random.in(1, 35), K = random.size(300), O = random.size(300);
  const bool sparse = random.chance(0.5), wide = sparse && random.chance(0.03);
  const int inputs = wide ? 65537 + K : K, outputs = wide ? std::min(O, 7) : O;
  const double sparsity = wide ? 0.99 : random.uniform();
  const Activated act = Activated::draw(random);
  const auto bias = random.numbers(outputs);
  auto weight = random.numbers(int64_t(outputs) * inputs);
  std::vector<uint32_t> rows{0}, index;
  std::vector<float> values;
  for (int o = 0; sparse && o < outputs; ++o) {
    for (int k = 0; k < inputs; ++k) {
      float& w = weight[size_t(o) * size_t(inputs) + size_t(k)];
      if (random.chance(sparsity)) w = 0;
      if (w != 0) index.push_back(uint32_t(k)), values.push_back(w);
    }
    rows.push_back(uint32_t(index.size()));
  }
  const Array x = Array::random(random, N, inputs, 1, 1), residual = Array::random(random, N, outputs, 1, 1);
  const bool with_residual = random.chance(0.4);
  c.input(random, Layout::plain, x);
  if (with_residual) c.input(random, Layout::plain, residual);
  else c.op.in.push_back(-1);
  c.output(random, Layout::plain, product(x, weight, bias, outputs, with_residual ? &residual : nullptr, nullptr, act));
  c.op.ints = {int(act.act)};
  c.op.floats = {act.lo, act.hi};
  c.blob(bias);
  if (sparse) {
    c.blob(rows);
    if (inputs > 65535) c.blob(index);
    else c.blob(std::vector<uint16_t>(index.begin(), index.end()));
    c.blob(values);
  } else {
    c.blob(weight);
  }
  c.text = sparse ? "CSR, sparsity " + std::to_string(sparsity) : "dense";
  return c;
}

}  // namespace sl::oracle
