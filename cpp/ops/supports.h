// What the kernels of sparse coding share: lists of active members, checks, and work in pieces on the pool.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "engine/pool.h"

namespace {

namespace nb = nanobind;

using Matrix = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Sets = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void need(bool holds, const char* text) {
  if (!holds) throw nb::value_error(text);
}

template <class Array>
bool shaped(const Array& array, int64_t rows, int64_t columns) {
  return int64_t(array.shape(0)) == rows && int64_t(array.shape(1)) == columns;
}

// Every index of `sets` is one of `width`.
void inside(const Sets& sets, int64_t width) {
  bool fine = true;
  const int64_t* at = sets.data();
  for (size_t i = 0; i < sets.size(); ++i) fine &= at[i] >= 0 && at[i] < width;
  need(fine, "a member lies outside the latents");
}

// Lists of numbers: list i owns entries starts[i] … starts[i + 1].
struct Lists {
  std::vector<int64_t> starts{0}, places;
  const int64_t* begin(int64_t i) const { return places.data() + starts[size_t(i)]; }
  int64_t size(int64_t i) const { return starts[size_t(i) + 1] - starts[size_t(i)]; }
};

// Of a matrix of zeros and ones the places of the ones, row by row, or column by column.
Lists supports(const Matrix& states, bool by_column) {
  const int64_t rows = int64_t(states.shape(0)), columns = int64_t(states.shape(1));
  const double* s = states.data();
  Lists found;
  for (int64_t i = 0; i < (by_column ? columns : rows); ++i) {
    for (int64_t j = 0; j < (by_column ? rows : columns); ++j) {
      const double value = by_column ? s[j * columns + i] : s[i * columns + j];
      need(value == 0.0 || value == 1.0, "states are zeros and ones");
      if (value != 0.0) found.places.push_back(j);
    }
    found.starts.push_back(int64_t(found.places.size()));
  }
  return found;
}

// How many pieces `count` things are cut into: by their number alone, so that sums of pieces, added in their order, do
// not depend on the number of threads.
int pieces_of(int64_t count, int64_t least) { return int(std::clamp<int64_t>(count / least, 1, 16)); }

// `body(piece, first, last)` for ranges of about equal size, on the shared pool.
template <class Body>
void spread(int64_t count, int pieces, int threads, const Body& body) {
  sl::Pool::Lease lease(sl::Pool::shared(), std::max(threads, 1));
  lease.run(pieces, [&](int piece, int) { body(piece, count * piece / pieces, count * (piece + 1) / pieces); });
}

// Sums of their own for every piece, added to the given ones in the order of the pieces.
struct Sums {
  std::vector<double> parts;
  size_t size;
  Sums(int pieces, size_t numbers) : parts(size_t(pieces) * numbers), size(numbers) {}
  double* of(int piece) { return parts.data() + size_t(piece) * size; }
  // Rows `from`, ... of every part, each the first `columns` of `width` numbers.
  void add_to(double* out, size_t from, int64_t rows, int64_t columns, int64_t width) const {
    for (size_t at = from; at < parts.size(); at += size)
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) out[i * columns + j] += parts[at + size_t(i * width + j)];
  }
};

}  // namespace
