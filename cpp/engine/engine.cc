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

// Whether op i - 1 may be done together with op i: nobody else reads what it writes, and what it reads is not written over.
bool may_join(const Program& program, size_t i) {
  const Op &first = program.ops[i - 1], &second = program.ops[i];
  if (first.in.size() != 1 || first.out.size() != 1 || second.out.size() != 1 || first.in[0] < 0) return false;
  if (program.places[size_t(first.out[0])].storage != Storage::arena) return false;
  int readers = 0;
  for (const Op& op : program.ops) readers += int(std::count(op.in.begin(), op.in.end(), first.out[0]));
  const Place &from = program.places[size_t(first.in[0])], &to = program.places[size_t(second.out[0])];
  const int64_t from_end = from.at + program.tensors[size_t(first.in[0])].floats() * 4 + OVERREAD;
  const int64_t to_end = to.at + program.tensors[size_t(second.out[0])].floats() * 4 + OVERREAD;
  const bool apart = from.storage != Storage::arena || to.storage != Storage::arena || from_end <= to.at || to_end <= from.at;
  return readers == 1 && apart;
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
  for (size_t i = 0; i < program_.ops.size(); ++i) {
    const Op& op = program_.ops[i];
    prepared_.push_back(find(isa_, op.kind).prepare(op, context));
    if (i > 0 && may_join(program_, i)) {
      Prepared joined = isa_.fuse(program_.ops[i - 1], op, context);
      if (!joined.parts.empty()) prepared_[i - 1] = {}, prepared_[i] = std::move(joined);
    }
    shared_ = std::max(shared_, prepared_.back().shared_floats * 4);
    for (const auto& part : prepared_.back().parts) most = std::max(most, part.scratch_floats);
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
