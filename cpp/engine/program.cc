#include "program.h"

#include <array>
#include <cstring>

namespace sl {

namespace {

constexpr int64_t HEADER = 64;
constexpr uint32_t VERSION = 1;
constexpr int64_t MOST_BYTES = int64_t(1) << 40;

[[noreturn]] void bad(const std::string& what) { throw Error("not a sparseland engine file: " + what); }

template <class T>
T at(const uint8_t* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// Little-endian 32-bit words, read in order.
class Words {
 public:
  Words(const uint8_t* p, int64_t bytes) : p_(p), left_(bytes / 4) {}
  int32_t i32(int32_t low, int32_t high, const char* what) {
    if (left_ < 1) bad(std::string("it ends within ") + what);
    const int32_t v = at<int32_t>(p_);
    p_ += 4, --left_;
    if (v < low || v > high)
      bad(std::string(what) + " is " + std::to_string(v) + ", not in " + std::to_string(low) + " .. " + std::to_string(high));
    return v;
  }
  float f32(const char* what) {
    const int32_t v = i32(INT32_MIN, INT32_MAX, what);
    float f;
    std::memcpy(&f, &v, 4);
    return f;
  }
  int64_t i64(int64_t high, const char* what) {
    const uint64_t lo = uint32_t(i32(INT32_MIN, INT32_MAX, what)), hi = uint32_t(i32(INT32_MIN, INT32_MAX, what));
    const uint64_t v = hi << 32 | lo;
    if (v > uint64_t(high)) bad(std::string(what) + " is " + std::to_string(v) + ", more than " + std::to_string(high));
    return int64_t(v);
  }
  int count(int least, const char* what) {  // of things that take at least `least` words each
    return i32(0, int32_t(std::min<int64_t>(INT32_MAX, left_ / least)), what);
  }
  std::string text(const char* what) {
    const int n = i32(1, 64, what), words = (n + 3) / 4;
    if (left_ < words) bad(std::string("it ends within ") + what);
    std::string s(reinterpret_cast<const char*>(p_), size_t(n));
    p_ += 4 * words, left_ -= words;
    return s;
  }
  int64_t left() const { return left_; }

 private:
  const uint8_t* p_;
  int64_t left_;
};

void read_tensor(Words& words, Program& program) {
  Tensor t;
  const int32_t most = 1 << 24;
  t.layout = Layout(words.i32(0, 2, "a layout"));
  t.N = words.i32(1, most, "N"), t.C = words.i32(1, most, "C"), t.H = words.i32(1, most, "H"), t.W = words.i32(1, most, "W");
  t.R = words.i32(1, most, "R"), t.T = words.i32(1, most, "T");
  double floats = double(t.N) * t.C * t.H * t.W;
  if (t.layout == Layout::tiles) {
    const int64_t lanes = int64_t(t.R) * t.W;
    if (t.R > t.H || t.T % LANES || t.T < lanes || t.T > lanes + 16 * LANES)
      bad("tiles of " + std::to_string(t.R) + " rows of " + std::to_string(t.W) + " in " + std::to_string(t.T) + " lanes");
    floats = double(t.N) * t.C * t.T * t.bands();
  }
  if (floats * 8 > double(MOST_BYTES)) bad("a tensor of " + std::to_string(floats) + " numbers");
  Place place;
  place.storage = Storage(words.i32(0, 3, "a storage"));
  place.at = words.i64(MOST_BYTES, "a place");
  program.tensors.push_back(t);
  program.places.push_back(place);
}

void read_op(Words& words, Program& program, const std::vector<Blob>& blobs) {
  Op op;
  op.kind = words.text("the kind of an op");
  const int tensors = int(program.tensors.size());
  for (int i = 0, n = words.count(1, "inputs of an op"); i < n; ++i) op.in.push_back(words.i32(-1, tensors - 1, "an input"));
  for (int i = 0, n = words.count(1, "outputs of an op"); i < n; ++i) op.out.push_back(words.i32(0, tensors - 1, "an output"));
  for (int i = 0, n = words.count(1, "integers"); i < n; ++i) op.ints.push_back(words.i32(INT32_MIN, INT32_MAX, "an integer"));
  for (int i = 0, n = words.count(1, "numbers"); i < n; ++i) op.floats.push_back(words.f32("a number"));
  for (int i = 0, n = words.count(1, "blobs"); i < n; ++i)
    op.blobs.push_back(blobs[size_t(words.i32(0, int(blobs.size()) - 1, "a blob"))]);
  for (int out : op.out) {
    const Storage s = program.places[size_t(out)].storage;
    if (s != Storage::arena && s != Storage::output) bad(op.kind + " writes a tensor that is not its to write");
    for (int in : op.in)
      if (in == out) bad(op.kind + " reads what it writes");
  }
  program.ops.push_back(std::move(op));
}

void check_places(Program& program, const std::vector<Blob>& blobs) {
  std::vector<int> seen_in(program.inputs.size()), seen_out(program.outputs.size());
  for (size_t i = 0; i < program.tensors.size(); ++i) {
    Tensor& t = program.tensors[i];
    const Place& place = program.places[i];
    const int64_t bytes = t.floats() * 4;
    switch (place.storage) {
      case Storage::arena:
        if (place.at % 64 || place.at + bytes + OVERREAD > program.arena) bad("a tensor beyond the arena");
        break;
      case Storage::constant: {
        if (place.at >= int64_t(blobs.size()) || blobs[size_t(place.at)].bytes != bytes) bad("a constant without its bytes");
        t.data = reinterpret_cast<float*>(const_cast<uint8_t*>(blobs[size_t(place.at)].data));  // only read
        break;
      }
      case Storage::input:
      case Storage::output: {
        auto& list = place.storage == Storage::input ? program.inputs : program.outputs;
        if (place.at >= int64_t(list.size()) || list[size_t(place.at)] != int(i)) bad("an input or output that is not listed");
        if (t.layout == Layout::tiles) bad("an input or output in tiles");
        ++(place.storage == Storage::input ? seen_in : seen_out)[size_t(place.at)];
      }
    }
  }
  for (int n : seen_in)
    if (n != 1) bad("an input that is no input");
  for (int n : seen_out)
    if (n != 1) bad("an output that is no output");
}

}  // namespace

uint32_t crc32(const uint8_t* p, int64_t n, uint32_t before) {  // zlib's polynomial, eight bytes at a time
  static const auto tables = [] {
    std::array<std::array<uint32_t, 256>, 8> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int k = 0; k < 8; ++k) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
      t[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; ++i)
      for (size_t k = 1; k < 8; ++k) t[k][i] = (t[k - 1][i] >> 8) ^ t[0][t[k - 1][i] & 255];
    return t;
  }();
  uint32_t c = ~before;
  for (; n >= 8; n -= 8, p += 8) {
    const uint32_t a = at<uint32_t>(p) ^ c, b = at<uint32_t>(p + 4);
    c = tables[7][a & 255] ^ tables[6][a >> 8 & 255] ^ tables[5][a >> 16 & 255] ^ tables[4][a >> 24] ^
        tables[3][b & 255] ^ tables[2][b >> 8 & 255] ^ tables[1][b >> 16 & 255] ^ tables[0][b >> 24];
  }
  for (; n > 0; --n, ++p) c = tables[0][(c ^ *p) & 255] ^ (c >> 8);
  return ~c;
}

Program read_program(const uint8_t* bytes, int64_t size) {
  if (size < HEADER || std::memcmp(bytes, "SLENGINE", 8) != 0) bad("it does not begin with SLENGINE");
  if (const uint32_t version = at<uint32_t>(bytes + 8); version != VERSION)
    throw Error("an engine file of version " + std::to_string(version) + "; this library reads version " +
                std::to_string(VERSION) + (version > VERSION ? ": update sparseland" : ""));
  const uint64_t total = at<uint64_t>(bytes + 16), where = at<uint64_t>(bytes + 24), length = at<uint64_t>(bytes + 32);
  const uint64_t meta = at<uint64_t>(bytes + 40), meta_length = at<uint64_t>(bytes + 48);
  if (total != uint64_t(size)) bad("it has " + std::to_string(size) + " bytes and says " + std::to_string(total));
  if (where > total || length > total - where || where % 4 || meta > total || meta_length > total - meta)
    bad("its parts lie outside of it");
  if (at<uint64_t>(bytes + 56) != crc32(bytes + HEADER, size - HEADER, crc32(bytes, 56)))
    bad("its checksum does not fit: the file is damaged");
  Program program;
  program.meta.assign(reinterpret_cast<const char*>(bytes + meta), size_t(meta_length));
  Words words(bytes + where, int64_t(length));
  program.arena = words.i64(MOST_BYTES, "the size of the arena");
  std::vector<Blob> blobs;
  for (int i = 0, n = words.count(4, "the number of blobs"); i < n; ++i) {
    const int64_t offset = words.i64(size, "the place of a blob"), length_of = words.i64(size, "the length of a blob");
    if (offset % 8 || offset > size - length_of - OVERREAD) bad("a blob outside of the file");
    blobs.push_back({bytes + offset, length_of});
  }
  for (int i = 0, n = words.count(10, "the number of tensors"); i < n; ++i) read_tensor(words, program);
  const int last = int(program.tensors.size()) - 1;
  for (int i = 0, n = words.count(1, "the number of inputs"); i < n; ++i) program.inputs.push_back(words.i32(0, last, "an input"));
  for (int i = 0, n = words.count(1, "the number of outputs"); i < n; ++i) program.outputs.push_back(words.i32(0, last, "an output"));
  for (int i = 0, n = words.count(7, "the number of ops"); i < n; ++i) read_op(words, program, blobs);
  if (words.left()) bad("words after its end");
  check_places(program, blobs);
  return program;
}

}  // namespace sl
