# Everything that qstep uses and does not contain. Nothing is vendored and nothing is downloaded: libraries come from the
# system's packages, torch (with the pybind11 and fmt that it was built with) from the Python environment or from CMAKE_PREFIX_PATH.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json 3.9 REQUIRED)

if(QSTEP_TESTS)
  find_package(GTest REQUIRED)
endif()
if(QSTEP_BENCHMARKS)
  find_package(benchmark REQUIRED)
endif()

if(QSTEP_TORCH)
  if(QSTEP_PYTHON)
    set(Python3_FIND_VIRTUALENV FIRST)
    find_package(Python3 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
  endif()
  find_package(LibTorch 2.11 REQUIRED)

  # at::parallel_for is serial in a file compiled without OpenMP. With gcc the run time is the libgomp that libtorch_cpu loads, the only
  # copy in the process: compile for it, link none.
  add_library(qstep_openmp INTERFACE)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(qstep_openmp INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
  else()
    find_package(OpenMP REQUIRED COMPONENTS CXX)
    target_link_libraries(qstep_openmp INTERFACE OpenMP::OpenMP_CXX)
  endif()
elseif(QSTEP_PYTHON)
  message(FATAL_ERROR "qstep: QSTEP_PYTHON=ON needs QSTEP_TORCH=ON")
endif()

# qstep_with_cuda: what QSTEP_CUDA comes down to on this machine.
set(qstep_with_cuda OFF)
if(QSTEP_TORCH AND QSTEP_CUDA)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER AND TARGET LibTorch::cuda)
    set(qstep_with_cuda ON)
  elseif(NOT QSTEP_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "qstep: QSTEP_CUDA=ON needs nvcc (found: ${CMAKE_CUDA_COMPILER}) and a CUDA build of torch "
                        "(found: ${LibTorch_ROOT_DIR}, CUDA ${LibTorch_CUDA_VERSION})")
  endif()
endif()
if(qstep_with_cuda)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80 90)
  endif()
  set(CMAKE_CUDA_RUNTIME_LIBRARY None)  # libtorch_cuda brings the one that torch was built with
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake before 3.25.2 does not know that nvcc 12 and newer have it
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  find_package(CUDAToolkit REQUIRED)
  if(LibTorch_CUDA_VERSION AND NOT CUDAToolkit_VERSION_MAJOR EQUAL LibTorch_CUDA_VERSION_MAJOR)
    message(FATAL_ERROR "qstep: nvcc is of CUDA ${CUDAToolkit_VERSION}, torch was built with CUDA ${LibTorch_CUDA_VERSION}; "
                        "the major versions must be equal, or pass -DQSTEP_CUDA=OFF")
  endif()
endif()
message(STATUS "qstep ${PROJECT_VERSION}: torch ${QSTEP_TORCH} ${LibTorch_VERSION}, CUDA sources ${qstep_with_cuda}")
