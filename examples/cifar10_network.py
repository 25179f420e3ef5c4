"""ResNet-20 for 32 x 32 pictures, with the parameter-free shortcuts that its paper uses on CIFAR-10 ("option A")."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "swish": F.silu}
# Every block and the addition at its end, by the name that qstep.prepare gives the latter.
BLOCKS = {f"layer{i // 3 + 1}.{i % 3}": f"add_{i}" if i else "add" for i in range(9)}


class Block(nn.Module):
    """Two 3x3 convolutions and the shortcut around them, from one sum before its activation to the next.

    With ``apart``, the activation is applied twice, for the shortcut and for the convolution: the same function, but two tensors, which may
    have different widths. The papers on low bit widths narrow only what a convolution reads.
    """

    def __init__(
        self, inputs: int, channels: int, stride: int, activation: Callable[[Tensor], Tensor], apart: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.new_channels = channels - inputs
        self.activation = activation
        self.apart = apart

    def shortcut(self, x: Tensor) -> Tensor:
        """Every other row and column, and channels of zeros on both sides."""
        if self.stride == 1:
            return x
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.new_channels // 2, self.new_channels // 2))

    def forward(self, x: Tensor) -> Tensor:
        stream = self.activation(x)
        y = stream
        if self.apart:  # ReLU is idempotent, so that the first one still fuses with the addition
            y = self.activation(stream if self.activation is F.relu else x)
        y = self.activation(self.bn1(self.conv1(y)))
        return self.shortcut(stream) + self.bn2(self.conv2(y))


class ResNet20(nn.Module):
    """[N, 3, 32, 32] to [N, 10] logits.

    Args:
        activation: name in :data:`ACTIVATIONS`.
        apart: see :class:`Block`.
    """

    def __init__(self, activation: str = "relu", apart: bool = False) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = (16, 16, 32, 64)
        for stage in (1, 2, 3):
            blocks = [
                Block(widths[stage - (i == 0)], widths[stage], 2 if i == 0 and stage > 1 else 1, self.activation, apart)
                for i in range(3)
            ]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x))
        x = self.activation(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """A ``state_dict``, alone or under that key, with or without the prefix of ``DataParallel``."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
