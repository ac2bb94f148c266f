# Objects: cpp/kernels/isa.cc once per instruction set, and cpp/engine/*.cc.
find_package(Threads)

add_library(sl_flags INTERFACE)
target_include_directories(sl_flags INTERFACE ${PROJECT_SOURCE_DIR}/cpp/include ${PROJECT_SOURCE_DIR}/cpp)
# Multiply-adds are contracted (the kernels are written for it). NaN and infinity keep their meaning: no -ffast-math.
target_compile_options(sl_flags INTERFACE
  -ffp-contract=fast -fno-math-errno -fno-trapping-math -Wall -Wextra -Wno-psabi -Wno-unknown-pragmas
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)  # GCC 12 warns of its own std::string
if(Threads_FOUND)
  target_link_libraries(sl_flags INTERFACE Threads::Threads)
endif()
if(SL_SANITIZE)
  string(REPLACE ";" "," sanitizers "${SL_SANITIZE}")
  target_compile_options(sl_flags INTERFACE
    -fsanitize=${sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1 -O1)
  target_link_options(sl_flags INTERFACE -fsanitize=${sanitizers})
endif()
if(EMSCRIPTEN)
  # Exceptions carry the engine's error texts, so they must work in the browser too.
  target_compile_options(sl_flags INTERFACE -fwasm-exceptions)
  target_link_options(sl_flags INTERFACE -fwasm-exceptions)
endif()

# The sets of this architecture, the least demanding first: name, floats per vector, flags.
set(sl_sets plain)
set(sl_plain_W 1)
string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" processor)
if(EMSCRIPTEN)
  list(APPEND sl_sets wasm)
  set(sl_wasm_W 4)
  set(sl_wasm_flags -msimd128)
elseif(processor MATCHES "^(x86_64|amd64)$")
  list(APPEND sl_sets avx2 avx512)
  set(sl_avx2_W 8)
  set(sl_avx2_flags -march=x86-64-v3)
  set(sl_avx512_W 16)
  set(sl_avx512_flags -march=x86-64-v4 -mprefer-vector-width=512)
elseif(processor MATCHES "^(aarch64|arm64)$")
  list(APPEND sl_sets neon)
  set(sl_neon_W 4)
endif()
if(SL_ONLY)
  foreach(isa IN LISTS sl_sets)
    if(NOT isa STREQUAL "plain" AND NOT isa IN_LIST SL_ONLY)
      list(REMOVE_ITEM sl_sets ${isa})
    endif()
  endforeach()
endif()

set(kernels_source ${PROJECT_SOURCE_DIR}/cpp/kernels/isa.cc)
set(kernel_objects "")
set(have "")
if(EXISTS ${kernels_source})
  foreach(isa IN LISTS sl_sets)
    add_library(sl_${isa} OBJECT ${kernels_source})
    target_link_libraries(sl_${isa} PRIVATE sl_flags)
    target_compile_definitions(sl_${isa} PRIVATE SL_ISA=${isa} SL_W=${sl_${isa}_W})
    target_compile_options(sl_${isa} PRIVATE ${sl_${isa}_flags})
    string(TOUPPER ${isa} upper)
    list(APPEND have SL_HAVE_${upper}=1)
    list(APPEND kernel_objects $<TARGET_OBJECTS:sl_${isa}>)
  endforeach()
endif()

file(GLOB engine_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cpp/engine/*.cc)
if(NOT engine_sources)
  file(WRITE ${CMAKE_BINARY_DIR}/none.cc "")
  set(engine_sources ${CMAKE_BINARY_DIR}/none.cc)
endif()
add_library(sl_core OBJECT ${engine_sources})
target_link_libraries(sl_core PRIVATE sl_flags)
target_compile_definitions(sl_core PRIVATE ${have})

# All that is linked is linked from this list of objects, in this order. A template of the standard library may be
# compiled in several of them, and the linker keeps the first: it must be the one that runs on every CPU. An archive
# would not promise that, so `sl_engine` carries objects, not an archive.
add_library(sl_engine INTERFACE)
target_sources(sl_engine INTERFACE $<TARGET_OBJECTS:sl_core> ${kernel_objects})
target_link_libraries(sl_engine INTERFACE sl_flags)
message(STATUS "kernels for: ${sl_sets}")
