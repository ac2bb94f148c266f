// Entropic optimal transport on CPUs: one pass over the cost does a whole Sinkhorn step or a whole evaluation of the dual,
// and conjugate gradients work on the few entries of the plan that matter. Twin: sparseland/kernels/newton.py.
//
//   plan_ij = exp(eta (u_i + v_j - C_ij)); all double; nothing of n x m is ever written but entries above a floor.
//
// Rows are cut into pieces by the problem's size alone, and sums of pieces are added in their order: the number of
// threads does not change a bit of the answer.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include "engine/pool.h"

namespace nb = nanobind;
using namespace nb::literals;

// One function, three instruction sets, chosen when the library is loaded; elsewhere the compiler's default.
#if defined(__x86_64__) && defined(__linux__) && !defined(__clang__) && __GNUC__ >= 12
#define SL_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SL_CLONES
#endif
#define SL_IN inline __attribute__((always_inline))

namespace {

constexpr int W = 8;          // doubles per vector; narrower machines take it in parts
constexpr int BLOCK = 4 * W;  // entries that are skipped together where all are nothing
constexpr double LEAST = -700.0;  // e^-700 = 1e-304: taken as nothing
constexpr double NEGLIGIBLE = -80.0;  // blocks whose entries are all below e^-80 = 2e-35 are left out of sums
constexpr double FAINT = 2e-19;  // a column sum below (of a total of 1) could miss them: it is computed anew, with its maximum

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

int64_t padded(int64_t m) { return (m + BLOCK - 1) / BLOCK * BLOCK; }

// (v_j - C_ij) eta of a row, padded with -infinity's stand-in; returns the largest.
SL_IN double shifted(const double* cost, const double* v, double eta, int64_t m, double* out) {
  vd most = set(-std::numeric_limits<double>::infinity());
  int64_t j = 0;
  for (; j + W <= m; j += W) {
    const vd t = (load(v + j) - load(cost + j)) * set(eta);
    store(out + j, t);
    most = larger(most, t);
  }
  double top = largest(most);
  for (; j < m; ++j) {
    out[j] = (v[j] - cost[j]) * eta;
    top = out[j] > top ? out[j] : top;
  }
  for (const int64_t end = padded(m); j < end; ++j) out[j] = -1e300;
  return top;
}

// row[j] becomes e^(row[j] + shift); returns the sum. Blocks that are nothing are only looked at.
SL_IN double powers(double* row, double shift, int64_t width) {
  vd total = {};
  for (int64_t j = 0; j < width; j += BLOCK) {
    vd a = load(row + j) + set(shift), b = load(row + j + W) + set(shift);
    vd c = load(row + j + 2 * W) + set(shift), d = load(row + j + 3 * W) + set(shift);
    if (largest(larger(larger(a, b), larger(c, d))) < NEGLIGIBLE) {
      for (int k = 0; k < BLOCK; k += W) store(row + j + k, vd{});
      continue;
    }
    a = exponential(a), b = exponential(b), c = exponential(c), d = exponential(d);
    store(row + j, a), store(row + j + W, b), store(row + j + 2 * W, c), store(row + j + 3 * W, d);
    total += (a + b) + (c + d);
  }
  return sum(total);
}

SL_IN void add(double* to, const double* from, double scale, int64_t width) {
  for (int64_t j = 0; j < width; j += W) store(to + j, load(to + j) + load(from + j) * set(scale));
}

struct Rows {  // of one piece
  const double *cost, *v;
  double eta;
  int64_t m, first, last;
  double *row, *columns;  // [padded(m)] each: one row at work, and the column sums of the piece
};

// u_i such that row i of the plan sums to e^log_a[i]; adds the rows to `columns`.
SL_CLONES void fit_rows(const Rows& at, const double* log_a, double* u) {
  const int64_t width = padded(at.m);
  std::fill(at.columns, at.columns + width, 0.0);
  for (int64_t i = at.first; i < at.last; ++i) {
    const double top = shifted(at.cost + i * at.m, at.v, at.eta, at.m, at.row);
    const double total = powers(at.row, -top, width);
    u[i] = (log_a[i] - top - std::log(total)) / at.eta;
    add(at.columns, at.row, std::exp(log_a[i]) / total, width);
  }
}

struct Entries {
  std::vector<int32_t> columns;
  std::vector<double> values;
};

// Row sums of the plan, its column sums in `columns`, and its entries >= floor (none where `kept` is null).
SL_CLONES void sum_rows(const Rows& at, const double* u, double floor, double* rows, Entries* kept, int64_t* counts) {
  const int64_t width = padded(at.m);
  std::fill(at.columns, at.columns + width, 0.0);
  for (int64_t i = at.first; i < at.last; ++i) {
    shifted(at.cost + i * at.m, at.v, at.eta, at.m, at.row);
    rows[i] = powers(at.row, u[i] * at.eta, width);
    add(at.columns, at.row, 1.0, width);
    if (!kept) continue;
    const size_t before = kept->values.size();
    for (int64_t j = 0; j < width; j += BLOCK) {
      vd most = larger(larger(load(at.row + j), load(at.row + j + W)),
                       larger(load(at.row + j + 2 * W), load(at.row + j + 3 * W)));
      if (largest(most) < floor) continue;
      for (int64_t k = j; k < j + BLOCK && k < at.m; ++k)
        if (at.row[k] >= floor) {
          kept->columns.push_back(int32_t(k));
          kept->values.push_back(at.row[k]);
        }
    }
    counts[i] = int64_t(kept->values.size() - before);
  }
}

class Pass {  // the pieces of a problem, and their memory
 public:
  Pass(const double* cost, int64_t n, int64_t m, double eta, int threads)
      : cost_(cost), n_(n), m_(m), eta_(eta), width_(padded(m)),
        pieces_(int(std::clamp<int64_t>(n * m >> 16, 1, std::min<int64_t>(n, 16)))),
        lease_(sl::Pool::shared(), std::max(1, std::min(threads, pieces_))),
        rows_(size_t(lease_.threads()) * size_t(width_)), columns_(size_t(pieces_) * size_t(width_)) {}

  int pieces() const { return pieces_; }
  template <class Work>
  void run(const double* v, const Work& work) {
    lease_.run(pieces_, [&](int piece, int worker) {
      const Rows at{cost_, v, eta_, m_, n_ * piece / pieces_, n_ * (piece + 1) / pieces_,
                    rows_.data() + size_t(worker) * size_t(width_), columns_.data() + size_t(piece) * size_t(width_)};
      work(piece, at);
    });
  }
  void columns(double* to) const {
    std::copy_n(columns_.data(), m_, to);
    for (int p = 1; p < pieces_; ++p)
      for (int64_t j = 0; j < m_; ++j) to[j] += columns_[size_t(p) * size_t(width_) + size_t(j)];
  }
  // log sum_i e^(eta (u_i - C_ij)) with its own maximum: for columns that no row sees yet.
  double log_column(const double* u, int64_t j) const {
    double top = -std::numeric_limits<double>::infinity(), total = 0;
    for (int64_t i = 0; i < n_; ++i) top = std::max(top, (u[i] - cost_[i * m_ + j]) * eta_);
    for (int64_t i = 0; i < n_; ++i) total += std::exp((u[i] - cost_[i * m_ + j]) * eta_ - top);
    return top + std::log(total);
  }

 private:
  const double* cost_;
  int64_t n_, m_;
  double eta_;
  int64_t width_;
  int pieces_;
  sl::Pool::Lease lease_;
  std::vector<double> rows_, columns_;
};

using Matrix = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using In = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Places = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class Array>
void length(const char* name, const Array& array, size_t asked) {
  if (array.shape(0) != asked)
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(array.shape(0)) + " numbers; " +
                                std::to_string(asked) + " are asked for");
}

void sizes(const Matrix& cost, double eta) {
  if (cost.shape(0) == 0 || cost.shape(1) == 0) throw std::invalid_argument("the cost has no entries");
  if (cost.shape(1) > size_t(std::numeric_limits<int32_t>::max())) throw std::invalid_argument("too many columns");
  if (!(eta > 0) || !std::isfinite(eta)) throw std::invalid_argument("eta is a number > 0");
}

// Sinkhorn steps in place; stops where the columns' error sum |b - P^T 1| is <= tol (rows are exact then).
std::tuple<int, double> sinkhorn(const Matrix& cost, const In& log_a, const In& log_b, double eta, const Out& u,
                                 const Out& v, int steps, double tol, int threads) {
  sizes(cost, eta);
  const int64_t n = int64_t(cost.shape(0)), m = int64_t(cost.shape(1));
  length("log_a", log_a, size_t(n)), length("u", u, size_t(n));
  length("log_b", log_b, size_t(m)), length("v", v, size_t(m));
  nb::gil_scoped_release free;
  Pass pass(cost.data(), n, m, eta, threads);
  std::vector<double> columns(static_cast<size_t>(m));
  double error = std::numeric_limits<double>::infinity();
  int done = 0;
  while (done < steps) {
    pass.run(v.data(), [&](int, const Rows& at) { fit_rows(at, log_a.data(), u.data()); });
    ++done;
    pass.columns(columns.data());
    error = 0;
    for (int64_t j = 0; j < m; ++j) error += std::fabs(std::exp(log_b.data()[j]) - columns[size_t(j)]);
    if (error <= tol) break;
    if (done == steps) break;  // the rows stay exact, and `error` is that of what is returned
    for (int64_t j = 0; j < m; ++j) {
      const double held = columns[size_t(j)];
      if (held > FAINT) v.data()[j] += (log_b.data()[j] - std::log(held)) / eta;
      else v.data()[j] = (log_b.data()[j] - pass.log_column(u.data(), j)) / eta;
    }
  }
  return {done, error};
}

template <class T>
nb::object owned(std::vector<T>&& given) {
  auto* kept = new std::vector<T>(std::move(given));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  const size_t shape[1] = {kept->size()};
  return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<1>>(kept->data(), 1, shape, owner));
}

// Row and column sums of the plan into `rows`, `columns`; its entries >= floor as (starts, places, values).
nb::tuple entries(const Matrix& cost, double eta, const In& u, const In& v, double floor, const Out& rows,
                  const Out& columns, int threads) {
  sizes(cost, eta);
  const int64_t n = int64_t(cost.shape(0)), m = int64_t(cost.shape(1));
  length("u", u, size_t(n)), length("rows", rows, size_t(n));
  length("v", v, size_t(m)), length("columns", columns, size_t(m));
  std::vector<int64_t> starts(size_t(n) + 1);
  std::vector<int32_t> places;
  std::vector<double> values;
  {
    nb::gil_scoped_release free;
    Pass pass(cost.data(), n, m, eta, threads);
    std::vector<Entries> found(size_t(pass.pieces()));
    const bool wanted = floor < std::numeric_limits<double>::infinity();
    pass.run(v.data(), [&](int piece, const Rows& at) {
      sum_rows(at, u.data(), floor, rows.data(), wanted ? &found[size_t(piece)] : nullptr, starts.data() + 1);
    });
    pass.columns(columns.data());
    for (int64_t i = 0; i < n; ++i) starts[size_t(i) + 1] += starts[size_t(i)];
    places.reserve(size_t(starts.back())), values.reserve(size_t(starts.back()));
    for (const Entries& one : found) {
      places.insert(places.end(), one.columns.begin(), one.columns.end());
      values.insert(values.end(), one.values.begin(), one.values.end());
    }
  }
  return nb::make_tuple(owned(std::move(starts)), owned(std::move(places)), owned(std::move(values)));
}

// The smallest value that stays where the smallest are dropped while their sum is <= budget (infinity: all go).
double cut(const In& given, double budget) {
  const double* values = given.data();
  const size_t count = given.shape(0);
  for (size_t i = 0; i < count; ++i)
    if (!(values[i] >= 0)) throw std::invalid_argument("values to cut are >= 0");
  nb::gil_scoped_release free;
  constexpr int SHIFT = 49;  // sign, exponent and three bits of the fraction: a bucket spans an eighth of an octave
  std::vector<double> sums(size_t(1) << (64 - SHIFT));
  const auto bucket = [](double x) {
    uint64_t bits;
    std::memcpy(&bits, &x, 8);
    return size_t(bits >> SHIFT);
  };
  for (size_t i = 0; i < count; ++i) sums[bucket(values[i])] += values[i];
  double left = budget;
  size_t b = 0;
  while (b < sums.size() && sums[b] <= left) left -= sums[b++];
  if (b == sums.size()) return std::numeric_limits<double>::infinity();
  std::vector<double> inside;
  for (size_t i = 0; i < count; ++i)
    if (bucket(values[i]) == b) inside.push_back(values[i]);
  std::sort(inside.begin(), inside.end());
  for (const double x : inside) {
    if (x > left) return x;
    left -= x;
  }
  return inside.empty() ? std::numeric_limits<double>::infinity() : inside.back();
}

struct Sparse {  // entries by rows
  const int64_t* starts;
  const int32_t* places;
  const double* values;
};

// out = D2 y - S^T D1^-1 S y
SL_CLONES void reduced(const Sparse& s, const double* inverse, const double* d2, size_t n, size_t m, const double* y,
                       double* out) {
  for (size_t j = 0; j < m; ++j) out[j] = d2[j] * y[j];
  for (size_t i = 0; i < n; ++i) {
    const int64_t from = s.starts[i], to = s.starts[i + 1];
    double t = 0;
    for (int64_t k = from; k < to; ++k) t += s.values[k] * y[s.places[k]];
    t *= inverse[i];
    for (int64_t k = from; k < to; ++k) out[s.places[k]] -= s.values[k] * t;
  }
}

SL_CLONES double dot(const double* a, const double* b, size_t n) {
  vd total = {};
  size_t i = 0;
  for (; i + W <= n; i += W) total += load(a + i) * load(b + i);
  double rest = sum(total);
  for (; i < n; ++i) rest += a[i] * b[i];
  return rest;
}

// The entries, once every index is known to be inside.
Sparse checked(const Ints& starts, const Places& places, const In& values, size_t n, size_t m) {
  length("starts", starts, n + 1), length("places", places, values.shape(0));
  if (starts.data()[0] != 0 || starts.data()[n] != int64_t(values.shape(0)))
    throw std::invalid_argument("starts does not span the values");
  for (size_t i = 0; i < n; ++i)
    if (starts.data()[i] > starts.data()[i + 1]) throw std::invalid_argument("starts must not fall");
  for (size_t k = 0; k < places.shape(0); ++k)
    if (places.data()[k] < 0 || size_t(places.data()[k]) >= m) throw std::invalid_argument("a column is out of range");
  return {starts.data(), places.data(), values.data()};
}

// [[D1, S], [S^T, D2]] (x, y) = (g, h): x is eliminated, y found by conjugate gradients with the diagonal of what remains
// as preconditioner, until the residual's l1 norm is <= tol. (steps, residual)
std::tuple<int, double> solve(const Ints& starts, const Places& places, const In& values, const In& d1, const In& d2,
                              const In& g, const In& h, double tol, int most, const Out& x, const Out& y) {
  const size_t n = d1.shape(0), m = d2.shape(0);
  length("g", g, n), length("x", x, n), length("h", h, m), length("y", y, m);
  nb::gil_scoped_release free;
  const Sparse s = checked(starts, places, values, n, m);
  std::vector<double> inverse(n), weight(d2.data(), d2.data() + m), r(h.data(), h.data() + m), z(m), p(m), q(m);
  for (size_t i = 0; i < n; ++i) {
    inverse[i] = 1.0 / d1.data()[i];
    for (int64_t k = s.starts[i]; k < s.starts[i + 1]; ++k) {
      const double value = s.values[k];
      r[size_t(s.places[k])] -= value * inverse[i] * g.data()[i];
      weight[size_t(s.places[k])] -= value * value * inverse[i];
    }
  }
  for (size_t j = 0; j < m; ++j) weight[j] = 1.0 / std::max(weight[j], 1e-14 * d2.data()[j]);
  std::fill_n(y.data(), m, 0.0);
  const auto size = [&] {
    double total = 0;
    for (size_t j = 0; j < m; ++j) total += std::fabs(r[j]);
    return total;
  };
  double residual = size(), rho = 0;
  int step = 0;
  for (; step < most && residual > tol; ++step) {
    for (size_t j = 0; j < m; ++j) z[j] = weight[j] * r[j];
    const double next = dot(r.data(), z.data(), m), beta = step ? next / rho : 0.0;
    rho = next;
    for (size_t j = 0; j < m; ++j) p[j] = z[j] + beta * p[j];
    reduced(s, inverse.data(), d2.data(), n, m, p.data(), q.data());
    const double curvature = dot(p.data(), q.data(), m);
    if (!(curvature > 0) || !std::isfinite(curvature)) break;  // rounding has the last word
    const double alpha = rho / curvature;
    for (size_t j = 0; j < m; ++j) y.data()[j] += alpha * p[j], r[j] -= alpha * q[j];
    residual = size();
  }
  for (size_t i = 0; i < n; ++i) {
    double t = g.data()[i];
    for (int64_t k = s.starts[i]; k < s.starts[i + 1]; ++k) t -= s.values[k] * y.data()[s.places[k]];
    x.data()[i] = t * inverse[i];
  }
  return {step, residual};
}

}  // namespace

void bind_newton(nb::module_& m) {
  m.def("ot_sinkhorn", &sinkhorn, "cost"_a, "log_a"_a, "log_b"_a, "eta"_a, "u"_a, "v"_a, "steps"_a, "tol"_a, "threads"_a);
  m.def("ot_entries", &entries, "cost"_a, "eta"_a, "u"_a, "v"_a, "floor"_a, "rows"_a, "columns"_a, "threads"_a);
  m.def("ot_cut", &cut, "values"_a, "budget"_a);
  m.def("ot_solve", &solve, "starts"_a, "places"_a, "values"_a, "d1"_a, "d2"_a, "g"_a, "h"_a, "tol"_a, "most"_a,
        "x"_a, "y"_a);
}
