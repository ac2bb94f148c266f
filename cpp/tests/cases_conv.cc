// Windows: conv, first_conv, dwconv, pool.
#include "oracle.h"
#include "sparse.h"

namespace sl::oracle {

namespace {

struct Geometry {
  int kh, kw, sh, sw, pt, pl, pb, pr, dh, dw, H, W, OH, OW;
  std::vector<int32_t> ints() const { return {kh, kw, sh, sw, pt, pl, pb, pr, dh, dw}; }
};

Geometry draw_geometry(Random& random, bool dilated) {
  Geometry g;
  for (;;) {
    const bool square = random.chance(0.6);
    g.kh = random.pick({1, 2, 3, 3, 3, 5, 7}), g.kw = square ? g.kh : random.in(1, 7);
    g.sh = random.pick({1, 1, 2, 2, 3}), g.sw = square ? g.sh : random.in(1, 4);
    g.dh = dilated && random.chance(0.2) ? random.in(1, 3) : 1, g.dw = square ? g.dh : dilated ? random.in(1, 2) : 1;
    const bool same = random.chance(0.5);
    g.pt = same ? g.kh / 2 : random.in(0, g.kh - 1), g.pl = same ? g.kw / 2 : random.in(0, g.kw - 1);
    g.pb = same ? g.pt : random.in(0, g.kh - 1), g.pr = same ? g.pl : random.in(0, g.kw - 1);
    g.H = random.size(24), g.W = random.chance(0.3) ? random.in(1, 40) : random.size(24);
    const int high = g.H + g.pt + g.pb - (g.kh - 1) * g.dh - 1, wide = g.W + g.pl + g.pr - (g.kw - 1) * g.dw - 1;
    if (high < 0 || wide < 0) continue;
    g.OH = high / g.sh + 1, g.OW = wide / g.sw + 1;
    return g;
  }
}

Answer convolution(const Array& x, const std::vector<float>& weight, const std::vector<float>& bias, int outputs,
                   int groups, const Geometry& g, const Array* residual, const Activated& act) {
  Answer y(x.N, outputs, g.OH, g.OW);
  const int per = x.C / groups, per_out = outputs / groups;
  for (int n = 0; n < x.N; ++n)
    for (int o = 0; o < outputs; ++o)
      for (int h = 0; h < g.OH; ++h)
        for (int w = 0; w < g.OW; ++w) {
          double sum = bias[size_t(o)], size = std::fabs(sum);
          for (int c = 0; c < per; ++c)
            for (int i = 0; i < g.kh; ++i)
              for (int j = 0; j < g.kw; ++j) {
                const int yy = h * g.sh - g.pt + i * g.dh, xx = w * g.sw - g.pl + j * g.dw;
                if (yy < 0 || yy >= x.H || xx < 0 || xx >= x.W) continue;
                const size_t at =
                    ((size_t(o) * size_t(per) + size_t(c)) * size_t(g.kh) + size_t(i)) * size_t(g.kw) + size_t(j);
                const double term = weight[at] * x(n, o / per_out * per + c, yy, xx);
                sum += term, size += std::fabs(term);
              }
          if (residual) sum += (*residual)(n, o, h, w), size += std::fabs((*residual)(n, o, h, w));
          y.value(n, o, h, w) = act(sum), y.size(n, o, h, w) = size;
        }
  return y;
}

Case draw_convolution(Random& random, bool first) {
  Case c;
  const Geometry g = draw_geometry(random, true);
  const bool dense = first || random.chance(0.4);
  const int groups = dense || random.chance(0.6) ? 1 : random.in(2, 4);
  const bool deep = !dense && groups == 1 && g.kh * g.kw <= 25 && random.chance(0.15);  // taken in layers
  const int C = deep ? random.in(80, 160) : groups * (first ? random.in(1, 4) : random.size(groups > 1 ? 6 : 20)),
            O = deep ? random.in(1, 12) : groups * random.size(groups > 1 ? 7 : 40);
  const int N = random.in(1, 2), per = C / groups * g.kh * g.kw, G = random.pick({1, 2, 4});
  const Activated act = Activated::draw(random);
  const double sparsity = dense ? 0.0 : random.pick({0.0, 0.5, 0.9, 1.0, random.uniform()});
  const auto bias = random.numbers(O);
  auto weight = random.numbers(int64_t(O) * per);
  const Blocks blocks = draw_blocks(random, weight, O, per, groups, G, sparsity);
  if (dense) weight = random.numbers(int64_t(O) * per);
  const Array x = Array::random(random, N, C, g.H, g.W), residual = Array::random(random, N, O, g.OH, g.OW);
  const bool with_residual = random.chance(0.4);
  c.input(random, first ? Layout::plain : Layout::tiles, x);
  c.interleaved.back() = first;
  const int R = random.in(1, g.OH), T = round_up(R * g.OW, LANES);
  if (with_residual) c.input(random, Layout::tiles, residual, R, T);
  else c.op.in.push_back(-1);
  c.output(random, Layout::tiles, convolution(x, weight, bias, O, groups, g, with_residual ? &residual : nullptr, act),
           R, T);
  c.op.ints = g.ints();
  for (int v : {groups, int(act.act), dense ? random.pick({0, -1, -2}) : G, random.pick({0, 0, 16, 64, 192})})
    c.op.ints.push_back(v);
  c.op.floats = {act.lo, act.hi};
  c.blob(bias);
  if (dense) c.blob(weight);
  else blocks.store(c, per);
  c.text = dense ? "dense" : "sparsity " + std::to_string(sparsity);
  return c;
}

}  // namespace

Case draw_conv(Random& random) { return draw_convolution(random, false); }
Case draw_first_conv(Random& random) { return draw_convolution(random, true); }

Case draw_dwconv(Random& random) {
  Case c;
  const Geometry g = draw_geometry(random, true);
  const int N = random.in(1, 2), C = random.size(40);
  const Activated act = Activated::draw(random);
  const auto bias = random.numbers(C), weight = random.numbers(int64_t(C) * g.kh * g.kw);
  const Array x = Array::random(random, N, C, g.H, g.W);
  c.input(random, Layout::tiles, x);
  c.output(random, Layout::tiles, convolution(x, weight, bias, C, C, g, nullptr, act));
  c.op.ints = g.ints();
  c.op.ints.push_back(int(act.act));
  c.op.floats = {act.lo, act.hi};
  c.blob(bias), c.blob(weight);
  return c;
}

Case draw_pool(Random& random) {
  Case c;
  const Geometry g = draw_geometry(random, false);
  const int N = random.in(1, 2), C = random.size(40);
  const bool max = random.chance(0.5), include = random.chance(0.5);
  const Array x = Array::random(random, N, C, g.H, g.W);
  Answer y(N, C, g.OH, g.OW);
  for (int n = 0; n < N; ++n)
    for (int k = 0; k < C; ++k)
      for (int h = 0; h < g.OH; ++h)
        for (int w = 0; w < g.OW; ++w) {
          double sum = 0, most = -std::numeric_limits<double>::infinity();
          int count = 0;
          for (int i = 0; i < g.kh; ++i)
            for (int j = 0; j < g.kw; ++j) {
              const int yy = h * g.sh - g.pt + i, xx = w * g.sw - g.pl + j;
              if (yy >= g.H + g.pb || xx >= g.W + g.pr) continue;
              const bool inside = yy >= 0 && yy < g.H && xx >= 0 && xx < g.W;
              count += inside || include;
              if (inside) sum += x(n, k, yy, xx), most = std::max(most, x(n, k, yy, xx));
            }
          y.value(n, k, h, w) = max ? most : sum / count;
          y.size(n, k, h, w) = 1;
        }
  c.input(random, Layout::tiles, x);
  c.output(random, Layout::tiles, y);
  c.op.ints = {max ? 0 : 1, g.kh, g.kw, g.sh, g.sw, g.pt, g.pl, g.pb, g.pr, include ? 1 : 0};
  return c;
}

}  // namespace sl::oracle
