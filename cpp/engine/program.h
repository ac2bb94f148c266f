// The bytes of a program, read and checked: nothing in them is trusted.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "op.h"

namespace sl {

enum class Storage : int32_t { arena = 0, constant = 1, input = 2, output = 3 };

struct Place {
  Storage storage = Storage::arena;
  int64_t at = 0;  // byte offset in the arena, or number of the blob, input or output
};

struct Program {
  std::vector<Tensor> tensors;  // shapes; constants have their data
  std::vector<Place> places;
  std::vector<Op> ops;
  std::vector<int32_t> inputs, outputs;
  int64_t arena = 0;  // bytes
  std::string meta;
};

constexpr int64_t OVERREAD = 256;  // bytes readable beyond each tensor and blob; 64 are before it

// `bytes` must stay alive and unchanged as long as the program; 8-byte aligned.
Program read_program(const uint8_t* bytes, int64_t size);
uint32_t crc32(const uint8_t* bytes, int64_t size, uint32_t before = 0);

}  // namespace sl
