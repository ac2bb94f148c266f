# The Python extension sparseland.kernels._native.
if(NOT EXISTS ${PROJECT_SOURCE_DIR}/cpp/module.cc)
  message(STATUS "no cpp/module.cc: the extension is left out")
  return()
endif()

find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module OPTIONAL_COMPONENTS Development.SABIModule)
if(NOT nanobind_DIR)
  execute_process(COMMAND ${Python_EXECUTABLE} -m nanobind --cmake_dir
    OUTPUT_STRIP_TRAILING_WHITESPACE OUTPUT_VARIABLE nanobind_DIR)
endif()
find_package(nanobind CONFIG REQUIRED)

nanobind_add_module(_native NB_STATIC STABLE_ABI NOMINSIZE
  ${PROJECT_SOURCE_DIR}/cpp/module.cc
  ${PROJECT_SOURCE_DIR}/cpp/ops/causes.cc
  ${PROJECT_SOURCE_DIR}/cpp/ops/newton.cc
  ${PROJECT_SOURCE_DIR}/cpp/ops/slabs.cc
  ${PROJECT_SOURCE_DIR}/cpp/ops/sparse_code.cc
  ${PROJECT_SOURCE_DIR}/cpp/ops/unpack.cc)
target_link_libraries(_native PRIVATE sl_engine)
install(TARGETS _native LIBRARY DESTINATION sparseland/kernels)

if(SL_INPLACE)  # a rename, so that a process that has the old one mapped keeps it
  set(place ${PROJECT_SOURCE_DIR}/src/sparseland/kernels)
  add_custom_command(TARGET _native POST_BUILD
    COMMAND ${CMAKE_COMMAND} -E make_directory ${place}
    COMMAND ${CMAKE_COMMAND} -E copy $<TARGET_FILE:_native> ${place}/$<TARGET_FILE_NAME:_native>.tmp
    COMMAND ${CMAKE_COMMAND} -E rename ${place}/$<TARGET_FILE_NAME:_native>.tmp ${place}/$<TARGET_FILE_NAME:_native>
    COMMENT "-> src/sparseland/kernels/$<TARGET_FILE_NAME:_native>" VERBATIM)
endif()
