"""Loads the compiled parts: the torch operators (``torch.ops.qstep``) and the integer engine (``qstep._C``)."""

from pathlib import Path

import torch

library_dir = Path(__file__).parent / "lib"
torch.ops.load_library(str(library_dir / "libqstep_torch.so"))
