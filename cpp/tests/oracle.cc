// Checks the kernels of an instruction set against plain double-precision references, with random cases of every kind.
//
//   oracle [--isa NAME|all] [--cases N] [--seed S] [--kind K]
//
// A case is run twice, cut for different numbers of threads, its pieces in random order on up to four threads; the
// answers must be right, equal to the last bit, and nothing but the outputs may change. Lanes that mean nothing are
// NaN. With --broken, ops are damaged instead: preparing them must say so, or they run without touching what is not
// theirs.
#include "oracle.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <thread>

#include "isa.h"

namespace sl::oracle {

namespace {

constexpr uint32_t CANARY = 0x7fc0dead;  // a NaN that no kernel makes
constexpr size_t AHEAD = 16, GUARD = 64;  // floats that can be read before and after a tensor, and no others

struct Memory {  // 64-byte aligned
  size_t floats;
  std::unique_ptr<float[], void (*)(float*)> raw;
  float* data;
  explicit Memory(int64_t count)
      : floats(size_t(count)),
        raw(static_cast<float*>(::operator new((AHEAD + floats + GUARD) * 4, std::align_val_t(64))),
            [](float* p) { ::operator delete(p, std::align_val_t(64)); }),
        data(raw.get() + AHEAD) {
    for (size_t i = 0; i < AHEAD + floats + GUARD; ++i) std::memcpy(raw.get() + i, &CANARY, 4);
  }
  bool intact() const {
    for (size_t i = 0; i < AHEAD; ++i)
      if (std::memcmp(raw.get() + i, &CANARY, 4) != 0) return false;
    for (size_t i = 0; i < GUARD; ++i)
      if (std::memcmp(data + floats + i, &CANARY, 4) != 0) return false;
    return true;
  }
};

float* place(const Tensor& t, bool interleaved, int n, int c, int h, int w) {
  if (t.layout == Layout::tiles) return t.row(n, c, h) + w;
  if (interleaved) return t.data + ((int64_t(n) * t.H + h) * t.W + w) * t.C + c;
  return t.data + ((int64_t(n) * t.C + c) * t.H + h) * t.W + w;
}

template <class F>
void for_each(const Tensor& t, F f) {
  for (int n = 0; n < t.N; ++n)
    for (int c = 0; c < t.C; ++c)
      for (int h = 0; h < t.H; ++h)
        for (int w = 0; w < t.W; ++w) f(n, c, h, w);
}

struct Run {
  std::vector<Memory> memory;
  std::vector<Tensor> tensors;
  explicit Run(const Case& c) : tensors(c.tensors) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      Tensor& t = tensors[i];
      memory.emplace_back(t.floats());
      t.data = memory.back().data;
      if (t.layout == Layout::ids) std::memcpy(t.data, c.ids[i].data(), c.ids[i].size() * 8);
      else if (!c.values[i].v.empty())
        for_each(t, [&](int n, int k, int h, int w) {
          *place(t, c.interleaved[i], n, k, h, w) = float(c.values[i](n, k, h, w));
        });
    }
  }
};

// All pieces of all parts, in random order, on `threads` threads.
void run_parts(const Prepared& prepared, const Frame& frame, Random& random, int threads) {
  for (const auto& part : prepared.parts) {
    std::vector<int> order(static_cast<size_t>(part.pieces));
    std::iota(order.begin(), order.end(), 0);
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.next() % i]);
    std::atomic<size_t> next{0};
    std::mutex lock;
    std::string trouble;
    const auto work = [&] {
      Memory scratch(part.scratch_floats);
      try {
        for (size_t i; (i = next++) < order.size();) part.run(frame, order[i], scratch.data);
      } catch (const Error& error) {
        std::lock_guard<std::mutex> hold(lock);
        trouble = error.what();
      }
      std::lock_guard<std::mutex> hold(lock);
      if (!scratch.intact()) trouble = "wrote beyond its scratch";
    };
#if defined(__EMSCRIPTEN__) && !defined(__EMSCRIPTEN_PTHREADS__)
    (void)threads;
    work();
#else
    std::vector<std::thread> workers;
    for (int i = 1; i < threads; ++i) workers.emplace_back(work);
    work();
    for (std::thread& worker : workers) worker.join();
#endif
    if (!trouble.empty()) throw Error(trouble);
  }
}

Prepare find(const Isa& isa, const std::string& kind) {
  for (const auto& one : isa.kinds)
    if (one.name && kind == one.name) return one.prepare;
  return nullptr;
}

std::string where(int n, int c, int h, int w) {
  return "[" + std::to_string(n) + ", " + std::to_string(c) + ", " + std::to_string(h) + ", " + std::to_string(w) + "]";
}

// The worst error relative to the size of the terms; throws when it is beyond the tolerance.
double compare(const Case& c, const Run& run) {
  double worst = 0;
  for (size_t i = 0; i < c.op.out.size(); ++i) {
    const Tensor& t = run.tensors[size_t(c.op.out[i])];
    const Answer& answer = c.answers[i];
    for_each(t, [&](int n, int k, int h, int w) {
      const double got = *place(t, c.interleaved[size_t(c.op.out[i])], n, k, h, w), asked = answer.value(n, k, h, w);
      const double error = std::fabs(got - asked) / (answer.size(n, k, h, w) + std::fabs(asked) + 1e-3);
      if (!(error <= c.tolerance))
        throw Error("at " + where(n, k, h, w) + " " + std::to_string(got) + ", not " + std::to_string(asked));
      worst = std::max(worst, error);
    });
  }
  return worst;
}

void check_untouched(const Case& c, const Run& run) {
  const Run before(c);
  for (size_t i = 0; i < run.memory.size(); ++i) {
    if (!run.memory[i].intact()) throw Error("wrote beyond tensor " + std::to_string(i));
    const bool output = std::find(c.op.out.begin(), c.op.out.end(), int(i)) != c.op.out.end();
    if (!output && std::memcmp(run.memory[i].data, before.memory[i].data, before.memory[i].floats * 4) != 0)
      throw Error("wrote into its input " + std::to_string(i));
  }
}

Run execute(const Case& c, Prepare prepare, Random& random) {
  Run run(c);
  const Context context{&c.tensors, random.pick({1, 1, 2, 3, 4, 8, 64})};
  const Prepared prepared = prepare(c.op, context);
  Memory shared(prepared.shared_floats);
  run_parts(prepared, Frame{run.tensors.data(), shared.data}, random, random.in(1, 4));
  if (!shared.intact()) throw std::logic_error("wrote beyond its shared memory");
  return run;
}

double check(const Case& c, Prepare prepare, Random& random) {
  const Run first = execute(c, prepare, random), second = execute(c, prepare, random);
  const double worst = compare(c, first);
  check_untouched(c, first);
  for (int out : c.op.out) {
    const bool turned = c.interleaved[size_t(out)];
    for_each(first.tensors[size_t(out)], [&](int n, int k, int h, int w) {
      if (std::memcmp(place(first.tensors[size_t(out)], turned, n, k, h, w),
                      place(second.tensors[size_t(out)], turned, n, k, h, w), 4))
        throw Error("two runs differ at " + where(n, k, h, w));
    });
  }
  return worst;
}

void damage(Case& c, Random& random) {
  Op& op = c.op;
  const int32_t wild = random.pick({-1, 0, 1, 2, 3, 5, 16, 17, 100, 4096, 100000, INT32_MAX, INT32_MIN});
  switch (random.in(0, 8)) {
    case 0:
    case 1:
      if (!op.ints.empty()) op.ints[random.next() % op.ints.size()] = wild;
      break;
    case 2: op.ints.resize(size_t(random.in(0, int(op.ints.size()) + 1))); break;
    case 3:
      if (!op.in.empty()) op.in[random.next() % op.in.size()] = random.in(-1, int(c.tensors.size()) - 1);
      break;
    case 4:
      if (!op.blobs.empty()) op.blobs[random.next() % op.blobs.size()].bytes = random.pick({0, 2, 4, 8, 64});
      break;
    case 5:
      if (!op.blobs.empty()) op.blobs.resize(random.next() % op.blobs.size());
      break;
    case 6: {  // numbers of a blob
      if (op.blobs.empty()) break;
      const size_t which = random.next() % op.blobs.size();
      auto* bytes = reinterpret_cast<uint8_t*>(c.store[which].data());
      for (int i = 0; i < 3 && op.blobs[which].bytes; ++i)
        bytes[random.next() % uint64_t(op.blobs[which].bytes)] = uint8_t(random.next());
      break;
    }
    case 7: {  // a shape
      Tensor& t = c.tensors[random.next() % c.tensors.size()];
      (random.chance(0.5) ? t.C : t.H) = random.in(1, 40);
      t.R = std::min(t.R, t.H), t.T = std::max(t.T, round_up(t.R * t.W, LANES));
      break;
    }
    default:
      (random.chance(0.5) ? op.in : op.out).resize(size_t(random.in(0, 3)), 0);
      op.floats.resize(size_t(random.in(0, 4)));
  }
  for (auto& ids : c.ids)
    if (!ids.empty() && random.chance(0.3))
      ids[random.next() % ids.size()] = random.pick({int64_t(-1), int64_t(1) << 40, INT64_MIN});
}

// True when preparing or running said no.
bool check_broken(Case c, Prepare prepare, Random& random) {
  damage(c, random);
  for (size_t i = 0; i < c.tensors.size(); ++i) {  // values no longer fit a shape that was changed
    if (c.tensors[i].count() != int64_t(c.values[i].v.size())) c.values[i] = Array();
    if (c.tensors[i].layout == Layout::ids) c.ids[i].resize(size_t(c.tensors[i].count()));
    const Tensor& t = c.tensors[i];
    if (!c.values[i].v.empty()) c.values[i].N = t.N, c.values[i].C = t.C, c.values[i].H = t.H, c.values[i].W = t.W;
  }
  for (int in : c.op.in)
    if (std::find(c.op.out.begin(), c.op.out.end(), in) != c.op.out.end()) return true;  // programs never do that
  try {
    const Run run = execute(c, prepare, random);
    for (const Memory& memory : run.memory)
      if (!memory.intact()) throw std::logic_error("wrote beyond a tensor");
    return false;
  } catch (const Error& error) {
    if (std::string(error.what()) == "wrote beyond its scratch") throw std::logic_error(error.what());
    return true;
  }
}

std::string describe(const Case& c) {
  std::string text = c.text;
  for (const Tensor& t : c.tensors)
    text += "\n  tensor layout " + std::to_string(int(t.layout)) + " " + where(t.N, t.C, t.H, t.W) + " R " +
            std::to_string(t.R) + " T " + std::to_string(t.T);
  const auto list = [&](const char* name, const auto& numbers) {
    text += std::string("\n  ") + name;
    for (auto v : numbers) text += " " + std::to_string(v);
  };
  list("in", c.op.in), list("out", c.op.out), list("ints", c.op.ints), list("floats", c.op.floats);
  return text;
}

struct Options {
  std::string isa = "all", kind;
  int cases = 100;
  uint64_t seed = 1;
  bool broken = false;
};

bool check_kind(const Isa& isa, const Kind& kind, const Options& options) {
  const Prepare prepare = find(isa, kind.name);
  if (!prepare) {
    std::printf("%s %s: not there\n", isa.name, kind.name);
    return false;
  }
  double worst = 0;
  int refused = 0;
  for (int i = 0; i < options.cases; ++i) {
    Random random(options.seed + uint64_t(i) * 1000003u);
    Case c = kind.draw(random);
    c.op.kind = kind.name;
    // Every third case without machine code, so that the loops of its place are seen too; the seed says which.
    if ((options.seed + uint64_t(i) * 1000003u) % 3 == 0) setenv("SPARSELAND_NO_CODE", "1", 1);
    else unsetenv("SPARSELAND_NO_CODE");
    try {
      if (options.broken) refused += check_broken(c, prepare, random);
      else worst = std::max(worst, check(c, prepare, random));
    } catch (const std::exception& error) {
      std::printf("%s %s: %s\n%s\nagain: oracle --isa %s --kind %s --cases 1 --seed %llu%s\n", isa.name, kind.name,
                  error.what(), describe(c).c_str(), isa.name, kind.name,
                  static_cast<unsigned long long>(options.seed + uint64_t(i) * 1000003u),
                  options.broken ? " --broken" : "");
      return false;
    }
  }
  if (options.broken) std::printf("%s %s: %d damaged, %d refused\n", isa.name, kind.name, options.cases, refused);
  else std::printf("%s %s: %d cases, worst error %.2g\n", isa.name, kind.name, options.cases, worst);
  std::fflush(stdout);
  return true;
}

int usage(const std::string& what) {
  std::fprintf(stderr, "%s\nusage: oracle [--isa NAME|all] [--cases N] [--seed S] [--kind K] [--broken]\n",
               what.c_str());
  return 2;
}

int run(int count, char** words) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (word == "--broken") {
      options.broken = true;
      continue;
    }
    if (i + 1 >= count) return usage(word + " needs a value");
    const std::string value = words[++i];
    if (word == "--isa") options.isa = value;
    else if (word == "--kind") options.kind = value;
    else if (word == "--cases") options.cases = std::atoi(value.c_str());
    else if (word == "--seed") options.seed = std::strtoull(value.c_str(), nullptr, 10);
    else return usage("there is no option " + word);
  }
  int checked = 0;
  for (const Isa* isa : isas()) {
    if (options.isa != "all" && options.isa != isa->name) continue;
    for (const Kind& kind : kinds()) {
      if (!options.kind.empty() && options.kind != kind.name) continue;
      if (!check_kind(*isa, kind, options)) return 1;
      ++checked;
    }
  }
  return checked ? 0 : usage("nothing to check: --isa " + options.isa + " --kind " + options.kind);
}

}  // namespace

}  // namespace sl::oracle

int main(int count, char** words) { return sl::oracle::run(count, words); }
