// Which instruction sets may run here.
#include "isa.h"

namespace sl {

#define SL_DECLARE(name) \
  namespace name {       \
  const Isa& table();    \
  }
#ifdef SL_HAVE_AVX512
SL_DECLARE(avx512)
#endif
#ifdef SL_HAVE_AVX2
SL_DECLARE(avx2)
#endif
#ifdef SL_HAVE_NEON
SL_DECLARE(neon)
#endif
#ifdef SL_HAVE_WASM
SL_DECLARE(wasm)
#endif
SL_DECLARE(plain)

std::vector<const Isa*> isas() {
  std::vector<const Isa*> found;
#if defined(SL_HAVE_AVX512) || defined(SL_HAVE_AVX2)
  __builtin_cpu_init();
#endif
#ifdef SL_HAVE_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("fma"))
    found.push_back(&avx512::table());
#endif
#ifdef SL_HAVE_AVX2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
    found.push_back(&avx2::table());
#endif
#ifdef SL_HAVE_NEON
  found.push_back(&neon::table());
#endif
#ifdef SL_HAVE_WASM
  found.push_back(&wasm::table());
#endif
  found.push_back(&plain::table());
  return found;
}

const Isa& isa(const std::string& name) {
  std::string there;
  for (const Isa* one : isas()) {
    if (name.empty() || name == one->name) return *one;
    there += (there.empty() ? "" : ", ") + std::string(one->name);
  }
  throw Error("instruction set '" + name + "' is not to be had on this CPU; there are: " + there);
}

}  // namespace sl
