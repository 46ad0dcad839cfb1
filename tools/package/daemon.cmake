# The daemon's part of an installation, and the Debian package of all of it: cpack -G DEB.
set(DAEMON_DIR ${PROJECT_SOURCE_DIR}/tools/fdspand)
install(TARGETS fdspand RUNTIME DESTINATION ${CMAKE_INSTALL_SBINDIR})
# The unit names the program by its whole path, which only the installation knows.
install(CODE "
  set(SBINDIR \"\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_SBINDIR}\")
  configure_file(\"${DAEMON_DIR}/fdspand.service.in\" \"${PROJECT_BINARY_DIR}/fdspand.service\" @ONLY)")
install(FILES ${PROJECT_BINARY_DIR}/fdspand.service ${DAEMON_DIR}/fdspand.socket DESTINATION lib/systemd/system)
install(FILES ${DAEMON_DIR}/sysusers.conf DESTINATION lib/sysusers.d RENAME fdspan.conf)
install(FILES ${DAEMON_DIR}/tmpfiles.conf DESTINATION lib/tmpfiles.d RENAME fdspan.conf)
install(FILES ${PROJECT_SOURCE_DIR}/tools/man/fdspand.8 DESTINATION ${CMAKE_INSTALL_MANDIR}/man8)
install(FILES ${DAEMON_DIR}/fdspand.json DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/fdspan/examples)
install(FILES ${DAEMON_DIR}/monitoring/fdspan.rules.yml ${DAEMON_DIR}/monitoring/grafana.json DESTINATION ${CMAKE_INSTALL_DATADIR}/fdspan)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/fdspan RENAME copyright)

set(CPACK_PACKAGE_NAME fdspan)
set(CPACK_PACKAGE_VENDOR fdspan)
set(CPACK_PACKAGE_CONTACT "fdspan maintainers <fdspan@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "ages of open files, who holds them, and whether they were deleted")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "systemd")
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA
  ${CMAKE_CURRENT_LIST_DIR}/deb/preinst ${CMAKE_CURRENT_LIST_DIR}/deb/postinst
  ${CMAKE_CURRENT_LIST_DIR}/deb/prerm ${CMAKE_CURRENT_LIST_DIR}/deb/postrm)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
include(CPack)
