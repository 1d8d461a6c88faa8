# swift build -> libunmerge.so.1.0.0 and its two symlinks, and the target unmerge::unmerge.

set(soname libunmerge.so.${PROJECT_VERSION_MAJOR})
set(realname libunmerge.so.${PROJECT_VERSION})

if(CMAKE_BUILD_TYPE STREQUAL "Debug")
  set(configuration debug)
else()
  set(configuration release)
endif()
set(exports "${PROJECT_SOURCE_DIR}/Support/exports.map")
set(swift_flags
  -c ${configuration} --product unmerge
  -Xswiftc -static-stdlib # --static-swift-stdlib does not reach a dynamic library
  -Xswiftc -use-ld=lld
  -Xlinker -soname=${soname}
  -Xlinker "--version-script=${exports}"
  -Xlinker -z -Xlinker nodelete # the runtime keeps thread-local state: unloading leaks it
  -Xlinker "-L${UNMERGE_OPENBLAS_DIR}"
  ${UNMERGE_SWIFT_ARGS})
if(UNMERGE_OPENBLAS STREQUAL "system")
  list(APPEND swift_flags --disable-local-rpath) # otherwise RUNPATH is $ORIGIN, which the other flavour wants
endif()
if(UNMERGE_SANITIZE)
  list(APPEND swift_flags --sanitize=${UNMERGE_SANITIZE})
endif()

# SwiftPM may keep an old binary when only flags have changed: every set of flags has its own scratch directory.
if(UNMERGE_SCRATCH_PATH)
  set(scratch "${UNMERGE_SCRATCH_PATH}")
else()
  set(scratch "${PROJECT_BINARY_DIR}/swift")
endif()
string(MD5 flags_hash "${UNMERGE_SWIFT};${UNMERGE_OPENBLAS};${swift_flags}")
string(SUBSTRING ${flags_hash} 0 8 flags_hash)
string(APPEND scratch "-${flags_hash}")

# SwiftPM obeys CC and CFLAGS; what builds the other half of a mixed project (gcc's, a Python's) does not fit its clang.
set(environment --unset=CC --unset=CXX --unset=CFLAGS --unset=CXXFLAGS --unset=CPPFLAGS --unset=LDFLAGS --unset=SDKROOT)
if(UNMERGE_OPENBLAS STREQUAL "scipy")
  list(APPEND environment UNMERGE_OPENBLAS=scipy)
else()
  list(APPEND environment --unset=UNMERGE_OPENBLAS)
endif()

# SwiftPM knows what is out of date, so it is asked every time; what follows it runs only when its library is newer.
set(swift_product "${scratch}/${configuration}/libunmerge.so")
add_custom_target(unmerge_swift
  COMMAND "${CMAKE_COMMAND}" -E env ${environment} "${UNMERGE_SWIFT}" build --package-path "${PROJECT_SOURCE_DIR}" --scratch-path
          "${scratch}" ${swift_flags}
  BYPRODUCTS "${swift_product}"
  COMMENT "swift build"
  VERBATIM)

set(library_dir "${PROJECT_BINARY_DIR}/lib")
set(UNMERGE_LIBRARY_FILE "${library_dir}/${realname}")
set(strip_command)
if(CMAKE_STRIP AND NOT UNMERGE_SANITIZE AND CMAKE_BUILD_TYPE MATCHES "^(Release|MinSizeRel)$")
  set(strip_command COMMAND "${CMAKE_STRIP}" --strip-all "${UNMERGE_LIBRARY_FILE}")
endif()
set(beside_commands)
foreach(file IN LISTS UNMERGE_OPENBLAS_FILES)
  list(APPEND beside_commands COMMAND "${CMAKE_COMMAND}" -E copy_if_different "${file}" "${library_dir}")
endforeach()
add_custom_command(OUTPUT "${UNMERGE_LIBRARY_FILE}"
  COMMAND "${CMAKE_COMMAND}" -E make_directory "${library_dir}"
  COMMAND "${CMAKE_COMMAND}" -E copy "${swift_product}" "${UNMERGE_LIBRARY_FILE}"
  ${strip_command}
  COMMAND "${CMAKE_COMMAND}" -E create_symlink ${realname} "${library_dir}/${soname}"
  COMMAND "${CMAKE_COMMAND}" -E create_symlink ${soname} "${library_dir}/libunmerge.so"
  ${beside_commands}
  DEPENDS unmerge_swift "${swift_product}" ${UNMERGE_OPENBLAS_FILES}
  COMMENT "${realname}"
  VERBATIM)
add_custom_target(unmerge_library ALL DEPENDS "${UNMERGE_LIBRARY_FILE}")

add_library(unmerge SHARED IMPORTED GLOBAL)
add_dependencies(unmerge unmerge_library)
set_target_properties(unmerge PROPERTIES
  IMPORTED_LOCATION "${UNMERGE_LIBRARY_FILE}"
  IMPORTED_SONAME ${soname}
  INTERFACE_INCLUDE_DIRECTORIES "${PROJECT_SOURCE_DIR}/include")
add_library(unmerge::unmerge ALIAS unmerge)
