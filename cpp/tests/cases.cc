// What all cases share: tensors, activations, the list of kinds.
#include "oracle.h"

namespace sl::oracle {

int Case::tensor(Random& random, Layout layout, int n, int c, int h, int w, int rows, int lanes) {
  Tensor t;
  t.layout = layout, t.N = n, t.C = c, t.H = h, t.W = w;
  if (layout == Layout::tiles) {
    t.R = rows ? rows : random.chance(0.4) ? h : random.in(1, h);
    t.T = lanes ? lanes : round_up(t.R * w, LANES) + (random.chance(0.2) ? LANES * random.in(1, 3) : 0);
  }
  tensors.push_back(t);
  values.emplace_back();
  ids.emplace_back();
  interleaved.push_back(false);
  return int(tensors.size()) - 1;
}

int Case::input(Random& random, Layout layout, const Array& a, int rows, int lanes) {
  const int i = tensor(random, layout, a.N, a.C, a.H, a.W, rows, lanes);
  values.back() = a;
  op.in.push_back(i);
  return i;
}

int Case::output(Random& random, Layout layout, const Answer& a, int rows, int lanes) {
  const int i = tensor(random, layout, a.value.N, a.value.C, a.value.H, a.value.W, rows, lanes);
  answers.push_back(a);
  op.out.push_back(i);
  return i;
}

int Case::token_ids(int n, int length, const std::vector<int64_t>& of) {
  Tensor t;
  t.layout = Layout::ids, t.N = n, t.C = length;
  tensors.push_back(t);
  values.emplace_back();
  ids.push_back(of);
  interleaved.push_back(false);
  op.in.push_back(int(tensors.size()) - 1);
  return op.in.back();
}

double Activated::operator()(double v) const {
  const auto sigmoid = [](double x) { return 1.0 / (1.0 + std::exp(-x)); };
  switch (act) {
    case Act::none: return v;
    case Act::clamp: return std::min(std::max(v, double(lo)), double(hi));
    case Act::hardswish: return v * std::min(std::max(v + 3.0, 0.0), 6.0) / 6.0;
    case Act::hardsigmoid: return std::min(std::max(v + 3.0, 0.0), 6.0) / 6.0;
    case Act::silu: return v * sigmoid(v);
    case Act::gelu: return 0.5 * v * (1.0 + std::erf(v / std::sqrt(2.0)));
    case Act::gelu_tanh:
      return 0.5 * v * (1.0 + std::tanh(std::sqrt(2.0 / 3.14159265358979323846) * (v + 0.044715 * v * v * v)));
    case Act::sigmoid: return sigmoid(v);
    case Act::tanh: return std::tanh(v);
  }
  return v;
}

Activated Activated::draw(Random& random) {
  const float inf = std::numeric_limits<float>::infinity();
  Activated a;
  if (random.chance(0.4)) return a;
  a.act = Act(random.in(1, 8));
  if (a.act != Act::clamp) return a;
  const int which = random.in(0, 2);
  a.lo = which == 2 ? -0.5f : 0.0f, a.hi = which == 0 ? inf : which == 1 ? 6.0f : 0.7f;
  return a;
}

Layout any_layout(Random& random) { return random.chance(0.6) ? Layout::tiles : Layout::plain; }

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all{
      {"spmm", draw_spmm},
      {"gemm", draw_gemm},
      {"conv", draw_conv},
      {"first_conv", draw_first_conv},
      {"dwconv", draw_dwconv},
      {"pack", draw_pack},
      {"unpack", draw_unpack},
      {"pool", draw_pool},
      {"gap", draw_gap},
      {"unary", draw_unary},
      {"binary", draw_binary},
      {"channel", draw_channel},
      {"norm", draw_norm},
      {"softmax", draw_softmax},
      {"attention", draw_attention},
      {"fc", draw_fc},
      {"embedding", draw_embedding},
      {"rope", draw_rope},
      {"concat", draw_concat},
      {"slice", draw_slice},
      {"relayout", draw_relayout},
  };
  return all;
}

}  // namespace sl::oracle
