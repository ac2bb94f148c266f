// The few AVX-512 instructions that a sparse product needs, as bytes, and memory to run them in.
#include "engine/code.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>

#if defined(__x86_64__) && (defined(__linux__) || defined(__APPLE__))
#define SL_CODE 1
#include <sys/mman.h>
#else
#define SL_CODE 0
#endif

namespace sl {

#if SL_CODE

namespace {

enum Gpr { RCX = 1, RDX = 2, RSI = 6, RDI = 7 };  // residual, values, x, out: arguments of the function
constexpr int WIDE = 4 * Code::LANES;             // bytes of a register
constexpr int LONGEST = 16;                       // bytes of an instruction, generously

// Opcodes with their map and prefix: EVEX bytes 1 and 2 without the register bits.
struct Kind {
  uint8_t map, prefix, opcode;
};
constexpr Kind LOAD{1, 0, 0x10}, STORE{1, 0, 0x11}, ADD{1, 0, 0x58}, MIN{1, 0, 0x5d}, MAX{1, 0, 0x5f};
constexpr Kind BROADCAST{2, 1, 0x18}, MULTIPLY_ADD{2, 1, 0xb8};

class Assembler {
 public:
  std::vector<uint8_t> bytes;

  void room(size_t instructions) { bytes.resize(size_ + instructions * LONGEST); }
  size_t size() const { return size_; }
  void start() {
    room(8);
    while (size_ % 64) put(0x90);
    for (int b : {0xf3, 0x0f, 0x1e, 0xfa}) put(b);  // endbr64: may be called through a pointer
  }
  void finish() {
    room(2);
    for (int b : {0xc5, 0xf8, 0x77, 0xc3}) put(b);  // vzeroupper; ret
  }
  void add(Gpr base, int64_t number) {
    for (int b : {0x48, 0x81, 0xc0 | base}) put(b);
    put32(int32_t(number));
  }
  // zmm[to] = kind(zmm[from], [base + places]); one float for all lanes with `broadcast`.
  void memory(Kind kind, int to, int from, Gpr base, int64_t place, bool broadcast) {
    evex(kind, to, from, false, broadcast);
    const int64_t unit = broadcast || kind.opcode == BROADCAST.opcode ? 4 : WIDE;
    if (place % unit == 0 && place / unit >= -128 && place / unit <= 127) {
      put(0x40 | (to & 7) << 3 | base);
      put(int(place / unit));
    } else {
      put(0x80 | (to & 7) << 3 | base);
      put32(int32_t(place));
    }
  }
  void registers(Kind kind, int to, int from, int other) {
    evex(kind, to, from, other & 8, false, other & 16);
    put(0xc0 | (to & 7) << 3 | (other & 7));
  }

 private:
  void evex(Kind kind, int to, int from, bool b, bool broadcast, bool x = false) {
    put(0x62);
    put(!(to & 8) << 7 | !x << 6 | !b << 5 | !(to & 16) << 4 | kind.map);
    put((~from & 15) << 3 | 4 | kind.prefix);
    put(2 << 5 | int(broadcast) << 4 | !(from & 16) << 3);  // 512 bits, no mask
    put(kind.opcode);
  }
  void put(int byte) { bytes[size_++] = uint8_t(byte); }
  void put32(int32_t number) {
    std::memcpy(bytes.data() + size_, &number, 4);
    size_ += 4;
  }
  size_t size_ = 0;
};

// Values that the code reads one after another: the pointer to them moves on when one is too far for a byte.
class Stream {
 public:
  Stream(Assembler& to, std::vector<float>& values) : to_(to), values_(values), first_(values.size()) {}
  // Byte place of a new value.
  int64_t place(float value) {
    const int64_t i = int64_t(values_.size() - first_);
    values_.push_back(value);
    if (i - here_ > 127) to_.add(RDX, 1024), here_ += 256;
    return (i - here_) * 4;
  }

 private:
  Assembler& to_;
  std::vector<float>& values_;
  size_t first_;
  int64_t here_ = 0;
};

// Inputs at rising places. Near the pointer they take three bytes less each; moving it takes seven.
class Inputs {
 public:
  Inputs(Assembler& to, int64_t bytes, int64_t number) : to_(to), moves_(bytes < 64 * WIDE * number) {}
  int64_t place(int64_t byte) {
    if (moves_ && byte - here_ > 127 * WIDE && byte % WIDE == 0) {
      const int64_t further = byte + 127 * WIDE - here_;
      to_.add(RSI, further), here_ += further;
    }
    return byte - here_;
  }

 private:
  Assembler& to_;
  bool moves_;
  int64_t here_ = 0;
};

struct Entry {
  int32_t offset;
  int row;
  float value;
};

// The entries of a group's rows by the places of their inputs, and of one input by rows.
void collect(const CodeRows& rows, const Code::Group& group, std::vector<Entry>& entries) {
  entries.clear();
  if (rows.dense) {
    for (int64_t k = 0; k < rows.start[1]; ++k)
      for (int r = group.first; r < group.last; ++r)
        entries.push_back({rows.offsets[k], r - group.first, rows.values[rows.start[r] + k]});
  } else {
    for (int r = group.first; r < group.last; ++r)
      for (int64_t e = rows.start[r]; e < rows.start[r + 1]; ++e)
        entries.push_back({rows.offsets[e], r - group.first, rows.values[e]});
  }
  const auto before = [](const Entry& a, const Entry& b) { return a.offset < b.offset; };
  if (!std::is_sorted(entries.begin(), entries.end(), before)) std::stable_sort(entries.begin(), entries.end(), before);
}

// One group's function. Sums in zmm0 …, inputs in zmm30 and zmm31 in turn.
void write_group(Assembler& code, std::vector<float>& values, const CodeRows& rows, const Code::Group& group, int64_t local,
                 std::vector<Entry>& entries) {
  constexpr int INPUT = 30;
  collect(rows, group, entries);
  const int count = group.last - group.first;
  code.start();
  code.room(4 * entries.size() + 8 * size_t(count) + 16);
  const auto place = [&](int r) { return (local ? r * local : rows.out[size_t(group.first + r)]) * 4; };
  Stream stream(code, values);
  for (int r = 0; r < count; ++r) code.memory(BROADCAST, r, 0, RDX, stream.place(rows.bias[group.first + r]), false);
  int64_t number = 0;
  for (size_t e = 0; e < entries.size(); ++e) number += e == 0 || entries[e].offset != entries[e - 1].offset;
  Inputs inputs(code, entries.empty() ? 0 : int64_t(entries.back().offset) * 4, number);
  int input = INPUT;
  for (size_t e = 0; e < entries.size(); ++e) {
    const Entry& one = entries[e];
    if (e == 0 || one.offset != entries[e - 1].offset) {
      input ^= 1;
      code.memory(LOAD, input, 0, RSI, inputs.place(int64_t(one.offset) * 4), false);
    }
    code.memory(MULTIPLY_ADD, one.row, input, RDX, stream.place(one.value), true);
  }
  const bool low = rows.lo > -std::numeric_limits<float>::infinity(), high = rows.hi < std::numeric_limits<float>::infinity();
  if (low) code.memory(BROADCAST, INPUT, 0, RDX, stream.place(rows.lo), false);
  if (high) code.memory(BROADCAST, INPUT + 1, 0, RDX, stream.place(rows.hi), false);
  for (int r = 0; r < count; ++r) {
    if (rows.residual) code.memory(ADD, r, r, RCX, place(r), false);
    if (low) code.registers(MAX, r, INPUT, r);  // where one is NaN the second is taken: NaN stays NaN
    if (high) code.registers(MIN, r, INPUT + 1, r);
    code.memory(STORE, r, 0, RDI, place(r), false);
  }
  code.finish();
}

uint8_t* executable(const uint8_t* bytes, size_t size) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  std::memcpy(memory, bytes, size);
  if (mprotect(memory, size, PROT_READ | PROT_EXEC) != 0) {  // never writable and executable at once
    munmap(memory, size);
    return nullptr;
  }
  return static_cast<uint8_t*>(memory);
}

bool fits(const CodeRows& rows, int64_t local) {
  constexpr int64_t FAR = std::numeric_limits<int32_t>::max() / 8;
  for (const int64_t place : rows.out)
    if (place > FAR || place < 0) return false;
  for (int64_t e = 0; e < rows.start[rows.dense ? 1 : rows.out.size()]; ++e)
    if (rows.offsets[e] > FAR || rows.offsets[e] < 0) return false;
  return local * Code::MOST <= FAR;
}

}  // namespace

bool Code::possible() {
  static const bool system = [] {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx512f")) return false;
    const uint8_t nothing[] = {0xc3};
    uint8_t* memory = executable(nothing, sizeof nothing);
    if (memory) munmap(memory, sizeof nothing);
    return memory != nullptr;
  }();
  const char* no = std::getenv("SPARSELAND_NO_CODE");
  return system && !(no && *no);
}

std::unique_ptr<const Code> Code::make(const CodeRows& rows, int64_t local) {
  if (!possible() || !fits(rows, local)) return nullptr;
  std::unique_ptr<Code> made(new Code);
  Assembler code;
  std::vector<Entry> entries;
  made->values_.reserve(size_t(rows.start[rows.out.size()]) + rows.out.size() + 64);
  for (size_t part = 0; part + 1 < rows.cuts.size(); ++part) {
    made->parts_.push_back(made->groups_.size());
    const int from = rows.cuts[part], count = rows.cuts[part + 1] - from, groups = (count + MOST - 1) / MOST;
    for (int g = 0; g < groups; ++g) {
      const Group group{(code.size() + 63) / 64 * 64, made->values_.size(), from + count * g / groups, from + count * (g + 1) / groups};
      write_group(code, made->values_, rows, group, local, entries);
      made->groups_.push_back(group);
    }
  }
  made->parts_.push_back(made->groups_.size());
  made->bytes_ = std::max<size_t>(code.size(), 1);
  code.bytes.resize(made->bytes_);
  made->memory_ = executable(code.bytes.data(), made->bytes_);
  return made->memory_ ? std::move(made) : nullptr;
}

Code::~Code() {
  if (memory_) munmap(memory_, bytes_);
}

void Code::run(const Group& group, const float* x, float* out, const float* residual, int vectors) const {
  using Function = void (*)(float* out, const float* x, const float* values, const float* residual);
  Function function;
  const uint8_t* address = memory_ + group.at;
  std::memcpy(&function, &address, sizeof function);
  const float* values = values_.data() + group.values;
  const Group* next = &group + 1;
  const uint8_t* to_come = memory_ + (next < groups_.data() + groups_.size() ? next->at : bytes_);
  const uint8_t* end = memory_ + (next + 1 < groups_.data() + groups_.size() ? next[1].at : bytes_);
  const int64_t each = ((end - to_come) / 64 + vectors - 1) / vectors;
  for (int lane = 0; lane < vectors * LANES; lane += LANES) {
    for (int64_t i = 0; i < each; ++i, to_come += 64) __builtin_prefetch(to_come, 0, 2);
    function(out + lane, x + lane, values, residual ? residual + lane : nullptr);
  }
}

#else

bool Code::possible() { return false; }
std::unique_ptr<const Code> Code::make(const CodeRows&, int64_t) { return nullptr; }
Code::~Code() = default;
void Code::run(const Group&, const float*, float*, const float*, int) const {}

#endif

}  // namespace sl
