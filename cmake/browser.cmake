# `sparseland.js` and `sparseland.wasm`: the engine for web pages and Node (cpp/wasm/api.cc says which functions).
if(NOT EXISTS ${PROJECT_SOURCE_DIR}/cpp/wasm/api.cc)
  return()
endif()
add_executable(sparseland ${PROJECT_SOURCE_DIR}/cpp/wasm/api.cc)
target_link_libraries(sparseland PRIVATE sl_engine)
string(CONCAT exported "_malloc,_free,_sl_load,_sl_free,_sl_count,_sl_dimensions,_sl_run,_sl_error,_sl_isa")
target_link_options(sparseland PRIVATE
  --no-entry -sMODULARIZE=1 -sEXPORT_NAME=Sparseland -sENVIRONMENT=web,worker,node -sFILESYSTEM=0
  -sALLOW_MEMORY_GROWTH=1 -sEXPORTED_FUNCTIONS=${exported} -sEXPORTED_RUNTIME_METHODS=UTF8ToString)
