// Causes of which in each pixel only the largest shows: smooth maxima over every support of a few candidates, and what
// each cause has of them. Twin: sparseland/kernels/causes.py.
//
//   u_d(s) = sum over h in s of powers[h, d];  f = |u|^e;  maximum m = f u   (e = 1/rho - 1, in -1 … 0)
#include "ops/doubles.h"
#include "ops/supports.h"

namespace {

using namespace sl::doubles;

constexpr double LEAST_NORMAL = 2.2250738585072014e-308;

int64_t padded(int64_t d) { return (d + W - 1) / W * W; }

// u becomes |u|^e. What is below the least normal number counts as that: f is a number, and f u is 0 where u is.
template <int N>
SL_IN void falling(vd (&u)[N], double e) {
  for (int k = 0; k < N; ++k) u[k] = larger(set(LEAST_NORMAL), magnitude(u[k]));
  log2(u);
  for (int k = 0; k < N; ++k) u[k] *= set(e);
  exp2(u);
}

struct Group {  // one set of candidates
  const double *rows, *y;  // (h, width) powers of its members; (width): its point, or null; padded with 0
  int64_t pixels, width;
  double e;
};

// u of N vectors of pixels from d on.
template <int N>
SL_IN void add_up(const Group& at, const int64_t* support, int64_t size, int64_t d, vd (&u)[N]) {
  for (int k = 0; k < N; ++k) u[k] = vd{};
  for (int64_t i = 0; i < size; ++i)
    for (int k = 0; k < N; ++k) u[k] += load(at.rows + support[i] * at.width + d + k * W);
}

struct Sum {
  vd length, cross;
};

// Of one state; image: (pixels), or null.
template <int N>
SL_IN Sum strip(const Group& at, const int64_t* support, int64_t size, int64_t d, double* image, Sum sum) {
  vd u[N], m[N];
  add_up(at, support, size, d, u);
  for (int k = 0; k < N; ++k) m[k] = u[k];
  falling(m, at.e);
  for (int k = 0; k < N; ++k) {
    m[k] *= u[k];
    sum.length += m[k] * m[k];
    if (at.y) sum.cross += m[k] * load(at.y + d + k * W);
  }
  for (int k = 0; k < N && image; ++k) {
    const int64_t here = d + k * W;
    if (here + W <= at.pixels) store(image + here, m[k]);
    else store_some(image + here, m[k], at.pixels - here);
  }
  return sum;
}

SL_CLONES void maximum(const Group& at, const int64_t* support, int64_t size, double* image, double* length,
                       double* cross) {
  Sum found = {};
  int64_t d = 0;
  for (; d + 6 * W <= at.width; d += 6 * W) found = strip<6>(at, support, size, d, image, found);  // faster than one
  for (; d + 3 * W <= at.width; d += 3 * W) found = strip<3>(at, support, size, d, image, found);
  for (; d < at.width; d += W) found = strip<1>(at, support, size, d, image, found);
  *length = sum(found.length);
  if (cross) *cross = sum(found.cross);
}

// Rows of D numbers into rows of `width`, whose ends are 0 already.
void widen(const double* from, int64_t rows, int64_t D, double* to, int64_t width) {
  for (int64_t i = 0; i < rows; ++i) std::copy_n(from + i * D, D, to + i * width);
}

struct Sizes {
  int64_t H, D, U, h, number;
};

Sizes checked(const Matrix& powers, const Sets& members, const Matrix& states, double exponent) {
  const Sizes found{int64_t(powers.shape(0)), int64_t(powers.shape(1)), int64_t(members.shape(0)),
                    int64_t(members.shape(1)), int64_t(states.shape(0))};
  need(int64_t(states.shape(1)) == found.h, "states have one column for each member");
  need(exponent >= -1 && exponent <= 0, "the exponent lies in -1 … 0");
  inside(members, found.H);
  return found;
}

// Either images (U n_s, D), and no y, no cross; or y (U, D) and cross (U, n_s), and no images.
void maxima(Matrix powers, Sets members, Matrix states, double exponent, bool single, Matrix y, Out images, Out lengths,
            Out cross, int threads) {
  const Sizes sizes = checked(powers, members, states, exponent);
  const int64_t D = sizes.D, U = sizes.U, h = sizes.h, number = sizes.number;
  need(shaped(lengths, U, number), "lengths are (U, n_s)");
  need(single ? shaped(y, U, D) && shaped(cross, U, number) : shaped(images, U * number, D),
       "y is (U, D) and cross (U, n_s), or else images are (U n_s, D)");
  const Lists lists = supports(states, false);
  const int64_t width = padded(D);
  nb::gil_scoped_release free;
  spread(U, pieces_of(U * number * width, 1 << 14), threads, [&](int, int64_t first, int64_t last) {
    std::vector<double> rows(size_t((h + 1) * width));  // the last is the point
    double* point = rows.data() + h * width;
    const Group at{rows.data(), single ? point : nullptr, D, width, exponent};
    for (int64_t u = first; u < last; ++u) {
      for (int64_t i = 0; i < h; ++i)
        widen(powers.data() + members.data()[u * h + i] * D, 1, D, rows.data() + i * width, width);
      if (single) widen(y.data() + u * D, 1, D, point, width);
      for (int64_t s = 0; s < number; ++s) {
        const int64_t place = u * number + s;
        maximum(at, lists.begin(s), lists.size(s), single ? nullptr : images.data() + place * D,
                lengths.data() + place, single ? cross.data() + place : nullptr);
      }
    }
  });
}

struct Share {  // of one group
  Group group;
  const Lists &of_state, &of_member;
  int64_t h, number;
  const double *weight, *second;  // (n_s), (n_s, D); second: null where there is a point
  const int64_t* members;
  const double* slopes;   // (H, width)
  double *below, *above;  // (H, width)
  double* powers;         // room for one strip of every state
};

template <int N, bool CAP, bool SINGLE>
SL_IN void share(const Share& at, int64_t d) {
  const int64_t width = at.group.width, D = at.group.pixels;
  for (int64_t s = 0; s < at.number; ++s) {
    vd f[N];
    add_up(at.group, at.of_state.begin(s), at.of_state.size(s), d, f);
    falling(f, at.group.e);
    for (int k = 0; k < N; ++k) store(at.powers + (s * N + k) * W, f[k]);
  }
  for (int64_t i = 0; i < at.h; ++i) {
    vd below[N] = {}, above[N] = {}, slope[N];
    const int64_t row = at.members[i] * width + d;
    for (int k = 0; k < N; ++k) slope[k] = load(at.slopes + row + k * W);
    for (int64_t e = 0; e < at.of_member.size(i); ++e) {
      const int64_t s = at.of_member.begin(i)[e];
      for (int k = 0; k < N; ++k) {
        vd f = load(at.powers + (s * N + k) * W) * slope[k];
        if (CAP) f = f > set(1.0) ? set(1.0) : f;
        below[k] += set(at.weight[s]) * f;
        if (SINGLE) continue;
        const int64_t here = d + k * W;
        const double* second = at.second + s * D + here;
        above[k] += (here + W <= D ? load(second) : load_some(second, D - here)) * f;
      }
    }
    for (int k = 0; k < N; ++k) {
      if (SINGLE) above[k] = below[k] * load(at.group.y + d + k * W);
      double *b = at.below + row + k * W, *a = at.above + row + k * W;
      store(b, load(b) + below[k]), store(a, load(a) + above[k]);
    }
  }
}

template <bool CAP, bool SINGLE>
SL_IN void row(const Share& at) {
  int64_t d = 0;
  for (; d + 6 * W <= at.group.width; d += 6 * W) share<6, CAP, SINGLE>(at, d);
  for (; d < at.group.width; d += W) share<1, CAP, SINGLE>(at, d);
}

SL_CLONES void shares_of(const Share& at, bool cap) {
  if (cap) at.second ? row<true, false>(at) : row<true, true>(at);
  else at.second ? row<false, false>(at) : row<false, true>(at);
}

// Adds to below and above (H, D). y (U, D) and no second where every point is a group; else second (U n_s, D), no y.
void shares(Matrix powers, Matrix slopes, Sets members, Matrix states, double exponent, bool cap, Matrix weight,
            bool single, Matrix y, Matrix second, Out below, Out above, int threads) {
  const Sizes sizes = checked(powers, members, states, exponent);
  const int64_t H = sizes.H, D = sizes.D, U = sizes.U, h = sizes.h, number = sizes.number;
  need(shaped(slopes, H, D) && shaped(weight, U, number), "slopes are (H, D) and weight (U, n_s)");
  need(single ? shaped(y, U, D) : shaped(second, U * number, D), "y is (U, D), or else second (U n_s, D)");
  need(shaped(below, H, D) && shaped(above, H, D), "below and above are (H, D)");
  const Lists of_state = supports(states, false), of_member = supports(states, true);
  const int64_t width = padded(D);
  nb::gil_scoped_release free;
  const int pieces = pieces_of(U, 32);
  const size_t size = size_t(H * width);
  std::vector<double> wide(size);
  widen(slopes.data(), H, D, wide.data(), width);
  Sums sums(pieces, 2 * size);
  spread(U, pieces, threads, [&](int piece, int64_t first, int64_t last) {
    std::vector<double> rows(size_t((h + 1) * width)), strips(size_t(number * 6 * W));
    double* point = rows.data() + h * width;
    for (int64_t u = first; u < last; ++u) {
      for (int64_t i = 0; i < h; ++i)
        widen(powers.data() + members.data()[u * h + i] * D, 1, D, rows.data() + i * width, width);
      if (single) widen(y.data() + u * D, 1, D, point, width);
      const double* own = single ? nullptr : second.data() + u * number * D;
      shares_of({{rows.data(), point, D, width, exponent}, of_state, of_member, h, number, weight.data() + u * number,
                 own, members.data() + u * h, wide.data(), sums.of(piece), sums.of(piece) + size, strips.data()},
                cap);
    }
  });
  sums.add_to(below.data(), 0, H, D, width);
  sums.add_to(above.data(), size, H, D, width);
}

}  // namespace

void bind_causes(nb::module_& m) {
  m.def("causes_maxima", &maxima, "Smooth maxima of every state of every group: lengths, and products with y or all.");
  m.def("causes_shares", &shares, "Adds what each cause has of the smooth maxima to two sums.");
}
