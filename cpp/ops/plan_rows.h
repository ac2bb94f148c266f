// One pass over the rows of a cost: a Sinkhorn step, the sums and entries of a plan, the plan itself.
//
// Rows are cut into pieces by the problem's size alone, and sums of pieces are added in their order: the number of
// threads does not change a bit of the answer.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "engine/pool.h"
#include "ops/doubles.h"

namespace {  // for the one translation unit that includes it: its functions exist once per instruction set

using namespace sl::doubles;

constexpr int BLOCK = 4 * W;  // entries that are skipped together where all are nothing
constexpr double NEGLIGIBLE = -80.0;  // blocks whose entries are all below e^-80 = 2e-35 are left out of sums
constexpr double FAINT = 2e-19;       // a column sum below (of a total of 1) could miss them: it is computed anew

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

// The rows of the plan into `plan`; returns (<plan, cost>, entries > 0).
SL_CLONES std::pair<double, int64_t> plan_rows(const Rows& at, const double* u, double* plan) {
  vd linear = {};
  vl zeros = {};
  double rest = 0;
  int64_t none = 0;
  for (int64_t i = at.first; i < at.last; ++i) {
    const double *cost = at.cost + i * at.m, shift = u[i] * at.eta;
    double* out = plan + i * at.m;
    shifted(cost, at.v, at.eta, at.m, at.row);
    int64_t j = 0;
    for (; j + W <= at.m; j += W) {
      const vd p = exponential(load(at.row + j) + set(shift));
      store(out + j, p);
      linear += p * load(cost + j);
      zeros += p == vd{};
    }
    if (j == at.m) continue;
    const vd p = exponential(load(at.row + j) + set(shift));
    for (int k = 0; j < at.m; ++j, ++k) {
      out[j] = p[k];
      rest += p[k] * cost[j];
      none += p[k] == 0.0;
    }
  }
  for (int k = 0; k < W; ++k) none -= zeros[k];  // a true comparison is -1
  return {sum(linear) + rest, (at.last - at.first) * at.m - none};
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

}  // namespace
