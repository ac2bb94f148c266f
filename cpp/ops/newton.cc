// Entropic optimal transport on CPUs: one pass over the cost does a whole Sinkhorn step or a whole evaluation of the
// dual, and conjugate gradients work on the few entries of the plan that matter. Twin: sparseland/kernels/newton.py.
//
//   plan_ij = exp(eta (u_i + v_j - C_ij)); all double; nothing of n x m is ever written but entries above a floor.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include "ops/plan_rows.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Matrix = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Square = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
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

constexpr int BACK = 5;  // steps over which progress is judged

// Sinkhorn steps in place; stops where the columns' error sum |b - P^T 1| is <= tol (rows are exact then), or <= level
// and more than `slow` times what it was BACK steps before.
std::tuple<int, double> sinkhorn(const Matrix& cost, const In& log_a, const In& log_b, double eta, const Out& u,
                                 const Out& v, int steps, double tol, double level, double slow, int threads) {
  sizes(cost, eta);
  const int64_t n = int64_t(cost.shape(0)), m = int64_t(cost.shape(1));
  length("log_a", log_a, size_t(n)), length("u", u, size_t(n));
  length("log_b", log_b, size_t(m)), length("v", v, size_t(m));
  nb::gil_scoped_release free;
  Pass pass(cost.data(), n, m, eta, threads);
  std::vector<double> columns(static_cast<size_t>(m));
  double error = std::numeric_limits<double>::infinity(), before[BACK];
  std::fill_n(before, BACK, error);
  int done = 0;
  while (done < steps) {
    pass.run(v.data(), [&](int, const Rows& at) { fit_rows(at, log_a.data(), u.data()); });
    ++done;
    pass.columns(columns.data());
    error = 0;
    for (int64_t j = 0; j < m; ++j) error += std::fabs(std::exp(log_b.data()[j]) - columns[size_t(j)]);
    if (error <= tol || (error <= level && error > slow * before[done % BACK])) break;
    if (done == steps) break;  // the rows stay exact, and `error` is that of what is returned
    before[done % BACK] = error;
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

// The whole plan into `out`; (<plan, cost>, entries > 0).
std::tuple<double, int64_t> plan(const Matrix& cost, double eta, const In& u, const In& v, const Square& out,
                                 int threads) {
  sizes(cost, eta);
  const int64_t n = int64_t(cost.shape(0)), m = int64_t(cost.shape(1));
  length("u", u, size_t(n)), length("v", v, size_t(m));
  if (out.shape(0) != cost.shape(0) || out.shape(1) != cost.shape(1))
    throw std::invalid_argument("the plan has another shape than the cost");
  nb::gil_scoped_release free;
  Pass pass(cost.data(), n, m, eta, threads);
  std::vector<std::pair<double, int64_t>> told(size_t(pass.pieces()));
  pass.run(v.data(), [&](int piece, const Rows& at) { told[size_t(piece)] = plan_rows(at, u.data(), out.data()); });
  double linear = 0;
  int64_t count = 0;
  for (const auto& [one, held] : told) linear += one, count += held;
  return {linear, count};
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

// [[D1, S], [S^T, D2]] (x, y) = (g, h): x is eliminated, y found by conjugate gradients with the diagonal of what
// remains as preconditioner, until the residual's l1 norm is <= tol. (steps, residual)
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
  m.def("ot_sinkhorn", &sinkhorn, "cost"_a, "log_a"_a, "log_b"_a, "eta"_a, "u"_a, "v"_a, "steps"_a, "tol"_a,
        "level"_a, "slow"_a, "threads"_a);
  m.def("ot_entries", &entries, "cost"_a, "eta"_a, "u"_a, "v"_a, "floor"_a, "rows"_a, "columns"_a, "threads"_a);
  m.def("ot_plan", &plan, "cost"_a, "eta"_a, "u"_a, "v"_a, "out"_a, "threads"_a);
  m.def("ot_cut", &cut, "values"_a, "budget"_a);
  m.def("ot_solve", &solve, "starts"_a, "places"_a, "values"_a, "d1"_a, "d2"_a, "g"_a, "h"_a, "tol"_a, "most"_a,
        "x"_a, "y"_a);
}
