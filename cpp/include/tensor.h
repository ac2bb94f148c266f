// Where numbers lie. Every tensor of a program is one of two layouts, in float32 (or int64 for token ids):
//
//   plain   row-major, dimensions N, C, H, W as given (unused ones are 1)
//   tiles   channel-major tiles: [N][bands][C][T], T lanes. A band is R whole rows of the image (the last band may hold
//           fewer); pixel (y, x) is lane (y % R) * W + x of band y / R. T = R * W rounded up to 16; the lanes beyond
//           R * W hold anything. Tokens are an image with W = 1, H = number of tokens. R = H gives plain planes with
//           padded pitch.
//
// A 1x1 convolution sees a band as T lanes and never asks for rows; depthwise, k x k and pooling ask for row pointers.
#pragma once
#include <cstdint>

namespace sl {

constexpr int LANES = 16;
inline int round_up(int n, int to) { return (n + to - 1) / to * to; }

enum class Layout : int32_t { plain = 0, tiles = 1, ids = 2 };  // ids: plain int64

struct Tensor {
  float* data = nullptr;  // 64-byte aligned for tiles
  Layout layout = Layout::plain;
  int N = 1, C = 1, H = 1, W = 1;
  int R = 1, T = LANES;  // rows per band, lanes per band
  int ring = 0;          // bands that there is memory for, where not for all: band b lies where b - ring lay

  int bands() const { return (H + R - 1) / R; }
  int rows(int band) const { return band + 1 < bands() ? R : H - band * R; }  // of that band
  int lanes(int band) const { return rows(band) * W; }                        // that mean something
  int64_t count() const { return int64_t(N) * C * H * W; }
  int64_t floats() const {  // that it takes in memory
    return layout == Layout::tiles ? int64_t(N) * bands() * C * T : count() * (layout == Layout::ids ? 2 : 1);
  }
  float* tile(int n, int band) const { return data + (ring ? band % ring : int64_t(n) * bands() + band) * C * T; }
  float* row(int n, int c, int y) const { return tile(n, y / R) + int64_t(c) * T + (y % R) * W; }
  const int64_t* ids() const { return reinterpret_cast<const int64_t*>(data); }
};

}  // namespace sl
