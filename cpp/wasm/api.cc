// The engine for JavaScript: plain C functions over handles. What goes wrong is a 0 or a negative number, and a text.
//
//   const bytes = sl._malloc(file.length); sl.HEAPU8.set(file, bytes);
//   const engine = sl._sl_load(bytes, file.length);      // > 0, or 0: UTF8ToString(_sl_error())
//   sl._sl_run(engine, inputs, outputs)                  // 0, or -1; both are arrays of pointers
#include <cstring>
#include <map>
#include <memory>
#include <string>

#include "engine/engine.h"

namespace {

struct Loaded {
  std::unique_ptr<sl::Memory> bytes;  // an aligned copy, which the engine reads its weights from
  std::unique_ptr<sl::Engine> engine;
};

std::map<int, Loaded>& all() {
  static std::map<int, Loaded> loaded;
  return loaded;
}
std::string& error() {
  static std::string text;
  return text;
}

template <class F>
int guarded(int failed, F&& f) {
  try {
    error().clear();
    return f();
  } catch (const std::exception& e) {
    error() = e.what();
  } catch (...) {
    error() = "unknown error";
  }
  return failed;
}

const sl::Engine& engine(int handle) {
  auto found = all().find(handle);
  if (found == all().end()) throw sl::Error("there is no engine " + std::to_string(handle));
  return *found->second.engine;
}

}  // namespace

extern "C" {

// The handle of an engine, > 0; 0 when the file is refused. The bytes are copied: the caller may free them.
int sl_load(const uint8_t* bytes, int length) {
  return guarded(0, [&] {
    if (length < 0) throw sl::Error("a file of " + std::to_string(length) + " bytes");
    static int last = 0;
    Loaded one;
    one.bytes = std::make_unique<sl::Memory>(int64_t(length) + sl::OVERREAD);
    std::memcpy(one.bytes->data(), bytes, size_t(length));
    one.engine = std::make_unique<sl::Engine>(one.bytes->data(), length, 1);
    all()[++last] = std::move(one);
    return last;
  });
}

void sl_free(int handle) { all().erase(handle); }

// Of inputs (which = 0) or outputs (which = 1): how many there are.
int sl_count(int handle, int which) {
  return guarded(-1, [&] {
    const sl::Program& program = engine(handle).program();
    return int((which ? program.outputs : program.inputs).size());
  });
}

// Layout (0 plain, 1 tiles, 2 ids), N, C, H, W of an input or output, into five integers.
int sl_dimensions(int handle, int which, int number, int32_t* five) {
  return guarded(-1, [&] {
    const sl::Program& program = engine(handle).program();
    const auto& list = which ? program.outputs : program.inputs;
    if (number < 0 || number >= int(list.size())) throw sl::Error("there is no tensor " + std::to_string(number));
    const sl::Tensor& t = program.tensors[size_t(list[size_t(number)])];
    const int32_t all[5] = {int32_t(t.layout), t.N, t.C, t.H, t.W};
    std::memcpy(five, all, sizeof all);
    return 0;
  });
}

int sl_run(int handle, const void* const* inputs, float* const* outputs) {
  return guarded(-1, [&] {
    engine(handle).run(inputs, outputs);
    return 0;
  });
}

const char* sl_error() { return error().c_str(); }
const char* sl_isa() { return sl::isa().name; }
}
