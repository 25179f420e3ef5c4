"""Quantized layers. Each takes and returns ordinary float tensors whose values lie on a grid.

A layer has three forward passes:

* training, and ``eval()`` with gradients: the simulated one, on codes held in floats (``torch.ops.qstep``);
* ``eval()`` without gradients: the integer kernels themselves, through the same lowering as :func:`qstep.convert`;
* while :func:`qstep.calibrate` runs: the float layer.

``lower`` appends the layer to a graph builder; it is the only description of what the layer is as integers.
"""

from .activation import RELU, Activation, clamp
from .affine import AffineLayer, Conv2d, Linear
from .elementwise import Add, Concat, Elementwise, Multiply
from .layer import Layer, Quantize
from .movement import Pad, RandomDrop
from .pooling import AdaptiveAvgPool2d, AvgPool2d, ShiftAvgPool2d

__all__ = [
    "RELU",
    "Activation",
    "AdaptiveAvgPool2d",
    "Add",
    "AffineLayer",
    "AvgPool2d",
    "Concat",
    "Conv2d",
    "Elementwise",
    "Layer",
    "Linear",
    "Multiply",
    "Pad",
    "Quantize",
    "RandomDrop",
    "ShiftAvgPool2d",
    "clamp",
]
