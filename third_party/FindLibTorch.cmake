# Finds LibTorch by its files.
#
# TorchConfig.cmake is not used: it stops without nvcc where torch is a CUDA build, and fails its own detection of the GPU
# with nvcc 13 under CMake 3.25. qstep needs include folders and three libraries, no more.
#
# Looks in LibTorch_ROOT, Torch_DIR, CMAKE_PREFIX_PATH (the package's root or torch.utils.cmake_prefix_path), then in LibTorch_HINT
# (where an installed qstep has it), then asks Python3_EXECUTABLE or the python in PATH where its torch is.
#
# Targets:    LibTorch::cpu     libtorch_cpu and libc10: tensors, autograd, torch::nn, torch::optim
#             LibTorch::cuda    the same with libtorch_cuda and libc10_cuda (absent where torch has none)
#             LibTorch::python  libtorch_python (absent in a distribution for C++ only)
# Variables:  LibTorch_FOUND, LibTorch_VERSION, LibTorch_ROOT_DIR, LibTorch_CUDA_VERSION, LibTorch_CUDA_VERSION_MAJOR
include(FindPackageHandleStandardArgs)

set(_roots ${LibTorch_ROOT} $ENV{LibTorch_ROOT})
foreach(_path ${Torch_DIR} $ENV{Torch_DIR})  # <root>/share/cmake/Torch
  list(APPEND _roots ${_path}/../../..)
endforeach()
string(REPLACE ":" ";" _environment_prefixes "$ENV{CMAKE_PREFIX_PATH}")
foreach(_path ${CMAKE_PREFIX_PATH} ${_environment_prefixes})  # <root> or <root>/share/cmake
  list(APPEND _roots ${_path} ${_path}/../..)
endforeach()
list(APPEND _roots ${LibTorch_HINT})
foreach(_python "${Python3_EXECUTABLE}" python3 python)
  if(_python)
    execute_process(
      COMMAND "${_python}" -c "from importlib.util import find_spec; print(*find_spec('torch').submodule_search_locations)"
      OUTPUT_VARIABLE _path OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    list(APPEND _roots ${_path})
  endif()
endforeach()

unset(LibTorch_INCLUDE_DIR CACHE)  # asked afresh each time: the environment may have changed
find_path(LibTorch_INCLUDE_DIR torch/csrc/autograd/custom_function.h PATHS ${_roots} PATH_SUFFIXES include NO_DEFAULT_PATH)

unset(LibTorch_VERSION)
unset(LibTorch_CUDA_VERSION)
if(LibTorch_INCLUDE_DIR)
  get_filename_component(LibTorch_ROOT_DIR ${LibTorch_INCLUDE_DIR} DIRECTORY)
  foreach(_header torch/headeronly/version.h torch/csrc/api/include/torch/version.h)
    if(NOT LibTorch_VERSION AND EXISTS ${LibTorch_INCLUDE_DIR}/${_header})
      file(STRINGS ${LibTorch_INCLUDE_DIR}/${_header} _line REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) +[0-9]+")
      string(REGEX REPLACE "[^0-9;]" "" _line "${_line}")
      list(JOIN _line "." LibTorch_VERSION)
    endif()
  endforeach()
  if(EXISTS ${LibTorch_ROOT_DIR}/version.py)
    file(STRINGS ${LibTorch_ROOT_DIR}/version.py _line REGEX "^cuda.*[0-9]+\\.[0-9]+")
    string(REGEX MATCH "([0-9]+)\\.[0-9]+" LibTorch_CUDA_VERSION "${_line}")
    set(LibTorch_CUDA_VERSION_MAJOR ${CMAKE_MATCH_1})
  endif()
endif()

foreach(_library c10 torch_cpu c10_cuda torch_cuda torch_python)
  set(_variable LibTorch_${_library}_LIBRARY)
  unset(${_variable} CACHE)
  find_library(${_variable} ${_library} PATHS ${LibTorch_ROOT_DIR}/lib NO_DEFAULT_PATH)
  mark_as_advanced(${_variable})
endforeach()
mark_as_advanced(LibTorch_INCLUDE_DIR)

find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_INCLUDE_DIR LibTorch_torch_cpu_LIBRARY LibTorch_c10_LIBRARY
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "activate a Python environment that has torch, or pass -DCMAKE_PREFIX_PATH=<folder of torch>")

if(LibTorch_FOUND AND NOT TARGET LibTorch::cpu)
  foreach(_library c10 torch_cpu c10_cuda torch_cuda torch_python)
    if(LibTorch_${_library}_LIBRARY)
      add_library(LibTorch::${_library} SHARED IMPORTED)
      set_target_properties(LibTorch::${_library} PROPERTIES
        IMPORTED_LOCATION ${LibTorch_${_library}_LIBRARY}
        INTERFACE_INCLUDE_DIRECTORIES "${LibTorch_INCLUDE_DIR};${LibTorch_INCLUDE_DIR}/torch/csrc/api/include")
    endif()
  endforeach()

  # --allow-shlib-undefined: torch's libraries find their own dependencies (CUDA, NCCL, ...) at run time, by the run path they
  # carry. The linker has no need to see them, and would take an older NCCL of the system for theirs.
  # --no-as-needed: backends register themselves when they are loaded, though no symbol of theirs is named.
  add_library(LibTorch::cpu INTERFACE IMPORTED)
  target_link_libraries(LibTorch::cpu INTERFACE LibTorch::torch_cpu LibTorch::c10)
  target_link_options(LibTorch::cpu INTERFACE -Wl,--allow-shlib-undefined,--no-as-needed)
  target_compile_features(LibTorch::cpu INTERFACE cxx_std_20)

  if(TARGET LibTorch::torch_cuda AND TARGET LibTorch::c10_cuda)
    add_library(LibTorch::cuda INTERFACE IMPORTED)
    target_link_libraries(LibTorch::cuda INTERFACE LibTorch::torch_cuda LibTorch::c10_cuda LibTorch::cpu)
  endif()
  if(TARGET LibTorch::torch_python)
    add_library(LibTorch::python INTERFACE IMPORTED)
    target_link_libraries(LibTorch::python INTERFACE LibTorch::torch_python LibTorch::cpu)
  endif()
endif()
