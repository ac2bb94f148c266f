// The door to Python: bytes in, an engine out.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "engine/code.h"
#include "engine/engine.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Array = nb::ndarray<nb::numpy, nb::ro, nb::c_contig, nb::device::cpu>;
using Shape = std::tuple<std::string, int, int, int, int>;

const char* layout_name(sl::Layout layout) {
  return layout == sl::Layout::plain ? "plain" : layout == sl::Layout::tiles ? "tiles" : "ids";
}

// Keeps the buffer (bytes, memoryview of a mapped file, ...) that the engine reads from.
class PyEngine {
 public:
  PyEngine(nb::object data, int threads, const std::string& isa) : keep_(data) {
    if (PyObject_GetBuffer(data.ptr(), &view_, PyBUF_SIMPLE) != 0) throw nb::python_error();
    try {
      auto* bytes = static_cast<const uint8_t*>(view_.buf);
      if (reinterpret_cast<uintptr_t>(bytes) % 8) {
        copy_ = std::make_unique<sl::Memory>(view_.len);
        std::memcpy(copy_->data(), bytes, size_t(view_.len));
        bytes = copy_->data();
      }
      nb::gil_scoped_release free;
      engine_ = std::make_unique<sl::Engine>(bytes, view_.len, threads, isa);
    } catch (...) {
      PyBuffer_Release(&view_);
      throw;
    }
  }
  ~PyEngine() {
    engine_.reset();
    PyBuffer_Release(&view_);
  }
  PyEngine(const PyEngine&) = delete;

  nb::list run(const std::vector<Array>& given, nb::object after) const {
    const auto& program = engine_->program();
    if (given.size() != program.inputs.size())
      throw sl::Error("the engine takes " + std::to_string(program.inputs.size()) + " inputs; got " + std::to_string(given.size()));
    std::vector<const void*> inputs;
    for (size_t i = 0; i < given.size(); ++i) inputs.push_back(check(given[i], i));
    nb::list results;
    std::vector<float*> outputs;
    for (int number : program.outputs) {
      const sl::Tensor& t = program.tensors[size_t(number)];
      const size_t shape[4] = {size_t(t.N), size_t(t.C), size_t(t.H), size_t(t.W)};
      const size_t numbers = size_t(t.floats());
      float* memory = new float[numbers];
      nb::capsule owner(memory, [](void* p) noexcept { delete[] static_cast<float*>(p); });
      if (t.layout == sl::Layout::ids)
        results.append(nb::cast(nb::ndarray<nb::numpy, int64_t>(reinterpret_cast<int64_t*>(memory), 4, shape, owner)));
      else
        results.append(nb::cast(nb::ndarray<nb::numpy, float>(memory, 4, shape, owner)));
      outputs.push_back(memory);
    }
    std::function<void(int, double)> call;
    if (!after.is_none())
      call = [&after](int op, double seconds) {
        nb::gil_scoped_acquire hold;
        after(op, seconds);
      };
    nb::gil_scoped_release free;
    engine_->run(inputs.data(), outputs.data(), call);
    return results;
  }

  // Seconds that each op takes in one run.
  std::vector<double> profile(const std::vector<Array>& given) const {
    const auto& program = engine_->program();
    if (given.size() != program.inputs.size()) throw sl::Error("the engine takes " + std::to_string(program.inputs.size()) + " inputs");
    std::vector<const void*> inputs;
    for (size_t i = 0; i < given.size(); ++i) inputs.push_back(check(given[i], i));
    std::vector<std::vector<float>> memory;
    for (int number : program.outputs) memory.emplace_back(size_t(program.tensors[size_t(number)].floats()));
    std::vector<float*> outputs;
    for (auto& one : memory) outputs.push_back(one.data());
    std::vector<double> found;
    nb::gil_scoped_release free;
    engine_->run(inputs.data(), outputs.data(), [&](int, double seconds) { found.push_back(seconds); });
    return found;
  }

  std::vector<Shape> ends(const std::vector<int32_t>& numbers) const {
    std::vector<Shape> found;
    for (int number : numbers) {
      const sl::Tensor& t = engine_->program().tensors[size_t(number)];
      found.emplace_back(layout_name(t.layout), t.N, t.C, t.H, t.W);
    }
    return found;
  }
  std::vector<Shape> inputs() const { return ends(engine_->program().inputs); }
  std::vector<Shape> outputs() const { return ends(engine_->program().outputs); }
  nb::bytes meta() const { return nb::bytes(engine_->program().meta.data(), engine_->program().meta.size()); }
  std::string isa() const { return engine_->isa().name; }
  int threads() const { return engine_->threads(); }
  std::vector<bool> joined() const {
    std::vector<bool> found;
    for (size_t i = 0; i < engine_->program().ops.size(); ++i) found.push_back(engine_->joined(i));
    return found;
  }
  std::vector<std::string> kinds() const {
    std::vector<std::string> found;
    for (const auto& op : engine_->program().ops) found.push_back(op.kind);
    return found;
  }

 private:
  const void* check(const Array& given, size_t i) const {
    const sl::Tensor& t = engine_->program().tensors[size_t(engine_->program().inputs[i])];
    const bool ids = t.layout == sl::Layout::ids;
    if (given.dtype() != (ids ? nb::dtype<int64_t>() : nb::dtype<float>()))
      throw sl::Error("input " + std::to_string(i) + " has the wrong type: " + (ids ? "int64" : "float32") + " is asked for");
    if (int64_t(given.size()) != t.count())
      throw sl::Error("input " + std::to_string(i) + " has " + std::to_string(given.size()) + " numbers; (" +
                      std::to_string(t.N) + ", " + std::to_string(t.C) + ", " + std::to_string(t.H) + ", " +
                      std::to_string(t.W) + ") is asked for");
    return given.data();
  }

  nb::object keep_;
  Py_buffer view_{};
  std::unique_ptr<sl::Memory> copy_;
  std::unique_ptr<sl::Engine> engine_;
};

}  // namespace

void bind_sparse_code(nb::module_&);  // ops/sparse_code.cc
void bind_newton(nb::module_&);       // ops/newton.cc
void bind_causes(nb::module_&);       // ops/causes.cc
void bind_slabs(nb::module_&);        // ops/slabs.cc
void bind_unpack(nb::module_&);       // ops/unpack.cc

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false);
  nb::exception<sl::Error>(m, "EngineError", PyExc_ValueError);
  nb::class_<PyEngine>(m, "Engine")
      .def(nb::init<nb::object, int, const std::string&>(), "data"_a, "threads"_a = 0, "isa"_a = "")
      .def("run", &PyEngine::run, "inputs"_a, "after"_a = nb::none(),
           "Run on arrays; `after(op, seconds)` is called after each op.")
      .def("profile", &PyEngine::profile, "inputs"_a, "Seconds that each op takes in one run.")
      .def_prop_ro("inputs", &PyEngine::inputs)
      .def_prop_ro("outputs", &PyEngine::outputs)
      .def_prop_ro("joined", &PyEngine::joined, "Of each op: whether it is done together with the next one.")
      .def_prop_ro("kinds", &PyEngine::kinds)
      .def_prop_ro("meta", &PyEngine::meta)
      .def_prop_ro("isa", &PyEngine::isa)
      .def_prop_ro("threads", &PyEngine::threads);
  bind_sparse_code(m);
  bind_newton(m);
  bind_causes(m);
  bind_slabs(m);
  bind_unpack(m);
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const sl::Isa* one : sl::isas()) names.emplace_back(one->name);
    return names;
  });
  m.def("makes_code", [](const std::string& isa) {
    for (const sl::Isa* one : sl::isas())
      if (isa.empty() || isa == one->name) return one->width == sl::Code::LANES && sl::Code::possible();
    return false;
  }, "isa"_a = "", "Whether rows that share nothing become machine code; not where there is no such instruction set.");
  m.def("cpus", &sl::cpus);
  m.def("peak", [](int threads, const std::string& isa) {
    nb::gil_scoped_release free;
    return sl::peak(threads > 0 ? threads : sl::cpus(), sl::isa(isa));
  }, "threads"_a = 0, "isa"_a = "");
}
