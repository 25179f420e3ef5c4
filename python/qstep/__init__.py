"""qstep: quantization-aware training for PyTorch and LibTorch whose integer networks compute what was trained."""

from . import functional, nn, optim
from ._C import Error
from ._version import __version__, cmake_prefix_path
from .calibration import calibrate, freeze_batch_norm, freeze_ranges, reestimate_batch_norm
from .compare import Comparison, LayerComparison, compare
from .config import QConfig, Scheme
from .convert import convert
from .network import IntegerNetwork, available_isas, load
from .operations import UnsupportedError
from .parameter_groups import parameter_groups
from .post_training import quantize_post_training
from .prepare import prepare
from .profile import LayerProfile, Profile
from .summary import Summary, summary

__all__ = [
    "Comparison",
    "Error",
    "IntegerNetwork",
    "LayerComparison",
    "LayerProfile",
    "Profile",
    "QConfig",
    "Scheme",
    "Summary",
    "UnsupportedError",
    "__version__",
    "available_isas",
    "calibrate",
    "cmake_prefix_path",
    "compare",
    "convert",
    "freeze_batch_norm",
    "freeze_ranges",
    "functional",
    "load",
    "nn",
    "optim",
    "parameter_groups",
    "prepare",
    "quantize_post_training",
    "reestimate_batch_norm",
    "summary",
]
