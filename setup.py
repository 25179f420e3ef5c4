"""Builds the C++ parts with CMake and installs them into the package: qstep/_C*.so, qstep/lib, qstep/include.

build/cmake is kept, so that a second build compiles only what changed. QSTEP_CMAKE_ARGS passes options to CMake
(QSTEP_CMAKE_ARGS="-DQSTEP_CUDA=OFF"), CMAKE_BUILD_PARALLEL_LEVEL limits the number of compilers at work.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

root = Path(__file__).parent.resolve()
version = re.search(r'QSTEP_VERSION "(.+)"', (root / "csrc/qstep/core/version.h").read_text())[1]


class CleanBuild(build):
    """Starts from an empty package folder: modules deleted since the last build would otherwise live on."""

    def run(self):
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class CMakeBuild(build_ext):
    """Lets CMake build and install; setuptools only says where to."""

    def run(self):
        build_dir = root / "build" / "cmake"
        package = Path(self.get_ext_fullpath("qstep._C")).resolve().parent
        options = [f"-DPython3_EXECUTABLE={sys.executable}", *shlex.split(os.environ.get("QSTEP_CMAKE_ARGS", ""))]
        if not (build_dir / "CMakeCache.txt").exists():
            options = ["-DQSTEP_TESTS=OFF", *(["-GNinja"] if shutil.which("ninja") else []), *options]
        environment = {"CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count()), **os.environ}
        for arguments in (
            ["-S", root, "-B", build_dir, *options],
            ["--build", build_dir],
            ["--install", build_dir, "--prefix", package],
            ["--install", build_dir, "--prefix", package, "--component", "python"],
        ):
            subprocess.run(["cmake", *arguments], check=True, env=environment)


setup(
    version=version,
    ext_modules=[Extension("qstep._C", sources=[])],
    cmdclass={"build": CleanBuild, "build_ext": CMakeBuild},
)
