// A program made ready on an instruction set, to be run from any number of threads.
#pragma once
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "isa.h"
#include "pool.h"
#include "program.h"

namespace sl {

class Memory {  // 64-byte aligned floats
 public:
  explicit Memory(int64_t bytes);
  ~Memory();
  Memory(const Memory&) = delete;
  uint8_t* data() const { return data_; }

 private:
  uint8_t* data_;
};

class Engine {
 public:
  // `bytes` are kept, not copied: they must outlive the engine.
  Engine(const uint8_t* bytes, int64_t size, int threads = 0, const std::string& isa_name = "");
  const Program& program() const { return program_; }
  const Isa& isa() const { return isa_; }
  int threads() const { return threads_; }
  bool joined(size_t op) const { return prepared_[op].parts.empty(); }  // done together with the next one

  // inputs[i], outputs[i]: as many numbers as the tensor says. `after(op, seconds)` is called when an op is done; what it
  // throws ends the run, and the engine stays usable.
  void run(const void* const* inputs, float* const* outputs,
           const std::function<void(int op, double seconds)>& after = nullptr) const;

 private:
  struct Workspace {
    std::unique_ptr<Memory> arena, scratch, shared;
    std::vector<std::unique_ptr<Memory>> ends;  // inputs and outputs, with room to read beyond
    std::vector<Tensor> tensors;
  };
  std::unique_ptr<Workspace> take() const;
  void give(std::unique_ptr<Workspace> workspace) const;

  const Isa& isa_;
  int threads_;
  Program program_;
  std::vector<Prepared> prepared_;
  int64_t scratch_ = 0, shared_ = 0;  // bytes: per worker, for all
  mutable std::mutex lock_;
  mutable std::vector<std::unique_ptr<Workspace>> idle_;
};

double peak(int threads, const Isa& isa);  // measured multiply-adds, in 10^9 a second

}  // namespace sl
