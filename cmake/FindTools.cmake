# Swift and OpenBLAS. What is missing is named in one sentence, with the package that has it.

find_program(UNMERGE_SWIFT swift DOC "The swift command of a Swift toolchain")
if(NOT UNMERGE_SWIFT)
  message(FATAL_ERROR "Swift was not found: install a Swift 6.1 or newer toolchain (https://www.swift.org/install/linux) and "
                      "put its usr/bin on PATH, or set -DUNMERGE_SWIFT=/path/to/swift.")
endif()
execute_process(COMMAND "${UNMERGE_SWIFT}" --version OUTPUT_VARIABLE swift_version ERROR_VARIABLE swift_error
                RESULT_VARIABLE swift_result)
if(NOT swift_result EQUAL 0 OR NOT swift_version MATCHES "Swift version ([0-9]+\\.[0-9]+(\\.[0-9]+)?)")
  message(FATAL_ERROR "${UNMERGE_SWIFT} --version does not work: ${swift_error}")
endif()
if(CMAKE_MATCH_1 VERSION_LESS 6.1)
  message(FATAL_ERROR "${UNMERGE_SWIFT} is Swift ${CMAKE_MATCH_1}; Swift 6.1 or newer is needed.")
endif()
message(STATUS "Swift ${CMAKE_MATCH_1}: ${UNMERGE_SWIFT}")

# UNMERGE_OPENBLAS_DIR: where the linker finds it.  UNMERGE_OPENBLAS_FILES: what has to be installed beside the library.
set(UNMERGE_OPENBLAS_FILES)
if(UNMERGE_OPENBLAS STREQUAL "system")
  find_library(UNMERGE_OPENBLAS_LIBRARY openblas DOC "OpenBLAS with LAPACK")
  if(NOT UNMERGE_OPENBLAS_LIBRARY)
    message(FATAL_ERROR "OpenBLAS was not found: install the package libopenblas-dev (apt-get install libopenblas-dev), or set "
                        "-DUNMERGE_OPENBLAS_LIBRARY=/path/to/libopenblas.so.")
  endif()
  get_filename_component(UNMERGE_OPENBLAS_DIR "${UNMERGE_OPENBLAS_LIBRARY}" DIRECTORY)
  message(STATUS "OpenBLAS: ${UNMERGE_OPENBLAS_LIBRARY}")
elseif(UNMERGE_OPENBLAS STREQUAL "scipy")
  find_package(Python 3.11 COMPONENTS Interpreter REQUIRED)
  execute_process(COMMAND "${Python_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/scipy_openblas.py"
                  OUTPUT_VARIABLE scipy_files ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE scipy_result)
  if(NOT scipy_result EQUAL 0)
    message(FATAL_ERROR "scipy-openblas32 was not found by ${Python_EXECUTABLE}: install it with "
                        "\"${Python_EXECUTABLE} -m pip install scipy-openblas32\".")
  endif()
  string(REPLACE "\n" ";" scipy_files "${scipy_files}")
  list(GET scipy_files 0 scipy_library)
  list(GET scipy_files 1 scipy_license)
  # A copy in the build directory: a Python that lives for one build only must not end up in the flags of the next.
  set(UNMERGE_OPENBLAS_DIR "${CMAKE_CURRENT_BINARY_DIR}/openblas")
  configure_file("${scipy_library}" "${UNMERGE_OPENBLAS_DIR}/libscipy_openblas.so" COPYONLY)
  configure_file("${scipy_license}" "${UNMERGE_OPENBLAS_DIR}/LICENSE.openblas.txt" COPYONLY)
  set(UNMERGE_OPENBLAS_FILES "${UNMERGE_OPENBLAS_DIR}/libscipy_openblas.so" "${UNMERGE_OPENBLAS_DIR}/LICENSE.openblas.txt")
  message(STATUS "OpenBLAS: ${scipy_library}")
else()
  message(FATAL_ERROR "UNMERGE_OPENBLAS is \"${UNMERGE_OPENBLAS}\"; it must be system or scipy.")
endif()
