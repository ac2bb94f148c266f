// One number in, one number out, and moves: pack, unpack, gap, unary, binary, channel, concat, slice, relayout.
#include "oracle.h"

namespace sl::oracle {

namespace {

Array image(Random& random, double scale = 1.0) {
  const int W = random.chance(0.3) ? 1 : random.size(30);
  return Array::random(random, random.in(1, 3), random.size(40), random.size(W == 1 ? 150 : 24), W, scale);
}
Array image_or_vector(Random& random, double scale = 1.0) {
  return random.chance(0.3) ? Array::random(random, random.in(1, 3), random.size(300), 1, 1, scale)
                            : image(random, scale);
}

template <class F>
Answer mapped(const Array& x, F f) {  // f(n, c, h, w)
  Answer y(x.N, x.C, x.H, x.W);
  for (int n = 0; n < x.N; ++n)
    for (int c = 0; c < x.C; ++c)
      for (int h = 0; h < x.H; ++h)
        for (int w = 0; w < x.W; ++w)
          y.value(n, c, h, w) = f(n, c, h, w), y.size(n, c, h, w) = 1 + std::fabs(x(n, c, h, w));
  return y;
}
Answer same(const Array& x) {
  return mapped(x, [&](int n, int c, int h, int w) { return x(n, c, h, w); });
}
Answer alike(Case& c, Random& random, int number, Answer y) {  // an output that lies like tensor `number`
  const Tensor t = c.tensors[size_t(number)];
  c.output(random, t.layout, y, t.R, t.T);
  return y;
}

Case draw_moved(Random& random, bool packing) {
  Case c;
  const Array x = random.chance(0.5) ? image(random)
                                     : Array::random(random, random.in(1, 2), random.in(1, 70), random.in(1, 70), 1);
  const bool interleaved = random.chance(0.6);
  c.input(random, packing ? Layout::plain : Layout::tiles, x);
  c.interleaved.back() = packing && interleaved;
  c.output(random, packing ? Layout::tiles : Layout::plain, same(x));
  c.interleaved.back() = !packing && interleaved;
  c.op.ints = {interleaved ? 1 : 0};
  c.tolerance = 0;
  return c;
}

}  // namespace

Case draw_pack(Random& random) { return draw_moved(random, true); }
Case draw_unpack(Random& random) { return draw_moved(random, false); }

Case draw_gap(Random& random) {
  Case c;
  const Array x = image(random);
  Answer y(x.N, x.C, 1, 1);
  for (int n = 0; n < x.N; ++n)
    for (int k = 0; k < x.C; ++k) {
      for (int h = 0; h < x.H; ++h)
        for (int w = 0; w < x.W; ++w) y.value(n, k) += x(n, k, h, w) / (x.H * x.W);
      y.size(n, k) = 1;
    }
  c.input(random, Layout::tiles, x);
  c.output(random, Layout::plain, y);
  return c;
}

Case draw_unary(Random& random) {
  Case c;
  const Array x = image_or_vector(random, random.pick({1.0, 4.0, 30.0}));
  const Activated act = Activated::draw(random);
  const bool plain = random.chance(0.4);
  const float a = plain ? 1.0f : random.number(2.0), b = plain ? 0.0f : random.number();
  const int xi = c.input(random, any_layout(random), x);
  alike(c, random, xi, mapped(x, [&](int n, int k, int h, int w) { return act(a * x(n, k, h, w) + b); }));
  c.op.ints = {int(act.act)};
  c.op.floats = {act.lo, act.hi, a, b};
  return c;
}

Case draw_binary(Random& random) {
  Case c;
  const Array a = image_or_vector(random);
  const int mode = random.in(0, 1), what = random.in(0, 2);
  const Activated act = Activated::draw(random);
  const Array b = mode == 0 ? Array::random(random, random.chance(0.7) ? a.N : 1, a.C, a.H, a.W)
                            : Array::random(random, random.chance(0.5) ? a.N : 1, a.C, 1, 1);
  const int ai = c.input(random, any_layout(random), a);
  const Tensor t = c.tensors[size_t(ai)];
  c.input(random, mode == 0 ? t.layout : Layout::plain, b, t.R, t.T);
  alike(c, random, ai, mapped(a, [&](int n, int k, int h, int w) {
          const double v = a(n, k, h, w), u = mode == 0 ? b(b.N == 1 ? 0 : n, k, h, w) : b(b.N == 1 ? 0 : n, k);
          return act(what == 0 ? v + u : what == 1 ? v * u : v - u);
        }));
  c.op.ints = {what, mode, int(act.act)};
  c.op.floats = {act.lo, act.hi};
  return c;
}

Case draw_channel(Random& random) {
  Case c;
  const Array x = image_or_vector(random);
  const Activated act = Activated::draw(random);
  const auto scale = random.numbers(x.C, 2.0), shift = random.numbers(x.C);
  const int xi = c.input(random, any_layout(random), x);
  alike(c, random, xi, mapped(x, [&](int n, int k, int h, int w) {
          return act(x(n, k, h, w) * scale[size_t(k)] + shift[size_t(k)]);
        }));
  c.op.ints = {int(act.act)};
  c.op.floats = {act.lo, act.hi};
  c.blob(scale), c.blob(shift);
  return c;
}

Case draw_concat(Random& random) {
  Case c;
  const int axis = random.in(1, 2), parts = random.in(1, 4);
  const Array like = image(random);
  std::vector<Array> xs;
  int length = 0;
  for (int i = 0; i < parts; ++i) {
    const int some = random.size(20);
    xs.push_back(axis == 1 ? Array::random(random, like.N, some, like.H, like.W)
                           : Array::random(random, like.N, like.C, some, like.W));
    length += some;
  }
  Array all = axis == 1 ? Array(like.N, length, like.H, like.W) : Array(like.N, like.C, length, like.W);
  int at = 0;
  for (const Array& x : xs) {
    for (int n = 0; n < x.N; ++n)
      for (int k = 0; k < x.C; ++k)
        for (int h = 0; h < x.H; ++h)
          for (int w = 0; w < x.W; ++w) all(n, axis == 1 ? at + k : k, axis == 2 ? at + h : h, w) = x(n, k, h, w);
    at += axis == 1 ? x.C : x.H;
    c.input(random, Layout::tiles, x);
  }
  c.output(random, Layout::tiles, same(all));
  c.op.ints = {axis};
  c.tolerance = 0;
  return c;
}

Case draw_slice(Random& random) {
  Case c;
  const Array x = image(random);
  const int axis = random.in(1, 2), length = axis == 1 ? x.C : x.H;
  const int start = random.in(0, length - 1);
  const bool row = axis == 2 && x.W == 1 && random.chance(0.4);
  const int stop = row ? start + 1 : random.in(start + 1, length);
  Array y = axis == 1 ? Array(x.N, stop - start, x.H, x.W) : Array(x.N, x.C, stop - start, x.W);
  for (int n = 0; n < y.N; ++n)
    for (int k = 0; k < y.C; ++k)
      for (int h = 0; h < y.H; ++h)
        for (int w = 0; w < y.W; ++w) y(n, k, h, w) = x(n, axis == 1 ? k + start : k, axis == 2 ? h + start : h, w);
  c.input(random, Layout::tiles, x);
  c.output(random, row ? Layout::plain : Layout::tiles, same(y));
  c.op.ints = {axis, start, stop};
  c.tolerance = 0;
  return c;
}

Case draw_relayout(Random& random) {
  Case c;
  const Array x = image(random);
  Array y = x;
  if (random.chance(0.5)) std::swap(y.H, y.W);
  else if (random.chance(0.5)) y.H = x.H * x.W, y.W = 1;
  c.input(random, Layout::tiles, x);
  c.output(random, Layout::tiles, same(y));
  c.tolerance = 0;
  return c;
}

}  // namespace sl::oracle
