// From the packed forms of a checkpoint back to the tensor: bitmasks, distances, codes of N:M groups. Everything that a
// damaged file may say wrong is found before memory is touched. Twin: sparseland/deploy/decoding.py.
#include <bit>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#if defined(__x86_64__) && defined(__linux__) && !defined(__clang__) && __GNUC__ >= 12
#include <immintrin.h>
#define SL_EXPAND 1
#endif

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

static_assert(std::endian::native == std::endian::little, "files are little-endian");

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

template <class T>
T number(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// Up to 64 bits of a mask, those beyond its end zero.
uint64_t word(const uint8_t* bits, size_t size, size_t at) {
  uint64_t value = 0;
  std::memcpy(&value, bits + at, size - at < 8 ? size - at : 8);
  return value;
}

#ifdef SL_EXPAND
__attribute__((target("avx512f"))) const uint8_t* expand(uint64_t mask, const uint8_t* values, uint32_t* out) {
  for (int i = 0; i < 64; i += 16, mask >>= 16) {
    const __mmask16 some = __mmask16(mask);
    // Only the values of set bits are read: the end of the file may lie right behind them.
    _mm512_storeu_si512(out + i, _mm512_maskz_expandloadu_epi32(some, values));
    values += 4 * std::popcount(uint32_t(some));
  }
  return values;
}
bool can_expand() { return __builtin_cpu_supports("avx512f"); }
#else
const uint8_t* expand(uint64_t, const uint8_t* values, uint32_t*) { return values; }
bool can_expand() { return false; }
#endif

template <class T>
void scatter(const uint8_t* bits, size_t bytes, const uint8_t* values, uint8_t* out, size_t count, bool zeroed) {
  const bool wide = sizeof(T) == 4 && can_expand();
  for (size_t first = 0; first < count; first += 64) {
    uint64_t mask = word(bits, bytes, first / 8);
    T* to = reinterpret_cast<T*>(out) + first;
    const size_t here = count - first < 64 ? count - first : 64;
    // Few bits are placed one by one, many by whole vectors; a page that nothing is written to stays the system's zeros.
    if (wide && here == 64 && std::popcount(mask) > 6) {
      values = expand(mask, values, reinterpret_cast<uint32_t*>(to));
      continue;
    }
    if (!zeroed) std::memset(to, 0, here * sizeof(T));
    for (; mask; mask &= mask - 1, values += sizeof(T)) to[std::countr_zero(mask)] = number<T>(values);
  }
}

// A bitmask, one bit per entry, lowest first, and the values of the set bits.
void bits(const Bytes& bits, const Bytes& values, size_t width, const Out& out, bool zeroed) {
  if (width != 1 && width != 2 && width != 4 && width != 8) refuse("a width of " + std::to_string(width) + " bytes");
  const size_t count = out.size() / width;
  if (out.size() % width || values.size() % width || bits.size() < (count + 7) / 8 ||
      reinterpret_cast<uintptr_t>(out.data()) % width)
    refuse(std::to_string(bits.size()) + " bytes of bits and " + std::to_string(out.size()) + " of entries");
  nb::gil_scoped_release free;
  const size_t bytes = (count + 7) / 8;
  size_t set = 0;
  for (size_t at = 0; at < bytes; at += 8) set += size_t(std::popcount(word(bits.data(), bytes, at)));
  if (count % 8 && bits.data()[bytes - 1] >> (count % 8))
    refuse("a bit is set beyond the " + std::to_string(count) + " entries");
  if (set != values.size() / width)
    refuse(std::to_string(set) + " bits are set for " + std::to_string(values.size() / width) + " values");
  auto* to = out.data();
  if (width == 1) scatter<uint8_t>(bits.data(), bytes, values.data(), to, count, zeroed);
  else if (width == 2) scatter<uint16_t>(bits.data(), bytes, values.data(), to, count, zeroed);
  else if (width == 4) scatter<uint32_t>(bits.data(), bytes, values.data(), to, count, zeroed);
  else scatter<uint64_t>(bits.data(), bytes, values.data(), to, count, zeroed);
}

// Zeros are written a few pages ahead of the values, so that both meet in the first-level cache.
template <class T>
void walk(const uint8_t* steps, size_t count, const uint8_t* values, T* out, size_t size, bool zeroed) {
  constexpr size_t AHEAD = 16384 / sizeof(T);
  size_t at = 0, filled = zeroed ? size : 0;
  for (size_t i = 0; i < count; ++i, values += sizeof(T)) {
    at += steps[i];
    if (at >= filled) {
      const size_t until = size - at < AHEAD ? size : at + AHEAD;
      std::memset(out + filled, 0, (until - filled) * sizeof(T)), filled = until;
    }
    out[at] = number<T>(values);
  }
  if (filled < size) std::memset(out + filled, 0, (size - filled) * sizeof(T));
}

void check_gaps(const uint8_t* steps, size_t count, size_t size) {
  uint64_t reach = 0;
  uint32_t zeros = 0;
  for (size_t i = 0; i < count;) {  // 32-bit sums of a stretch, which the compiler turns into vectors
    const size_t end = count - i < 1 << 20 ? count : i + (1 << 20);
    uint32_t sum = 0;
    for (; i < end; ++i) sum += steps[i], zeros += steps[i] == 0;
    reach += sum;
  }
  zeros -= count && steps[0] == 0;  // the first entry may be set
  if (count && (reach >= size || zeros))
    refuse("the columns' distances lead to entry " + std::to_string(reach) + " of " + std::to_string(size) +
           ", or stand still");
}

// Distances of one byte from entry to entry, the first from the beginning, and the values.
void gaps(const Bytes& steps, const Bytes& values, size_t width, const Out& out, bool zeroed) {
  if (width != 1 && width != 2 && width != 4 && width != 8) refuse("a width of " + std::to_string(width) + " bytes");
  const size_t size = out.size() / width, count = steps.size();
  if (out.size() % width || values.size() != count * width || reinterpret_cast<uintptr_t>(out.data()) % width)
    refuse(std::to_string(count) + " distances, " + std::to_string(values.size()) + " bytes of values");
  nb::gil_scoped_release free;
  check_gaps(steps.data(), count, size);
  auto* to = out.data();
  if (width == 1) walk(steps.data(), count, values.data(), to, size, zeroed);
  else if (width == 2) walk(steps.data(), count, values.data(), reinterpret_cast<uint16_t*>(to), size, zeroed);
  else if (width == 4) walk(steps.data(), count, values.data(), reinterpret_cast<uint32_t*>(to), size, zeroed);
  else walk(steps.data(), count, values.data(), reinterpret_cast<uint64_t*>(to), size, zeroed);
}

// CRC-32 as zlib computes it. Sixteen bytes at a time are folded by carry-less products, where the processor has them
// (Gopal et al., Fast CRC computation for generic polynomials using PCLMULQDQ, 2009); all else is a table.
struct Table8 {
  uint32_t entry[8][256];
  Table8() {
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t crc = i;
      for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
      entry[0][i] = crc;
    }
    for (int t = 1; t < 8; ++t)
      for (uint32_t i = 0; i < 256; ++i) entry[t][i] = entry[t - 1][i] >> 8 ^ entry[0][entry[t - 1][i] & 255];
  }
};

uint32_t crc_table(uint32_t crc, const uint8_t* at, size_t size) {
  static const Table8 t;
  for (; size >= 8; size -= 8, at += 8) {
    const uint64_t x = number<uint64_t>(at) ^ crc;
    crc = t.entry[7][x & 255] ^ t.entry[6][x >> 8 & 255] ^ t.entry[5][x >> 16 & 255] ^ t.entry[4][x >> 24 & 255] ^
          t.entry[3][x >> 32 & 255] ^ t.entry[2][x >> 40 & 255] ^ t.entry[1][x >> 48 & 255] ^ t.entry[0][x >> 56];
  }
  for (; size; --size, ++at) crc = crc >> 8 ^ t.entry[0][(crc ^ *at) & 255];
  return crc;
}

#ifdef SL_EXPAND
__attribute__((target("pclmul,sse4.1"))) uint32_t crc_folded(uint32_t crc, const uint8_t* at, size_t size) {
  const auto load = [&](size_t i) __attribute__((target("pclmul,sse4.1"))) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at) + i);
  };
  const auto fold = [](__m128i x, __m128i k, __m128i next) __attribute__((target("pclmul,sse4.1"))) {
    return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x, k, 0x00), _mm_clmulepi64_si128(x, k, 0x11)), next);
  };
  // x^(4·128+32) and x^(4·128-32), x^(128+32) and x^(128-32) modulo the polynomial, bits reflected.
  const __m128i four = _mm_set_epi64x(0x1c6e41596, 0x154442bd4), one = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);
  __m128i x[4] = {_mm_xor_si128(load(0), _mm_cvtsi32_si128(int(crc))), load(1), load(2), load(3)};
  for (at += 64, size -= 64; size >= 64; at += 64, size -= 64)
    for (size_t i = 0; i < 4; ++i) x[i] = fold(x[i], four, load(i));
  __m128i y = fold(fold(fold(x[0], one, x[1]), one, x[2]), one, x[3]);
  for (; size >= 16; at += 16, size -= 16) y = fold(y, one, load(0));
  uint8_t rest[16];  // what it has come to are the bits of a message whose CRC is the answer
  _mm_storeu_si128(reinterpret_cast<__m128i*>(rest), y);
  return crc_table(crc_table(0, rest, 16), at, size);
}
bool can_fold() { return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1"); }
#else
uint32_t crc_folded(uint32_t crc, const uint8_t* at, size_t size) { return crc_table(crc, at, size); }
bool can_fold() { return false; }
#endif

// The CRC-32 of bytes, going on from that of those before.
uint32_t crc32(const Bytes& bytes, uint32_t before) {
  nb::gil_scoped_release free;
  const bool fold = bytes.size() >= 64 && can_fold();
  return ~(fold ? crc_folded(~before, bytes.data(), bytes.size()) : crc_table(~before, bytes.data(), bytes.size()));
}

template <class T>
void look_up(const uint8_t* packed, size_t size, size_t width, const uint32_t* table, uint8_t* out, size_t runs) {
  const uint32_t low = (uint32_t(1) << width) - 1;
  for (size_t i = 0; i < runs; ++i) {
    const size_t bit = i * width, at = bit / 8;
    uint32_t some = 0;
    if (at + 4 <= size) some = number<uint32_t>(packed + at);
    else if (at < size) std::memcpy(&some, packed + at, size - at);
    const T mask = T(table[some >> bit % 8 & low]);
    std::memcpy(out + i * sizeof(T), &mask, sizeof(T));
  }
}

// Runs of `width` bits, lowest first, looked up: `wide` bytes of a bitmask each. Behind the end of `packed` lie zeros.
void masks(const Bytes& packed, size_t width, const Table& table, size_t wide, const Out& out) {
  if (width < 1 || width > 16 || table.size() != size_t(1) << width || (wide != 2 && wide != 4) || out.size() % wide)
    refuse("runs of " + std::to_string(width) + " bits, " + std::to_string(packed.size()) + " bytes of them, for " +
           std::to_string(out.size()) + " bytes");
  nb::gil_scoped_release free;
  if (wide == 2) look_up<uint16_t>(packed.data(), packed.size(), width, table.data(), out.data(), out.size() / 2);
  else look_up<uint32_t>(packed.data(), packed.size(), width, table.data(), out.data(), out.size() / 4);
}

}  // namespace

void bind_unpack(nb::module_& m) {
  m.def("unpack_bits", &bits, "bits"_a, "values"_a, "width"_a, "out"_a, "zeroed"_a);
  m.def("unpack_gaps", &gaps, "steps"_a, "values"_a, "width"_a, "out"_a, "zeroed"_a);
  m.def("check_gaps", [](const Bytes& steps, size_t size) { check_gaps(steps.data(), steps.size(), size); }, "steps"_a,
        "size"_a);
  m.def("crc32", &crc32, "bytes"_a, "before"_a);
  m.def("unpack_masks", &masks, "packed"_a, "width"_a, "table"_a, "wide"_a, "out"_a);
}
