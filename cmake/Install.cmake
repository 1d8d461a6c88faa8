# The install tree may be moved: every path in it is relative to the file that holds it.

set(headers "${PROJECT_SOURCE_DIR}/include/unmerge.h" "${PROJECT_SOURCE_DIR}/include/unmerge.hpp")

if(SKBUILD) # a Python wheel: the prefix is the package's own folder, and a wheel has no symlinks
  install(FILES "${UNMERGE_LIBRARY_FILE}" DESTINATION lib RENAME ${soname}
          PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
  install(FILES ${UNMERGE_OPENBLAS_FILES} DESTINATION lib)
  install(FILES ${headers} DESTINATION include)
  return()
endif()

install(FILES "${UNMERGE_LIBRARY_FILE}" "${library_dir}/${soname}" "${library_dir}/libunmerge.so" ${UNMERGE_OPENBLAS_FILES}
        DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(FILES ${headers} DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")

file(RELATIVE_PATH pc_prefix "/prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/prefix")
string(REGEX REPLACE "/$" "" pc_prefix "${pc_prefix}")
configure_file(cmake/unmerge.pc.in unmerge.pc @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/unmerge.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/unmerge")
configure_package_config_file(cmake/unmergeConfig.cmake.in unmergeConfig.cmake INSTALL_DESTINATION "${package_dir}"
  PATH_VARS CMAKE_INSTALL_LIBDIR CMAKE_INSTALL_INCLUDEDIR NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file(unmergeConfigVersion.cmake COMPATIBILITY SameMajorVersion)
install(FILES "${PROJECT_BINARY_DIR}/unmergeConfig.cmake" "${PROJECT_BINARY_DIR}/unmergeConfigVersion.cmake"
        DESTINATION "${package_dir}")
