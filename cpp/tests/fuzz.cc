// Mutated engine files against the loader and the kernels: each must be refused, or run without touching what is not its
// own. Most mutations carry a right checksum, so that they reach the code behind it. Meant for ASan and UBSan.
//
//   fuzz FILE... [--mutations N] [--seed S]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>

#include "engine/engine.h"

namespace {

using Bytes = std::vector<uint8_t>;
constexpr int64_t MOST = int64_t(1) << 24;  // floats of a program that is run; larger ones are only prepared

struct Buffer {  // no byte more than the file has, so that a read beyond it is seen
  uint8_t* data;
  explicit Buffer(const Bytes& bytes) : data(static_cast<uint8_t*>(std::malloc(bytes.size() + 1))) {
    std::memcpy(data, bytes.data(), bytes.size());
  }
  ~Buffer() { std::free(data); }
  Buffer(const Buffer&) = delete;
};

template <class T>
T at(const Bytes& bytes, size_t place) {
  T v{};
  if (place + sizeof v <= bytes.size()) std::memcpy(&v, bytes.data() + place, sizeof v);
  return v;
}

void put64(Bytes& bytes, size_t place, uint64_t value) {
  if (place + 8 <= bytes.size()) std::memcpy(bytes.data() + place, &value, 8);
}

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}
  uint64_t below(uint64_t n) { return n ? random_() % n : 0; }

  Bytes operator()(Bytes bytes) {
    for (uint64_t i = 0, n = 1 + below(4); i < n; ++i) once(bytes);
    if (below(10)) mend(bytes);
    return bytes;
  }

 private:
  void once(Bytes& bytes) {
    const uint64_t program = at<uint64_t>(bytes, 24), length = at<uint64_t>(bytes, 32);
    if (program + length > bytes.size() || length < 4) return;
    const size_t word = size_t(program + 4 * below(length / 4));
    switch (below(8)) {
      case 0: bytes.resize(size_t(64 + below(bytes.size() - 63))); break;           // an end too early
      case 1: bytes[size_t(below(bytes.size()))] = uint8_t(random_()); break;       // anywhere: weights, indices
      case 2: bytes[size_t(below(64))] ^= uint8_t(1u << below(8)); break;           // header
      case 3: set(bytes, word, at<uint32_t>(bytes, word) + (below(2) ? 1 : -1)); break;
      case 4: set(bytes, word, at<uint32_t>(bytes, size_t(program + 4 * below(length / 4)))); break;
      default: {
        constexpr uint32_t wild[] = {0, 1, 2, 3, 15, 16, 17, 64, 255, 4096, 65536, 1u << 24, 0x7fffffff, 0x80000000, 0xffffffff};
        set(bytes, word, wild[below(std::size(wild))]);
      }
    }
  }
  static void set(Bytes& bytes, size_t place, uint32_t value) {
    if (place + 4 <= bytes.size()) std::memcpy(bytes.data() + place, &value, 4);
  }
  static void mend(Bytes& bytes) {  // sizes and checksum
    put64(bytes, 16, bytes.size());
    put64(bytes, 56, sl::crc32(bytes.data() + 64, int64_t(bytes.size()) - 64, sl::crc32(bytes.data(), 56)));
  }
  std::mt19937_64 random_;
};

// 0: refused. 1: made, but too large to run. 2: ran, or refused its input.
int use(const Bytes& bytes, Mutator& random) {
  const Buffer buffer(bytes);
  try {
    const sl::Engine engine(buffer.data, int64_t(bytes.size()), int(1 + random.below(3)));
    const sl::Program& program = engine.program();
    double floats = double(program.arena) / 4;
    for (const auto& t : program.tensors) floats += double(t.floats());
    if (floats > double(MOST)) return 1;
    std::vector<std::vector<uint8_t>> memory;
    std::vector<const void*> inputs;
    std::vector<float*> outputs;
    const auto room = [&](int number) -> uint8_t* {
      const sl::Tensor& t = program.tensors[size_t(number)];
      memory.emplace_back(size_t(t.floats()) * 4);
      if (t.layout == sl::Layout::ids)
        for (int64_t i = 0; i < t.count(); ++i) {
          const int64_t id = int64_t(random.below(1000)) - 2;
          std::memcpy(memory.back().data() + 8 * i, &id, 8);
        }
      return memory.back().data();
    };
    memory.reserve(program.inputs.size() + program.outputs.size());
    for (int number : program.inputs) inputs.push_back(room(number));
    for (int number : program.outputs) outputs.push_back(reinterpret_cast<float*>(room(number)));
    try {
      engine.run(inputs.data(), outputs.data());
    } catch (const sl::Error&) {
    }
    return 2;
  } catch (const sl::Error&) {
  } catch (const std::bad_alloc&) {
  } catch (const std::length_error&) {
  }
  return 0;
}

}  // namespace

int main(int count, char** words) {
  int mutations = 1000;
  uint64_t seed = 1;
  std::vector<std::string> files;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (word == "--mutations" && i + 1 < count) mutations = std::atoi(words[++i]);
    else if (word == "--seed" && i + 1 < count) seed = std::strtoull(words[++i], nullptr, 10);
    else files.push_back(word);
  }
  if (files.empty()) return std::fprintf(stderr, "usage: fuzz FILE... [--mutations N] [--seed S]\n"), 2;
  for (const std::string& name : files) {
    std::ifstream file(name, std::ios::binary);
    const Bytes whole((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    Mutator untouched(seed);
    if (use(whole, untouched) != 2) return std::fprintf(stderr, "%s does not run even whole\n", name.c_str()), 1;
    int results[3] = {};
    for (int i = 0; i < mutations; ++i) {
      Mutator mutate(seed + uint64_t(i) * 1000003u);
      const Bytes bytes = mutate(whole);
      if (std::getenv("FUZZ_TRACE")) std::fprintf(stderr, "again: --mutations 1 --seed %llu\n", static_cast<unsigned long long>(seed + uint64_t(i) * 1000003u));
      ++results[use(bytes, mutate)];
    }
    std::printf("%s: %d mutations, %d refused, %d too large to run, %d ran\n", name.c_str(), mutations, results[0], results[1],
                results[2]);
    std::fflush(stdout);
  }
  return 0;
}
