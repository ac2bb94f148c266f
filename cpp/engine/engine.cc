#include "engine.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>

namespace sl {

Memory::Memory(int64_t bytes) {
  const size_t whole = (size_t(bytes) + 127) / 64 * 64;
  data_ = static_cast<uint8_t*>(std::aligned_alloc(64, whole));
  if (!data_) throw Error("no memory for " + std::to_string(bytes) + " bytes");
}
Memory::~Memory() { std::free(data_); }

namespace {

constexpr int64_t AHEAD = 64;  // bytes readable before a tensor

const Kind& find(const Isa& isa, const std::string& name) {
  for (const Kind& kind : isa.kinds)
    if (name == kind.name) return kind;
  throw Error("this library has no op '" + name + "'");
}

// Whether op i + 1 is the only one to read what op i writes, as its first input.
bool linked(const Program& program, size_t i) {
  const Op &first = program.ops[i], &second = program.ops[i + 1];
  if (first.out.size() != 1 || second.in.empty() || second.in[0] != first.out[0]) return false;
  if (program.places[size_t(first.out[0])].storage != Storage::arena) return false;
  int readers = 0;
  for (const Op& op : program.ops) readers += int(std::count(op.in.begin(), op.in.end(), first.out[0]));
  return readers == 1;
}

bool overlap(const Program& program, int one, int other) {
  const Place &a = program.places[size_t(one)], &b = program.places[size_t(other)];
  if (a.storage != Storage::arena || b.storage != Storage::arena) return false;
  const int64_t a_end = a.at + program.tensors[size_t(one)].floats() * 4 + OVERREAD;
  const int64_t b_end = b.at + program.tensors[size_t(other)].floats() * 4 + OVERREAD;
  return a.at < b_end && b.at < a_end;
}

// Whether the ops [i, i + n), each linked to the next, may be done as one: what they read is not written over by the last.
bool may_join(const Program& program, size_t i, size_t n) {
  const Op& last = program.ops[i + n - 1];
  if (last.out.size() != 1) return false;
  for (size_t k = i; k < i + n; ++k)
    for (size_t in = k == i ? 0 : 1; in < program.ops[k].in.size(); ++in)
      if (program.ops[k].in[in] >= 0 && overlap(program, program.ops[k].in[in], last.out[0])) return false;
  return true;
}

double now() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Engine::Engine(const uint8_t* bytes, int64_t size, int threads, const std::string& isa_name)
    : isa_(sl::isa(isa_name)), threads_(threads > 0 ? threads : cpus()), program_(read_program(bytes, size)) {
  if (threads > 1024) throw Error("threads=" + std::to_string(threads) + ": 1 .. 1024");
  const Context context{&program_.tensors, threads_};
  int64_t most = 0;
  for (size_t i = 0; i < program_.ops.size();) {
    Prepared made;
    size_t n = 1;
    while (n < Isa::MOST_FUSED && i + n < program_.ops.size() && linked(program_, i + n - 1)) ++n;
    for (; n > 1; --n) {  // as many ops as one as pay
      std::vector<const Op*> ops;
      for (size_t k = i; k < i + n; ++k) ops.push_back(&program_.ops[k]);
      if (may_join(program_, i, n)) made = isa_.fuse(ops, context);
      if (!made.parts.empty()) break;
    }
    if (n == 1) made = find(isa_, program_.ops[i].kind).prepare(program_.ops[i], context);
    shared_ = std::max(shared_, made.shared_floats * 4);
    for (const auto& part : made.parts) most = std::max(most, part.scratch_floats);
    prepared_.resize(i + n);  // nothing is left of the others
    prepared_.back() = std::move(made);
    i += n;
  }
  scratch_ = (most * 4 + 4096) / 64 * 64;
}

std::unique_ptr<Engine::Workspace> Engine::take() const {
  {
    std::lock_guard<std::mutex> lock(lock_);
    if (!idle_.empty()) {
      auto found = std::move(idle_.back());
      idle_.pop_back();
      return found;
    }
  }
  auto fresh = std::make_unique<Workspace>();
  fresh->arena = std::make_unique<Memory>(AHEAD + program_.arena);
  fresh->scratch = std::make_unique<Memory>(scratch_ * threads_);
  fresh->shared = std::make_unique<Memory>(shared_);
  std::memset(fresh->shared->data(), 0, size_t(shared_));
  fresh->tensors = program_.tensors;
  std::memset(fresh->arena->data(), 0, size_t(AHEAD + program_.arena));
  std::memset(fresh->scratch->data(), 0, size_t(scratch_ * threads_));
  for (size_t i = 0; i < program_.tensors.size(); ++i) {
    const Place& place = program_.places[i];
    if (place.storage == Storage::arena) {
      fresh->tensors[i].data = reinterpret_cast<float*>(fresh->arena->data() + AHEAD + place.at);
    } else if (place.storage != Storage::constant) {
      const int64_t bytes = AHEAD + program_.tensors[i].floats() * 4 + OVERREAD;
      fresh->ends.push_back(std::make_unique<Memory>(bytes));
      std::memset(fresh->ends.back()->data(), 0, size_t(bytes));
      fresh->tensors[i].data = reinterpret_cast<float*>(fresh->ends.back()->data() + AHEAD);
    }
  }
  return fresh;
}

void Engine::give(std::unique_ptr<Workspace> workspace) const {
  std::lock_guard<std::mutex> lock(lock_);
  idle_.push_back(std::move(workspace));
}

void Engine::run(const void* const* inputs, float* const* outputs,
                 const std::function<void(int, double)>& after) const {
  auto workspace = take();
  struct Back {  // whatever happens, the workspace comes back
    const Engine& engine;
    std::unique_ptr<Workspace>& workspace;
    ~Back() { engine.give(std::move(workspace)); }
  } back{*this, workspace};
  auto& tensors = workspace->tensors;
  for (size_t i = 0; i < program_.inputs.size(); ++i) {
    const Tensor& t = tensors[size_t(program_.inputs[i])];
    std::memcpy(t.data, inputs[i], size_t(t.floats()) * 4);
  }
  const Frame frame{tensors.data(), reinterpret_cast<float*>(workspace->shared->data())};
  Pool::Lease lease(Pool::shared(), threads_);
  double before = after ? now() : 0;
  for (size_t i = 0; i < prepared_.size(); ++i) {
    for (const auto& part : prepared_[i].parts) {
      auto* scratch = workspace->scratch->data();
      lease.run(part.pieces, [&](int piece, int worker) {
        part.run(frame, piece, reinterpret_cast<float*>(scratch + worker * scratch_));
      });
    }
    if (after) {
      const double moment = now();
      after(int(i), moment - before);
      before = now();
    }
  }
  for (size_t i = 0; i < program_.outputs.size(); ++i) {
    const Tensor& t = tensors[size_t(program_.outputs[i])];
    std::memcpy(outputs[i], t.data, size_t(t.floats()) * 4);
  }
}

double peak(int threads, const Isa& isa) {
  const int pieces = threads * 8;
  Pool::Lease lease(Pool::shared(), threads);
  double best = 0;
  for (int round = 0; round < 20; ++round) {
    std::vector<double> macs(static_cast<size_t>(pieces));
    const double start = now();
    lease.run(pieces, [&](int piece, int) { macs[size_t(piece)] = isa.multiply_adds(200000); });
    double all = 0;
    for (double m : macs) all += m;
    best = std::max(best, all / (now() - start) * 1e-9);
  }
  return best;
}

}  // namespace sl
