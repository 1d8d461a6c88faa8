# The C and C++ tests.  Labels: contract (the header's promises), headers (they compile cleanly everywhere), binary (what the
# shared library exports and needs), install (the install tree works from outside).

enable_language(CXX)
find_package(Threads REQUIRED)
set(warnings -Wall -Wextra -Wpedantic -Werror -Wconversion -Wshadow)
set(tests "${PROJECT_SOURCE_DIR}/Tests")
set(checks "${PROJECT_SOURCE_DIR}/cmake/checks")
set(c_examples lasso decompose attribute)
set(cpp_examples decompose attribute)

set(sanitize)
set(linker)
if(UNMERGE_SANITIZE) # CC has to be the toolchain's clang: library and tests share its run-time
  set(linker -fuse-ld=lld)
  set(sanitize -fsanitize=${UNMERGE_SANITIZE} -fno-omit-frame-pointer)
endif()

# ---------------------------------------------------------------- the contract
foreach(name null handles structs views overflow data options outputs control process constrained methods groups selection bayes
             penalties greedy composite projections merge attribution models)
  add_executable(test_${name} "${tests}/c/test_${name}.c")
  target_link_libraries(test_${name} PRIVATE unmerge::unmerge Threads::Threads m)
  set_target_properties(test_${name} PROPERTIES C_STANDARD 11 C_STANDARD_REQUIRED ON)
  target_compile_options(test_${name} PRIVATE ${warnings} ${sanitize})
  target_link_options(test_${name} PRIVATE ${sanitize} ${linker})
  add_test(NAME contract.${name} COMMAND test_${name})
  set_tests_properties(contract.${name} PROPERTIES LABELS contract TIMEOUT 300)
endforeach()

# Loads the library itself.
add_executable(test_load "${tests}/c/test_load.c")
add_dependencies(test_load unmerge_library)
target_include_directories(test_load PRIVATE "${PROJECT_SOURCE_DIR}/include")
target_link_libraries(test_load PRIVATE ${CMAKE_DL_LIBS})
target_compile_options(test_load PRIVATE ${warnings} ${sanitize})
target_link_options(test_load PRIVATE ${sanitize} ${linker})
add_test(NAME contract.load COMMAND test_load "${library_dir}/libunmerge.so.${PROJECT_VERSION_MAJOR}")
set_tests_properties(contract.load PROPERTIES LABELS contract TIMEOUT 300)

foreach(standard 17 20)
  add_executable(test_cpp${standard} "${tests}/cpp/test_unmerge.cpp")
  target_link_libraries(test_cpp${standard} PRIVATE unmerge::unmerge)
  set_target_properties(test_cpp${standard} PROPERTIES CXX_STANDARD ${standard} CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF)
  target_compile_options(test_cpp${standard} PRIVATE ${warnings} ${sanitize})
  target_link_options(test_cpp${standard} PRIVATE ${sanitize} ${linker})
  add_test(NAME contract.cpp${standard} COMMAND test_cpp${standard})
  set_tests_properties(contract.cpp${standard} PROPERTIES LABELS contract TIMEOUT 300)
endforeach()

if(UNMERGE_SANITIZE)
  return() # what follows is about the library as it is shipped
endif()

# ---------------------------------------------------------------- headers
get_filename_component(swift_bin "${UNMERGE_SWIFT}" REALPATH)
get_filename_component(swift_bin "${swift_bin}" DIRECTORY)
foreach(compiler gcc clang g++ clang++)
  string(MAKE_C_IDENTIFIER "${compiler}" id)
  find_program(UNMERGE_${id} ${compiler} HINTS "${swift_bin}" DOC "${compiler}, for the header checks")
endforeach()
foreach(compiler gcc clang)
  string(MAKE_C_IDENTIFIER "${compiler}" id)
  foreach(standard c99 c11)
    if(UNMERGE_${id})
      add_test(NAME headers.h.${standard}.${compiler}
        COMMAND "${UNMERGE_${id}}" -std=${standard} ${warnings} -Wstrict-prototypes -fsyntax-only "-I${PROJECT_SOURCE_DIR}/include"
                "${tests}/c/header.c")
    endif()
  endforeach()
endforeach()
foreach(compiler g++ clang++)
  string(MAKE_C_IDENTIFIER "${compiler}" id)
  foreach(standard c++17 c++20)
    if(UNMERGE_${id})
      add_test(NAME headers.h.${standard}.${compiler}
        COMMAND "${UNMERGE_${id}}" -x c++ -std=${standard} ${warnings} -fsyntax-only "-I${PROJECT_SOURCE_DIR}/include"
                "${tests}/c/header.c")
      add_test(NAME headers.hpp.${standard}.${compiler}
        COMMAND "${UNMERGE_${id}}" -std=${standard} ${warnings} -fsyntax-only "-I${PROJECT_SOURCE_DIR}/include"
                "${tests}/cpp/test_unmerge.cpp")
    endif()
  endforeach()
endforeach()

# ---------------------------------------------------------------- the shared library
add_test(NAME binary.exports COMMAND sh "${checks}/exports.sh" "${UNMERGE_LIBRARY_FILE}" "${PROJECT_SOURCE_DIR}/include/unmerge.h"
                                     "${CMAKE_C_COMPILER}")
if(strip_command)
  add_test(NAME binary.size COMMAND sh "${checks}/size.sh" "${UNMERGE_LIBRARY_FILE}" 10000000)
endif()
add_test(NAME binary.dynamic COMMAND sh "${checks}/dynamic.sh" "${UNMERGE_LIBRARY_FILE}" ${soname} ${UNMERGE_OPENBLAS})

# ---------------------------------------------------------------- the install tree, moved after it was made
set(installed "${PROJECT_BINARY_DIR}/installed tree")
add_test(NAME install.tree COMMAND sh "${checks}/install.sh" "${CMAKE_COMMAND}" "${PROJECT_BINARY_DIR}" "${installed}")
set_tests_properties(install.tree PROPERTIES FIXTURES_SETUP installed)
add_test(NAME install.pkgconfig
  COMMAND sh "${checks}/pkgconfig.sh" "${installed}" "${CMAKE_INSTALL_LIBDIR}" "${PROJECT_SOURCE_DIR}/examples"
          "${PROJECT_BINARY_DIR}/pkgconfig" "${CMAKE_C_COMPILER}" "${CMAKE_CXX_COMPILER}")
add_test(NAME install.find_package
  COMMAND sh "${checks}/consumer.sh" "${CMAKE_COMMAND}" "${CMAKE_GENERATOR}" "${tests}/cpp/consumer"
          "${PROJECT_BINARY_DIR}/find_package" "-DCMAKE_PREFIX_PATH=${installed}" "-DEXAMPLES=${PROJECT_SOURCE_DIR}/examples"
          "-DCMAKE_C_COMPILER=${CMAKE_C_COMPILER}" "-DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}")
set_tests_properties(install.pkgconfig install.find_package PROPERTIES FIXTURES_REQUIRED installed)
# As a subdirectory, on the sources that are already built.
if(UNMERGE_OPENBLAS STREQUAL "scipy") # its copy in the build directory is part of the flags: that would be another build
  return()
endif()
string(REGEX REPLACE "-[0-9a-f]+$" "" scratch_stem "${scratch}")
add_test(NAME install.add_subdirectory
  COMMAND sh "${checks}/consumer.sh" "${CMAKE_COMMAND}" "${CMAKE_GENERATOR}" "${tests}/cpp/consumer"
          "${PROJECT_BINARY_DIR}/add_subdirectory" "-DUNMERGE_SOURCE=${PROJECT_SOURCE_DIR}"
          "-DUNMERGE_SCRATCH_PATH=${scratch_stem}" "-DUNMERGE_SWIFT=${UNMERGE_SWIFT}"
          "-DCMAKE_BUILD_TYPE=${CMAKE_BUILD_TYPE}" "-DEXAMPLES=${PROJECT_SOURCE_DIR}/examples"
          "-DCMAKE_C_COMPILER=${CMAKE_C_COMPILER}" "-DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}")
