// Machine code for one matrix, where the CPU has AVX-512 and the system lets memory be made executable.
//
// A loop over the non-zeros of a row loads an input for every multiply-add, and that load is what it waits for. Which
// register a sum lies in cannot be looked up, so no loop keeps the sums of many rows in registers and reads an input once
// for all of them; code written for the matrix can: thirty sums stay where they are, an input is loaded once for those
// rows that have a non-zero there, and nothing else happens. Weights are data, read in order, never part of an instruction.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace sl {

// Rows in the order in which they are computed. All places are in floats.
struct CodeRows {
  std::vector<int64_t> out;      // [rows] where a row lies in the output and in the residual
  const float* bias = nullptr;   // [rows]
  const int64_t* start = nullptr;    // [rows + 1] first entry of each
  const int32_t* offsets = nullptr;  // of each entry, where its input lies; `dense`: the same list for every row
  bool dense = false;
  const float* values = nullptr;
  std::vector<int> cuts;         // parts of the rows that are asked for one by one: 0, …, rows
  bool residual = false;         // is added
  float lo, hi;                  // then clamped
};

class Code {
 public:
  static constexpr int LANES = 16, MOST = 30;  // floats at a time; rows whose sums fit into registers
  struct Group {
    size_t at, values;  // of its function in the code, of its first value
    int first, last;    // its rows
  };

  // About what code for so many entries takes: an instruction of seven bytes, a value, its share of loads.
  static int64_t bytes(int64_t entries) { return 14 * entries; }
  static bool possible();  // on this CPU and system; false too where SPARSELAND_NO_CODE is set and not empty
  // Nothing where it is not possible or a place does not fit into an instruction. `local`: a group's rows lie one after
  // another from `out` on, `local` floats apart, wherever CodeRows::out says they should.
  static std::unique_ptr<const Code> make(const CodeRows& rows, int64_t local = 0);
  ~Code();
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;

  const Group* begin(int part) const { return groups_.data() + parts_[size_t(part)]; }
  const Group* end(int part) const { return groups_.data() + parts_[size_t(part) + 1]; }
  // out[row][lane] of a group = bias + sum of value * x[offset][lane], `vectors` times LANES lanes.
  void run(const Group& group, const float* x, float* out, const float* residual, int vectors) const;

 private:
  Code() = default;
  uint8_t* memory_ = nullptr;
  size_t bytes_ = 0;
  std::vector<float> values_;  // as the code reads them: of each group its biases, weights and bounds
  std::vector<Group> groups_;
  std::vector<size_t> parts_;  // first group of each
};

}  // namespace sl
