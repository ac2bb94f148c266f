// Sparse codes: the k best of a row without a sort, and products that touch only the active features.
// A pattern is CSR: row n owns entries offsets[n] … offsets[n + 1]. All sizes are checked before memory is touched.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "engine/pool.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define SL_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SL_CLONES
#endif

namespace nb = nanobind;

namespace {

using In = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using OutIds = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void need(bool holds, const char* text) {
  if (!holds) throw nb::value_error(text);
}

// Work on the shared pool; `body(first, last)` gets ranges of about equal size, a few per thread.
template <class Body>
void split(int64_t count, int threads, int64_t least, const Body& body) {
  sl::Pool::Lease lease(sl::Pool::shared(), std::max(threads, 1));
  const int64_t wanted = lease.threads() == 1 ? 1 : int64_t(lease.threads()) * 8;
  const int64_t pieces = std::max<int64_t>(1, std::min(wanted, count / std::max<int64_t>(least, 1)));
  lease.run(int(pieces), [&](int piece, int) { body(count * piece / pieces, count * (piece + 1) / pieces); });
}

// ------------------------------------------------------------------------------------------------ rows times a few
// y += v * w and <x, w>: 64 numbers at a time stay in registers over all entries of a row.
constexpr int64_t STRIP = 64;

SL_CLONES void add_rows(float* y, const float* weight, const int64_t* columns, const float* values, int64_t entries, int64_t d) {
  int64_t c = 0;
  for (; c + STRIP <= d; c += STRIP) {
    float sum[STRIP] = {};
    for (int64_t e = 0; e < entries; ++e) {
      const float v = values[e];
      const float* w = weight + columns[e] * d + c;
      for (int64_t i = 0; i < STRIP; ++i) sum[i] += v * w[i];
    }
    std::memcpy(y + c, sum, sizeof sum);
  }
  for (; c < d; ++c) {
    float sum = 0;
    for (int64_t e = 0; e < entries; ++e) sum += values[e] * weight[columns[e] * d + c];
    y[c] = sum;
  }
}

SL_CLONES void dot_rows(float* out, const float* x, const float* weight, const int64_t* columns, int64_t entries, int64_t d) {
  for (int64_t e = 0; e < entries; ++e) {
    const float* w = weight + columns[e] * d;
    float part[32] = {};
    int64_t c = 0;
    for (; c + 32 <= d; c += 32)
      for (int64_t i = 0; i < 32; ++i) part[i] += x[c + i] * w[c + i];
    float sum = 0;
    for (; c < d; ++c) sum += x[c] * w[c];
    for (int64_t half = 16; half; half /= 2)
      for (int64_t i = 0; i < half; ++i) part[i] += part[i + half];
    out[e] = sum + part[0];
  }
}

struct Shape {
  int64_t rows, entries;
};

// Offsets rise from 0 to the number of entries, and columns lie inside: then no kernel leaves its arrays.
Shape check_pattern(const Ids& offsets, const Ids& columns, int64_t width) {
  need(offsets.size() >= 1, "offsets hold at least one number");
  const int64_t rows = int64_t(offsets.size()) - 1, entries = int64_t(columns.size());
  const int64_t* o = offsets.data();
  bool fine = o[0] == 0 && o[rows] == entries;
  for (int64_t n = 0; fine && n < rows; ++n) fine = o[n] <= o[n + 1];
  need(fine, "offsets rise from 0 to the number of entries");
  const int64_t* c = columns.data();
  for (int64_t e = 0; fine && e < entries; ++e) fine = c[e] >= 0 && c[e] < width;
  need(fine, "a column lies outside the matrix");
  return {rows, entries};
}

void spmm(Ids offsets, Ids columns, In values, In weight, Out out, int threads) {
  need(weight.ndim() == 2 && out.ndim() == 2 && values.ndim() == 1, "weight and out are matrices, values a vector");
  const int64_t width = int64_t(weight.shape(0)), d = int64_t(weight.shape(1));
  const Shape s = check_pattern(offsets, columns, width);
  need(int64_t(values.size()) == s.entries, "one value an entry");
  need(int64_t(out.shape(0)) == s.rows && int64_t(out.shape(1)) == d, "out is (rows, width of weight)");
  const int64_t *o = offsets.data(), *c = columns.data();
  const float *v = values.data(), *w = weight.data();
  float* y = out.data();
  nb::gil_scoped_release free;
  split(s.rows, threads, 16, [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n) add_rows(y + n * d, w, c + o[n], v + o[n], o[n + 1] - o[n], d);
  });
}

void sddmm(Ids offsets, Ids columns, In x, In weight, Out out, int threads) {
  need(weight.ndim() == 2 && x.ndim() == 2 && out.ndim() == 1, "x and weight are matrices, out a vector");
  const int64_t width = int64_t(weight.shape(0)), d = int64_t(weight.shape(1));
  const Shape s = check_pattern(offsets, columns, width);
  need(int64_t(x.shape(0)) == s.rows && int64_t(x.shape(1)) == d, "x is (rows, width of weight)");
  need(int64_t(out.size()) == s.entries, "out has one number an entry");
  const int64_t *o = offsets.data(), *c = columns.data();
  const float *in = x.data(), *w = weight.data();
  float* v = out.data();
  nb::gil_scoped_release free;
  split(s.rows, threads, 16, [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n) dot_rows(v + o[n], in + n * d, w, c + o[n], o[n + 1] - o[n], d);
  });
}

// The transpose: entries are counted into columns first, so that every row of the result is written once, by one thread.
void spmm_t(Ids offsets, Ids columns, In values, In x, Out out, int threads) {
  need(x.ndim() == 2 && out.ndim() == 2 && values.ndim() == 1, "x and out are matrices, values a vector");
  const int64_t width = int64_t(out.shape(0)), d = int64_t(out.shape(1));
  const Shape s = check_pattern(offsets, columns, width);
  need(int64_t(values.size()) == s.entries, "one value an entry");
  need(int64_t(x.shape(0)) == s.rows && int64_t(x.shape(1)) == d, "x is (rows, width of out)");
  const int64_t *o = offsets.data(), *c = columns.data();
  const float *v = values.data(), *in = x.data();
  float* y = out.data();
  nb::gil_scoped_release free;
  std::vector<int64_t> start(size_t(width) + 1, 0), rows(size_t(s.entries)), place;
  std::vector<float> sorted(size_t(s.entries));
  for (int64_t e = 0; e < s.entries; ++e) ++start[size_t(c[e]) + 1];
  for (int64_t f = 0; f < width; ++f) start[size_t(f) + 1] += start[size_t(f)];
  place.assign(start.begin(), start.end() - 1);
  for (int64_t n = 0; n < s.rows; ++n)
    for (int64_t e = o[n]; e < o[n + 1]; ++e) {
      const size_t at = size_t(place[size_t(c[e])]++);
      rows[at] = n;
      sorted[at] = v[e];
    }
  split(width, threads, 16, [&](int64_t first, int64_t last) {
    for (int64_t f = first; f < last; ++f) {
      const int64_t from = start[size_t(f)], entries = start[size_t(f) + 1] - from;
      add_rows(y + f * d, in, rows.data() + from, sorted.data() + from, entries, d);
    }
  });
}

// ----------------------------------------------------------------------------------------------------- the k best
constexpr int64_t LANES = 16, DEEP = 16;  // a group is DEEP numbers, LANES apart

// Largest of each group, at least 0; groups lie side by side, so that this is one vector maximum a number. NaN loses every
// comparison, so that none is left to be sorted.
SL_CLONES void group_maxima(float* maxima, const float* row, const float* bias, int64_t blocks) {
  for (int64_t b = 0; b < blocks; ++b) {
    float most[LANES] = {};
    const float* r = row + b * LANES * DEEP;
    if (bias) {
      const float* p = bias + b * LANES * DEEP;
      for (int64_t t = 0; t < DEEP; ++t)
        for (int64_t i = 0; i < LANES; ++i) {
          const float s = r[t * LANES + i] + p[t * LANES + i];
          most[i] = s > most[i] ? s : most[i];
        }
    } else {
      for (int64_t t = 0; t < DEEP; ++t)
        for (int64_t i = 0; i < LANES; ++i) most[i] = r[t * LANES + i] > most[i] ? r[t * LANES + i] : most[i];
    }
    std::memcpy(maxima + b * LANES, most, sizeof most);
  }
}

struct Entry {
  float value;
  int32_t column;
};

// Better first: larger, then further left.
bool better(const Entry& a, const Entry& b) {
  return a.value > b.value || (a.value == b.value && a.column < b.column);
}

struct Scratch {
  std::vector<float> maxima, order;
  std::vector<Entry> found;
};

// The k best positive entries. k groups whose maxima reach a bound hold k entries that do: what is below cannot win.
int64_t top_row(const float* row, const float* bias, int64_t width, int64_t k,
                Scratch& scratch, int64_t* columns, float* values) {
  if (k <= 0) return 0;
  const int64_t blocks = width / (LANES * DEEP), groups = blocks * LANES, whole = blocks * LANES * DEEP;
  auto& found = scratch.found;
  found.clear();
  float bound = 0;
  if (groups > k) {
    scratch.maxima.resize(size_t(groups));
    group_maxima(scratch.maxima.data(), row, bias, blocks);
    scratch.order = scratch.maxima;
    std::nth_element(scratch.order.begin(), scratch.order.begin() + (k - 1), scratch.order.end(), std::greater<float>());
    bound = scratch.order[size_t(k - 1)];
    for (int64_t g = 0; g < groups; ++g) {
      const float most = scratch.maxima[size_t(g)];
      if (!(most >= bound && most > 0)) continue;
      const int64_t first = g / LANES * LANES * DEEP + g % LANES;
      for (int64_t t = 0; t < DEEP; ++t) {
        const int64_t c = first + t * LANES;
        const float s = bias ? row[c] + bias[c] : row[c];
        if (s >= bound && s > 0) found.push_back({s, int32_t(c)});
      }
    }
  }
  for (int64_t c = groups > k ? whole : 0; c < width; ++c) {
    const float s = bias ? row[c] + bias[c] : row[c];
    if (s >= bound && s > 0) found.push_back({s, int32_t(c)});
  }
  if (int64_t(found.size()) > k) {
    std::nth_element(found.begin(), found.begin() + (k - 1), found.end(), better);
    found.resize(size_t(k));
  }
  std::sort(found.begin(), found.end(), [](const Entry& a, const Entry& b) { return a.column < b.column; });
  for (size_t i = 0; i < found.size(); ++i) {
    columns[i] = found[i].column;
    values[i] = found[i].value;
  }
  return int64_t(found.size());
}

// Row n may hold counts[n] entries and writes them from the sum of the counts before it on; found[n] says how many.
void top_rows(In scores, In bias, Ids counts, OutIds found, OutIds columns, Out values, int threads) {
  need(scores.ndim() == 2 && bias.ndim() == 1 && values.ndim() == 1, "scores are a matrix, bias and values vectors");
  const int64_t rows = int64_t(scores.shape(0)), width = int64_t(scores.shape(1));
  need(width < (int64_t(1) << 31), "rows are shorter than 2^31");
  need(bias.size() == 0 || int64_t(bias.size()) == width, "bias has one number a column, or none");
  need(int64_t(counts.size()) == rows && int64_t(found.size()) == rows, "counts and found have one number a row");
  std::vector<int64_t> start(size_t(rows) + 1, 0);
  for (int64_t n = 0; n < rows; ++n) {
    need(counts.data()[n] >= 0 && counts.data()[n] <= width, "a count lies in 0 … width");
    start[size_t(n) + 1] = start[size_t(n)] + counts.data()[n];
  }
  need(start.back() == int64_t(columns.size()) && columns.size() == values.size(), "columns and values have room for all");
  const float *s = scores.data(), *b = bias.size() ? bias.data() : nullptr;
  const int64_t* k = counts.data();
  int64_t *f = found.data(), *c = columns.data();
  float* v = values.data();
  nb::gil_scoped_release free;
  split(rows, threads, 4, [&](int64_t first, int64_t last) {
    Scratch scratch;
    for (int64_t n = first; n < last; ++n)
      f[n] = top_row(s + n * width, b, width, k[n], scratch, c + start[size_t(n)], v + start[size_t(n)]);
  });
}

// ----------------------------------------------------------------------------------------------- above a bound
// How many of 64 numbers lie above: a piece without any is left at once.
SL_CLONES int count_above(const float* row, const float* bias, float bound) {
  int count = 0;
  if (bias)
    for (int i = 0; i < 64; ++i) count += row[i] + bias[i] > bound;
  else
    for (int i = 0; i < 64; ++i) count += row[i] > bound;
  return count;
}

std::pair<nb::object, nb::object> above(In scores, In bias, float bound, int threads) {
  need(scores.ndim() == 2 && bias.ndim() == 1, "scores are a matrix, bias a vector");
  const int64_t rows = int64_t(scores.shape(0)), width = int64_t(scores.shape(1));
  need(bias.size() == 0 || int64_t(bias.size()) == width, "bias has one number a column, or none");
  const float *s = scores.data(), *b = bias.size() ? bias.data() : nullptr;
  struct Part {
    std::vector<int64_t> places;
    std::vector<float> values;
  };
  std::vector<Part> parts;
  size_t total = 0;
  int64_t* places = nullptr;
  float* values = nullptr;
  {
    nb::gil_scoped_release free;
    const int64_t pieces = std::max<int64_t>(1, std::min<int64_t>(rows, 8 * std::max(threads, 1)));
    parts.resize(size_t(pieces));
    sl::Pool::Lease lease(sl::Pool::shared(), std::max(threads, 1));
    lease.run(int(pieces), [&](int piece, int) {
      Part& part = parts[size_t(piece)];
      for (int64_t n = rows * piece / pieces; n < rows * (piece + 1) / pieces; ++n) {
        const float* row = s + n * width;
        for (int64_t c = 0; c < width; c += 64) {
          const int64_t end = std::min(width, c + 64);
          if (end - c == 64 && !count_above(row + c, b ? b + c : nullptr, bound)) continue;
          for (int64_t i = c; i < end; ++i) {
            const float value = b ? row[i] + b[i] : row[i];
            if (value > bound) {
              part.places.push_back(n * width + i);
              part.values.push_back(value);
            }
          }
        }
      }
    });
    for (const Part& part : parts) total += part.places.size();
    places = new int64_t[total ? total : 1];
    values = new float[total ? total : 1];
    size_t at = 0;
    for (const Part& part : parts) {
      std::copy(part.places.begin(), part.places.end(), places + at);
      std::copy(part.values.begin(), part.values.end(), values + at);
      at += part.places.size();
    }
  }
  nb::capsule own_places(places, [](void* p) noexcept { delete[] static_cast<int64_t*>(p); });
  nb::capsule own_values(values, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return {nb::cast(nb::ndarray<nb::numpy, int64_t>(places, {total}, own_places)),
          nb::cast(nb::ndarray<nb::numpy, float>(values, {total}, own_values))};
}

// ------------------------------------------------------------------------------------------------------- Adam
struct Step {
  float rate, first, second, small, correct1, correct2;  // correct: 1 / (1 - beta^t)
};

// One row: optionally the gradient's part along the row is taken off, then Adam, then the row is brought to norm 1.
SL_CLONES void adam_row(float* p, const float* g, float* m, float* v, int64_t d, const Step& s, bool unit) {
  float along = 0;
  if (unit) {
    float dot[16] = {}, norm[16] = {};
    int64_t c = 0;
    for (; c + 16 <= d; c += 16)
      for (int64_t i = 0; i < 16; ++i) {
        dot[i] += p[c + i] * g[c + i];
        norm[i] += p[c + i] * p[c + i];
      }
    float dots = 0, norms = 0;
    for (; c < d; ++c) dots += p[c] * g[c], norms += p[c] * p[c];
    for (int64_t i = 0; i < 16; ++i) dots += dot[i], norms += norm[i];
    along = norms > 0 ? dots / norms : 0;
  }
  const float b1 = s.first, b2 = s.second;
  for (int64_t c = 0; c < d; ++c) {
    const float grad = g[c] - along * p[c];
    m[c] = b1 * m[c] + (1 - b1) * grad;
    v[c] = b2 * v[c] + (1 - b2) * grad * grad;
    p[c] -= s.rate * (m[c] * s.correct1) / (std::sqrt(v[c] * s.correct2) + s.small);
  }
  if (unit) {
    float norm[16] = {}, norms = 0;
    int64_t c = 0;
    for (; c + 16 <= d; c += 16)
      for (int64_t i = 0; i < 16; ++i) norm[i] += p[c + i] * p[c + i];
    for (; c < d; ++c) norms += p[c] * p[c];
    for (int64_t i = 0; i < 16; ++i) norms += norm[i];
    const float scale = 1 / std::max(std::sqrt(norms), 1e-12f);
    for (c = 0; c < d; ++c) p[c] *= scale;
  }
}

void adam(Out weight, In grad, Out first, Out second, float rate, float beta1, float beta2, float small, int64_t step,
          bool unit, int threads) {
  need(weight.ndim() == 2, "weight is a matrix");
  need(grad.size() == weight.size() && first.size() == weight.size() && second.size() == weight.size(),
       "gradient and moments have weight's size");
  need(step >= 1, "steps count from 1");
  const int64_t rows = int64_t(weight.shape(0)), d = int64_t(weight.shape(1));
  const Step s{rate, beta1, beta2, small, float(1 / (1 - std::pow(double(beta1), double(step)))),
               float(1 / (1 - std::pow(double(beta2), double(step))))};
  float *p = weight.data(), *m = first.data(), *v = second.data();
  const float* g = grad.data();
  nb::gil_scoped_release free;
  split(rows, threads, 16, [&](int64_t from, int64_t to) {
    for (int64_t n = from; n < to; ++n) adam_row(p + n * d, g + n * d, m + n * d, v + n * d, d, s, unit);
  });
}

}  // namespace

void bind_sparse_code(nb::module_& m) {
  m.def("sparse_code_spmm", &spmm, "y = S W.");
  m.def("sparse_code_sddmm", &sddmm, "The entries of X W^T that S has.");
  m.def("sparse_code_spmm_t", &spmm_t, "S^T X.");
  m.def("sparse_code_top_rows", &top_rows, "The k best positive entries of each row, columns ascending.");
  m.def("sparse_code_above", &above, "Places and values above a bound, in order.");
  m.def("sparse_code_adam", &adam, "One step of Adam, in place; unit: on rows of norm 1.");
}
