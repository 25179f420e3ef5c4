"""The layers that are measured, in classes, and what we want of each class."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """A convolution of a square image, or (size 0) a product of ``rows`` vectors with a matrix."""

    kind: str  #: "conv", "depthwise" or "gemm": which part of the benchmark it belongs to
    in_channels: int
    out_channels: int
    kernel: int = 1
    size: int = 0  #: height and width of the input
    stride: int = 1
    groups: int = 1
    rows: int = 1  #: vectors of a product, or images

    @property
    def is_conv(self) -> bool:
        return self.size > 0

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def output_size(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.rows, self.in_channels, self.size, self.size) if self.is_conv else (self.rows, self.in_channels)

    @property
    def stored_input_shape(self) -> tuple[int, ...]:
        return (self.rows, self.size, self.size, self.in_channels) if self.is_conv else (self.rows, self.in_channels)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        if not self.is_conv:
            return (self.out_channels, self.in_channels)
        return (self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel)

    @property
    def products(self) -> int:
        outputs = self.rows * self.out_channels * (self.output_size**2 if self.is_conv else 1)
        return outputs * self.in_channels // self.groups * self.kernel**2

    @property
    def name(self) -> str:
        if not self.is_conv:
            return f"{self.rows}x{self.in_channels}x{self.out_channels}"
        channels = f"{self.in_channels}-{self.out_channels}" if self.groups == 1 else f"{self.in_channels} depthwise"
        stride = f"/{self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel}{stride} {channels} @{self.size}"

    @property
    def group(self) -> str:
        """The class whose geometric mean it enters."""
        if not self.is_conv:
            return "vector-matrix" if self.rows == 1 else "matrix-matrix"
        if self.groups > 1:
            return "depthwise"
        if self.in_channels == 3:
            return "stem"
        return "3x3 stride 1" if (self.kernel, self.stride) == (3, 1) else "direct"


def _conv(kernel: int, stride: int, *shapes: tuple[int, int, int]) -> list[Layer]:
    return [Layer("conv", i, o, kernel, size, stride) for i, o, size in shapes]


def _depthwise(stride: int, *shapes: tuple[int, int]) -> list[Layer]:
    return [Layer("depthwise", c, c, 3, size, stride, groups=c) for c, size in shapes]


RESNETS = [
    *_conv(7, 2, (3, 64, 224)),
    *_conv(3, 1, (64, 64, 56), (128, 128, 28), (256, 256, 14), (512, 512, 7)),
    *_conv(3, 2, (64, 128, 56), (128, 256, 28), (256, 512, 14), (128, 128, 56), (256, 256, 28), (512, 512, 14)),
    *_conv(1, 2, (64, 128, 56), (128, 256, 28), (256, 512, 14), (256, 512, 56), (512, 1024, 28), (1024, 2048, 14)),
    *_conv(1, 1, (64, 64, 56), (64, 256, 56), (256, 64, 56), (256, 128, 56), (128, 512, 28), (512, 128, 28)),
    *_conv(1, 1, (512, 256, 28), (256, 1024, 14), (1024, 256, 14), (1024, 512, 14), (512, 2048, 7), (2048, 512, 7)),
]
MOBILENET_V2 = [
    *_conv(3, 2, (3, 32, 224)),
    *_conv(1, 1, (32, 16, 112), (16, 96, 112), (96, 24, 56), (24, 144, 56), (144, 24, 56), (144, 32, 28)),
    *_conv(1, 1, (32, 192, 28), (192, 32, 28), (192, 64, 14), (64, 384, 14), (384, 64, 14), (384, 96, 14)),
    *_conv(
        1, 1, (96, 576, 14), (576, 96, 14), (576, 160, 7), (160, 960, 7), (960, 160, 7), (960, 320, 7), (320, 1280, 7)
    ),
]
DEPTHWISE = [
    *_depthwise(1, (32, 112), (144, 56), (192, 28), (384, 14), (576, 14), (960, 7)),
    *_depthwise(2, (96, 112), (144, 56), (192, 28), (576, 14)),
]
PRODUCTS = [
    Layer("gemm", 2048, 1000),
    Layer("gemm", 4096, 4096),
    Layer("gemm", 1280, 1000),
    Layer("gemm", 768, 3072, rows=128),
    Layer("gemm", 3072, 768, rows=128),
]
LAYERS = [*RESNETS, *MOBILENET_V2, *DEPTHWISE, *PRODUCTS]
SMOKE_LAYERS = [
    *_conv(3, 1, (16, 16, 9)),
    *_conv(7, 2, (3, 16, 20)),
    *_depthwise(1, (16, 9)),
    Layer("gemm", 64, 48),
]

BIT_WIDTHS = [(8, 8), (8, 7), (8, 4), (4, 4), (2, 2)]  #: of activations and weights
