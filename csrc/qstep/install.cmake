# Installs headers, libraries and the CMake package, under any prefix: for pip it is the Python package itself (setup.py).
include(CMakePackageConfigHelpers)
set(CMAKE_INSTALL_MESSAGE LAZY)
set(package_dir lib/cmake/qstep)
set(headers_of core kernels ir engine)

install(TARGETS qstep_core qstep_engine EXPORT qstepEngineTargets LIBRARY DESTINATION lib)
set_target_properties(qstep_core PROPERTIES EXPORT_NAME core)
set_target_properties(qstep_engine PROPERTIES EXPORT_NAME engine INSTALL_RPATH "$ORIGIN")
install(EXPORT qstepEngineTargets NAMESPACE qstep:: DESTINATION ${package_dir})

if(QSTEP_TORCH)
  list(APPEND headers_of methods nn optim graph)
  install(FILES ${PROJECT_SOURCE_DIR}/csrc/qstep/qstep.h DESTINATION include/qstep)
  install(TARGETS qstep_torch EXPORT qstepTorchTargets LIBRARY DESTINATION lib)
  # Beside torch in one Python environment; elsewhere the consumer's own run path leads to torch.
  set_target_properties(qstep_torch PROPERTIES EXPORT_NAME torch INSTALL_RPATH "$ORIGIN;$ORIGIN/../../torch/lib")
  install(EXPORT qstepTorchTargets NAMESPACE qstep:: DESTINATION ${package_dir})
  install(FILES ${PROJECT_SOURCE_DIR}/third_party/FindLibTorch.cmake DESTINATION ${package_dir})
endif()

if(TARGET qstep_python)
  set_target_properties(qstep_python PROPERTIES INSTALL_RPATH "$ORIGIN/lib;$ORIGIN/../torch/lib")
  install(TARGETS qstep_python LIBRARY DESTINATION . COMPONENT python EXCLUDE_FROM_ALL)
endif()

install(FILES ${PROJECT_SOURCE_DIR}/csrc/qstep/engine.h DESTINATION include/qstep)
foreach(layer ${headers_of})
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/csrc/qstep/${layer} DESTINATION include/qstep FILES_MATCHING PATTERN "*.h")
endforeach()

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/qstepConfig.cmake.in ${PROJECT_BINARY_DIR}/qstepConfig.cmake
  INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/qstepConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/qstepConfig.cmake ${PROJECT_BINARY_DIR}/qstepConfigVersion.cmake DESTINATION ${package_dir})
