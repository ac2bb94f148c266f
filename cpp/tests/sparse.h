// Sparse weights in blocks of G rows, as programs store them.
#pragma once
#include "oracle.h"

namespace sl::oracle {

struct Blocks {
  int G = 1;
  std::vector<uint32_t> rows, counts, index;
  std::vector<float> values;
  void store(Case& c, int K) const;  // as blobs rows, counts, index, values
};

// Zeroes numbers of weight [O, K] with probability `sparsity`; the rest in blocks of rows in random order, none mixing
// groups.
Blocks draw_blocks(Random& random, std::vector<float>& weight, int O, int K, int groups, int G, double sparsity);

}  // namespace sl::oracle
