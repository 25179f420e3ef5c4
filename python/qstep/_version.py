"""Version of the package, and where its CMake package lies."""

from pathlib import Path

from ._C import __version__ as __version__

#: For ``-DCMAKE_PREFIX_PATH=``: find_package(qstep COMPONENTS engine torch) then finds this installation.
cmake_prefix_path = str(Path(__file__).parent)
