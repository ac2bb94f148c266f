// What an op of a program is, and how the kernels of an instruction set offer themselves to the engine.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "tensor.h"

namespace sl {

// Something is wrong with a program or an input; the text reaches Python as SparselandError.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Blob {  // weights: bytes of the file, 64-byte aligned, read-only, alive as long as the engine
  const uint8_t* data = nullptr;
  int64_t bytes = 0;
};

struct Op {
  std::string kind;
  std::vector<int32_t> in, out;  // tensor numbers; -1: absent
  std::vector<int32_t> ints;     // each kind says which is which
  std::vector<float> floats;
  std::vector<Blob> blobs;
};

// What a builder sees: tensors with shapes and layouts. Data pointers are those of the run that calls, so a part
// keeps tensor *numbers* and asks `Frame` when it runs.
struct Frame {
  const Tensor* tensors = nullptr;
  float* shared = nullptr;  // `shared_floats` of the op, 64-byte aligned, seen by all workers and kept between its parts
  const Tensor& operator[](int i) const { return tensors[i]; }
};

// A prepared op: checked, weights decoded. Its parts run one after another, a barrier between; the pieces of a part in any
// order and at the same time. `scratch` is `scratch_floats` floats that belong to the worker, 64-byte aligned.
struct Prepared {
  struct Part {
    int pieces = 1;
    int64_t scratch_floats = 0;
    std::function<void(const Frame&, int piece, float* scratch)> run;
  };
  std::vector<Part> parts;
  int64_t shared_floats = 0;
};

struct Context {  // at preparation
  const std::vector<Tensor>* tensors;  // shapes only
  int threads;
  const Tensor& operator[](int i) const {
    if (i < 0 || i >= int(tensors->size())) throw Error("tensor " + std::to_string(i) + " does not exist");
    return (*tensors)[i];
  }
};

using Prepare = Prepared (*)(const Op&, const Context&);
struct Kind {
  const char* name;
  Prepare prepare;
};

// What an instruction set offers.
struct Isa {
  const char* name;
  int width;
  double (*multiply_adds)(int rounds);  // does some with full registers; returns how many
  // Ops one after another as one, where nothing else reads what lies between; no parts if that does not pay or fit.
  Prepared (*fuse)(const std::vector<const Op*>& ops, const Context&);
  static constexpr int MOST_FUSED = 6;
  std::vector<Kind> kinds;
};

// Checks for builders.
inline void want(bool ok, const Op& op, const std::string& what) {
  if (!ok) throw Error(op.kind + ": " + what);
}

// Activations: what an op applies to a value before it stores it.
enum class Act : int32_t {
  none = 0, clamp = 1,  // floats lo, hi: ReLU is [0, inf], ReLU6 [0, 6]
  hardswish = 2, hardsigmoid = 3, silu = 4, gelu = 5, gelu_tanh = 6, sigmoid = 7, tanh = 8,
};

}  // namespace sl
