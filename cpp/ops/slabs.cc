// Spike and slab on CPUs: the small inverses of every support of a point's candidates, eight points at a time, one in
// each lane of a vector. Nothing is kept between the likelihoods and the moments: to reckon again costs less than to
// read. What it computes, and the same in torch: sparseland/features/prosper/slabs.py.
//
//   L = G_a + P_a^-1;  kappa = L^-1 (b_a + P_a^-1 mu_a)
//   value = (<b_a + P_a^-1 mu_a, kappa> - <mu_a, P_a^-1 mu_a> - log |P_a| |L|) / 2
#include <limits>

#include "ops/doubles.h"
#include "ops/supports.h"

namespace {

using namespace sl::doubles;

constexpr int FOLD = 8;  // pivots whose product is taken before its logarithm: no overflow
constexpr double LN2 = 0.69314718055994530942, UNKNOWN = std::numeric_limits<double>::quiet_NaN();

constexpr int64_t triangle(int64_t n) { return n * (n + 1) / 2; }
SL_IN int64_t at(int64_t i, int64_t j) { return i >= j ? triangle(i) + j : triangle(j) + i; }

// Everything of eight points, h candidates each; vectors of eight lanes. gram: lower triangle, with 1 / psi on the
// diagonal where psi is diagonal, and right = b + mu / psi, fixed = mu^2 / psi; else right = b, and psi is a triangle.
struct Lanes {
  int64_t h;
  bool full;
  std::vector<double> room;
  double *gram, *psi, *mu, *right, *fixed;
  Lanes(int64_t candidates, bool whole)
      : h(candidates), full(whole), room(size_t((2 * triangle(h) + 3 * h) * W)), gram(room.data()),
        psi(gram + triangle(h) * W), mu(psi + triangle(h) * W), right(mu + h * W), fixed(right + h * W) {}
};

struct Given {
  const double *gram, *psi, *mu, *b;
  const int64_t* members;
  int64_t points, latents, h;
  bool full;
};

// The last point stands in for those beyond it.
void gather(const Given& from, int64_t first, Lanes& to) {
  const int64_t H = from.latents, h = from.h;
  for (int lane = 0; lane < W; ++lane) {
    const int64_t n = std::min(first + lane, from.points - 1);
    const int64_t* set = from.members + n * h;
    for (int64_t i = 0; i < h; ++i) {
      const int64_t a = set[i];
      to.mu[i * W + lane] = from.mu[a];
      to.right[i * W + lane] = from.b[n * H + a];
      for (int64_t j = 0; j <= i; ++j) {
        to.gram[at(i, j) * W + lane] = from.gram[a * H + set[j]];
        if (from.full) to.psi[at(i, j) * W + lane] = from.psi[a * H + set[j]];
      }
      if (!from.full) to.psi[i * W + lane] = from.psi[a];
    }
  }
}

SL_CLONES void add_precisions(Lanes& to) {
  for (int64_t i = 0; i < to.h; ++i) {
    const vd precision = set(1.0) / load(to.psi + i * W), mu = load(to.mu + i * W), eta = mu * precision;
    double* diagonal = to.gram + at(i, i) * W;
    store(diagonal, load(diagonal) + precision);
    store(to.right + i * W, load(to.right + i * W) + eta);
    store(to.fixed + i * W, mu * eta);
  }
}

struct Work {  // of one state: triangles of g + 1 and of g vectors, a column, what pivots are multiplied by
  double *A, *prior, *column, *factors;
};

struct Found {
  vd logs = {}, product = set(1.0), lowest = set(std::numeric_limits<double>::infinity());  // of pivots
};

// Takes the logarithm of the product so far.
SL_IN void fold(Found& found) {
  vd logs[1] = {found.product};
  log2(logs);
  found.logs += logs[0], found.product = set(1.0);
}

// Sweeps the first g of n rows of the triangle A. With `whole` they become minus their inverse, and the rows below
// A21 A11^-1; what is right of these becomes the Schur complement, and nothing else is made without `whole`. Gives the
// pivots to `pivots`, or their products with `factors` to found.product.
SL_IN void sweep(double* A, int64_t g, int64_t n, bool whole, double* column, double* pivots, const double* factors,
                 Found& found) {
  for (int64_t k = 0; k < g; ++k) {
    const vd pivot = load(A + at(k, k) * W), inverse = set(1.0) / pivot;
    found.lowest = pivot < found.lowest ? pivot : found.lowest;
    if (pivots) store(pivots + k * W, pivot);
    if (factors) found.product *= pivot * load(factors + k * W);
    if (k % FOLD == FOLD - 1) fold(found);
    const int64_t from = whole ? 0 : k + 1;
    for (int64_t i = from; i < n; ++i) store(column + i * W, load(A + at(i, k) * W));
    for (int64_t i = from; i < n; ++i) {
      if (i == k) continue;
      const vd t = load(column + i * W) * inverse;
      double* row = A + triangle(i) * W;
      for (int64_t j = from; j <= i; ++j)
        if (j != k) store(row + j * W, load(row + j * W) - t * load(column + j * W));
      if (whole) store(A + at(i, k) * W, t);
    }
    if (whole) store(A + at(k, k) * W, -inverse);
  }
}

// Of one state the triangle of L with b + P^-1 mu as its last row, swept; returns <mu, P^-1 mu>.
SL_IN vd state(const Lanes& of, const int64_t* support, int64_t g, bool whole, const Work& work, Found& found) {
  vd fixed = {};
  double* last = work.A + triangle(g) * W;
  for (int64_t i = 0; i < g; ++i) {
    for (int64_t j = 0; j <= i; ++j) store(work.A + at(i, j) * W, load(of.gram + at(support[i], support[j]) * W));
    store(last + i * W, load(of.right + support[i] * W));
    if (of.full) continue;
    store(work.factors + i * W, load(of.psi + support[i] * W));
    fixed += load(of.fixed + support[i] * W);
  }
  if (of.full) {
    for (int64_t i = 0; i < g; ++i)
      for (int64_t j = 0; j <= i; ++j) store(work.prior + at(i, j) * W, load(of.psi + at(support[i], support[j]) * W));
    sweep(work.prior, g, g, true, work.column, work.factors, nullptr, found);
    for (int64_t i = 0; i < g; ++i) {
      vd eta = {};
      for (int64_t j = 0; j < g; ++j) eta -= load(work.prior + at(i, j) * W) * load(of.mu + support[j] * W);
      fixed += eta * load(of.mu + support[i] * W);
      store(last + i * W, load(last + i * W) + eta);
    }
    for (int64_t i = 0; i < triangle(g); ++i) store(work.A + i * W, load(work.A + i * W) - load(work.prior + i * W));
  }
  store(last + g * W, vd{});
  sweep(work.A, g, g + 1, whole, work.column, nullptr, work.factors, found);
  return fixed;
}

// Log-likelihoods of all states of eight points into out (n_s, 8).
SL_CLONES void likelihoods(const Lanes& of, const Lists& lists, int64_t number, const Work& work, double* out) {
  for (int64_t s = 0; s < number; ++s) {
    const int64_t g = lists.size(s);
    Found found;
    const vd fixed = state(of, lists.begin(s), g, false, work, found);
    fold(found);
    const vd value = set(-0.5) * (load(work.A + at(g, g) * W) + fixed + set(LN2) * found.logs);
    store(out + s * W, found.lowest > vd{} ? value : set(UNKNOWN));  // no covariance: as the logarithm would say
  }
}

struct Moments {  // vectors of eight lanes: (h), and triangles of h
  double *means, *second, *mass;
};

SL_CLONES void moments_of(const Lanes& of, const Lists& lists, int64_t number, const Work& work, const double* q,
                          const Moments& to) {
  for (int64_t s = 0; s < number; ++s) {
    const vd p = load(q + s * W);
    if (sum(p) == 0.0) continue;  // probabilities: none is below 0
    const int64_t* support = lists.begin(s);
    const int64_t g = lists.size(s);
    Found found;
    state(of, support, g, true, work, found);
    for (int64_t i = 0; i < g; ++i) {
      const vd kappa = load(work.A + at(g, i) * W), weighted = p * kappa;
      double* mean = to.means + support[i] * W;
      store(mean, load(mean) + weighted);
      for (int64_t j = 0; j <= i; ++j) {  // supports rise, so that this is the lower triangle, too
        double *second = to.second + at(support[i], support[j]) * W, *mass = to.mass + at(support[i], support[j]) * W;
        store(second, load(second) + weighted * load(work.A + at(g, j) * W) - p * load(work.A + at(i, j) * W));
        store(mass, load(mass) + p);
      }
    }
  }
}

struct Checked {
  Given given;
  Lists lists;
  int64_t number, widest;
};

Checked checked(const Matrix& gram, const Matrix& psi, const Matrix& mu, const Matrix& b, const Sets& members,
                const Matrix& states) {
  const int64_t H = int64_t(gram.shape(0)), n = int64_t(b.shape(0)), h = int64_t(members.shape(1));
  const bool full = psi.shape(0) != 1 || H == 1;
  need(shaped(gram, H, H) && shaped(mu, 1, H), "gram is (H, H) and mu (1, H)");
  need(shaped(psi, full ? H : 1, H), "psi is (1, H) or (H, H)");
  need(shaped(b, n, H) && int64_t(members.shape(0)) == n, "b is (n, H) and members (n, h)");
  need(int64_t(states.shape(1)) == h, "states have one column for each member");
  inside(members, H);
  Checked found{{gram.data(), psi.data(), mu.data(), b.data(), members.data(), n, H, h, full},
                supports(states, false), int64_t(states.shape(0)), 0};
  for (int64_t s = 0; s < found.number; ++s) found.widest = std::max(found.widest, found.lists.size(s));
  return found;
}

struct Room {
  std::vector<double> numbers;
  Work work;
  explicit Room(int64_t g) : numbers(size_t((triangle(g + 1) + triangle(g) + 2 * g + 1) * W)) {
    work.A = numbers.data();
    work.prior = work.A + triangle(g + 1) * W;
    work.column = work.prior + triangle(g) * W;
    work.factors = work.column + (g + 1) * W;
  }
};

int64_t blocks(int64_t points) { return (points + W - 1) / W; }

void values(Matrix gram, Matrix psi, Matrix mu, Matrix b, Sets members, Matrix states, Out out, int threads) {
  const Checked all = checked(gram, psi, mu, b, members, states);
  const int64_t n = all.given.points, number = all.number;
  need(shaped(out, n, number), "the likelihoods are (n, n_s)");
  nb::gil_scoped_release free;
  if (n * number == 0) return;
  spread(blocks(n), pieces_of(blocks(n), 8), threads, [&](int, int64_t first, int64_t last) {
    Lanes lanes(all.given.h, all.given.full);
    const Room room(all.widest);
    std::vector<double> found(size_t(number * W));
    for (int64_t block = first; block < last; ++block) {
      gather(all.given, block * W, lanes);
      if (!all.given.full) add_precisions(lanes);
      likelihoods(lanes, all.lists, number, room.work, found.data());
      for (int64_t lane = 0; lane < std::min<int64_t>(W, n - block * W); ++lane)
        for (int64_t s = 0; s < number; ++s) out.data()[(block * W + lane) * number + s] = found[size_t(s * W + lane)];
    }
  });
}

// Adds the moments of eight points to their means (n, h) and to zz, ss (H, H).
void scatter(const Given& given, int64_t first, const Moments& from, double* means, double* zz, double* ss) {
  const int64_t h = given.h, H = given.latents;
  for (int64_t lane = 0; lane < std::min<int64_t>(W, given.points - first); ++lane) {
    const int64_t* set = given.members + (first + lane) * h;
    for (int64_t i = 0; i < h; ++i) {
      means[(first + lane) * h + i] = from.means[i * W + lane];
      for (int64_t j = 0; j <= i; ++j) {
        const double second = from.second[at(i, j) * W + lane], mass = from.mass[at(i, j) * W + lane];
        zz[set[i] * H + set[j]] += second, ss[set[i] * H + set[j]] += mass;
        if (i != j) zz[set[j] * H + set[i]] += second, ss[set[j] * H + set[i]] += mass;
      }
    }
  }
}

void moments(Matrix gram, Matrix psi, Matrix mu, Matrix b, Sets members, Matrix states, Matrix q, Out means, Out zz,
             Out ss, int threads) {
  const Checked all = checked(gram, psi, mu, b, members, states);
  const int64_t n = all.given.points, number = all.number, h = all.given.h, H = all.given.latents;
  need(shaped(q, n, number) && shaped(means, n, h), "q is (n, n_s) and the means (n, h)");
  need(shaped(zz, H, H) && shaped(ss, H, H), "the second moments are (H, H)");
  nb::gil_scoped_release free;
  if (n == 0) return;
  const int pieces = pieces_of(blocks(n), 16);
  const size_t size = size_t(H * H);
  Sums sums(pieces, 2 * size);
  spread(blocks(n), pieces, threads, [&](int piece, int64_t first, int64_t last) {
    Lanes lanes(h, all.given.full);
    const Room room(all.widest);
    std::vector<double> lane_q(size_t(number * W)), numbers(size_t((h + 2 * triangle(h)) * W));
    const Moments to{numbers.data(), numbers.data() + h * W, numbers.data() + (h + triangle(h)) * W};
    for (int64_t block = first; block < last; ++block) {
      gather(all.given, block * W, lanes);
      if (!all.given.full) add_precisions(lanes);
      std::fill(lane_q.begin(), lane_q.end(), 0.0), std::fill(numbers.begin(), numbers.end(), 0.0);
      for (int64_t lane = 0; lane < std::min<int64_t>(W, n - block * W); ++lane)
        for (int64_t s = 0; s < number; ++s) lane_q[size_t(s * W + lane)] = q.data()[(block * W + lane) * number + s];
      moments_of(lanes, all.lists, number, room.work, lane_q.data(), to);
      scatter(all.given, block * W, to, means.data(), sums.of(piece), sums.of(piece) + size);
    }
  });
  sums.add_to(zz.data(), 0, H, H, H);
  sums.add_to(ss.data(), size, H, H, H);
}

}  // namespace

void bind_slabs(nb::module_& m) {
  m.def("slabs_values", &values, "Log-likelihoods of every state of every point's candidates.");
  m.def("slabs_moments", &moments, "Posterior means, and second moments and masses added to two sums.");
}
