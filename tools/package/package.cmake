# What strangers get: the shared and the static library, headers, CMake and pkg-config files, the CLI with its man pages and completion.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(EXPORTS ${PROJECT_SOURCE_DIR}/userspace/api/fdspan.map)
add_library(fdspan_shared SHARED $<TARGET_OBJECTS:fdspan_objects>)
set_target_properties(fdspan_shared PROPERTIES
  OUTPUT_NAME fdspan EXPORT_NAME fdspan
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}
  LINK_DEPENDS ${EXPORTS})
target_link_options(fdspan_shared PRIVATE -Wl,--version-script=${EXPORTS} -Wl,--no-undefined)
target_link_libraries(fdspan_shared PRIVATE PkgConfig::LIBBPF Threads::Threads)
target_include_directories(fdspan_shared INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)

# One relocatable object whose only global definitions are those of the interface: the C++ inside can't meet that of the program.
file(STRINGS ${EXPORTS} EXPORTED REGEX "^ *fdspan_[a-z_]*;$")
string(REGEX REPLACE "[ ;\\\\]+" "\n" EXPORTED "${EXPORTED}")
file(WRITE ${PROJECT_BINARY_DIR}/exports.txt "${EXPORTED}")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${EXPORTS})
set(ARCHIVE ${PROJECT_BINARY_DIR}/libfdspan.a)
add_custom_command(
  OUTPUT ${ARCHIVE}
  COMMAND ${CMAKE_CXX_COMPILER} -r -nostdlib -Wl,--force-group-allocation -o libfdspan.o $<TARGET_OBJECTS:fdspan_objects>
  COMMAND ${CMAKE_OBJCOPY} --keep-global-symbols=${PROJECT_BINARY_DIR}/exports.txt libfdspan.o
  COMMAND ${CMAKE_COMMAND} -E rm -f ${ARCHIVE}
  COMMAND ${CMAKE_AR} rcs ${ARCHIVE} libfdspan.o
  WORKING_DIRECTORY ${PROJECT_BINARY_DIR}
  DEPENDS fdspan_objects $<TARGET_OBJECTS:fdspan_objects> ${EXPORTS}
  COMMAND_EXPAND_LISTS VERBATIM COMMENT "libfdspan.a")
add_custom_target(fdspan_archive ALL DEPENDS ${ARCHIVE})

set(CONFIG_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/fdspan)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/fdspan-config.cmake.in ${PROJECT_BINARY_DIR}/fdspan-config.cmake
  INSTALL_DESTINATION ${CONFIG_DIR} PATH_VARS CMAKE_INSTALL_INCLUDEDIR CMAKE_INSTALL_LIBDIR)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/fdspan-config-version.cmake COMPATIBILITY SameMinorVersion)
# Relative to the file itself: an installed tree may be moved.
file(RELATIVE_PATH PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" PC_PREFIX "${PC_PREFIX}")
configure_file(${CMAKE_CURRENT_LIST_DIR}/fdspan.pc.in ${PROJECT_BINARY_DIR}/fdspan.pc @ONLY)

install(TARGETS fdspan_shared EXPORT fdspan-targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT fdspan-targets NAMESPACE fdspan:: DESTINATION ${CONFIG_DIR})
install(FILES ${PROJECT_BINARY_DIR}/fdspan-config.cmake ${PROJECT_BINARY_DIR}/fdspan-config-version.cmake DESTINATION ${CONFIG_DIR})
install(FILES ${PROJECT_BINARY_DIR}/fdspan.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${ARCHIVE} DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/fdspan DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS fdspan RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(FILES ${PROJECT_SOURCE_DIR}/tools/completions/fdspan.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME fdspan)
install(FILES ${PROJECT_SOURCE_DIR}/tools/man/fdspan.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES ${PROJECT_SOURCE_DIR}/tools/man/fdspan.7 DESTINATION ${CMAKE_INSTALL_MANDIR}/man7)

# Section 3, from the header's comments.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
set(MAN3 ${PROJECT_BINARY_DIR}/man3)
add_custom_command(
  OUTPUT ${MAN3}/made
  COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/tools/man/api.py ${PROJECT_SOURCE_DIR}/include/fdspan/fdspan.h ${MAN3}
  COMMAND ${CMAKE_COMMAND} -E touch ${MAN3}/made
  DEPENDS ${PROJECT_SOURCE_DIR}/tools/man/api.py ${PROJECT_SOURCE_DIR}/include/fdspan/fdspan.h VERBATIM COMMENT "man pages of section 3")
add_custom_target(fdspan_man3 ALL DEPENDS ${MAN3}/made)
install(DIRECTORY ${MAN3} DESTINATION ${CMAKE_INSTALL_MANDIR} FILES_MATCHING PATTERN "*.3")
