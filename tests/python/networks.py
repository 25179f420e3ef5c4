"""Float networks for the tests: a CIFAR ResNet-20 and random networks of every supported operation."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PaddedShortcut(nn.Module):
    """Option A: every second pixel, and zeros in place of the channels that are missing."""

    def __init__(self, missing_channels: int) -> None:
        super().__init__()
        self.before = missing_channels // 2
        self.after = missing_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int, option: str = "B") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 and option == "A":
            self.shortcut = PaddedShortcut(channels - in_channels)
        elif stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet20(nn.Module):
    """He et al., Deep Residual Learning for Image Recognition, section 4.2, n = 3, with shortcuts of option A or B."""

    def __init__(self, classes: int = 10, option: str = "B") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks = []
        channels = 16
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            for i in range(3):
                blocks.append(BasicBlock(channels, width, stride if i == 0 else 1, option))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.linear(F.avg_pool2d(x, x.size(3)).flatten(1))


class RandomNetwork(nn.Module):
    """A chain of random operations with side branches. The same seed gives the same network."""

    def __init__(self, seed: int, depth: int = 8) -> None:
        super().__init__()
        rng = random.Random(seed)
        self.steps: list[tuple[str, str]] = []
        self.channels = channels = rng.choice([3, 4, 5])
        size = self.size = rng.choice([9, 12, 13])
        for i in range(depth):
            kind = rng.choice(
                ["conv", "conv", "conv", "depthwise", "grouped", "residual", "concat", "max_pool", "avg_pool", "silu", "hardswish",
                 "gate", "shuffle", "split", "relu6", "multiply", "transpose", "double", "pad", "subsample"]
            )  # fmt: skip
            name = f"step{i}"
            out = rng.choice([4, 6, 8, 12])
            kernel, stride, dilation = rng.choice([1, 2, 3, 5]), rng.choice([1, 1, 2]), rng.choice([1, 1, 2])
            if kind == "conv":
                extent = dilation * (kernel - 1) + 1
                padding = rng.choice([0, kernel // 2, "same" if stride == 1 else 1])
                if isinstance(padding, int) and size + 2 * padding < extent:
                    padding = extent
                module: nn.Module = nn.Conv2d(channels, out, kernel, stride, padding, dilation, bias=rng.random() < 0.5)
                size = size if padding == "same" else (size + 2 * padding - extent) // stride + 1
                layers = [module]
                if rng.random() < 0.7:
                    layers.append(nn.BatchNorm2d(out))
                layers.append(rng.choice([nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.5, 1.5), nn.SiLU(), nn.Identity()]))
                self.add_module(name, nn.Sequential(*layers))
                channels = out
            elif kind == "depthwise":
                self.add_module(
                    name,
                    nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, groups=channels), nn.BatchNorm2d(channels)),
                )
            elif kind == "grouped" and channels % 2 == 0:
                self.add_module(name, nn.Conv2d(channels, out, 3, 1, 1, groups=2))
                channels = out
            elif kind == "residual":
                self.add_module(
                    name, nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))
                )
            elif kind == "concat":
                self.add_module(name, nn.Conv2d(channels, 4, 1))
                channels += 4
            elif kind == "gate":
                self.add_module(name, nn.Conv2d(channels, channels, 1))
            elif kind in ("max_pool", "avg_pool") and size >= 4:
                ceil = rng.random() < 0.3
                pool = nn.MaxPool2d(3, 2, 1, ceil_mode=ceil) if kind == "max_pool" else nn.AvgPool2d(
                    2, 2, rng.choice([0, 1]), ceil_mode=ceil, count_include_pad=rng.random() < 0.5,
                    divisor_override=rng.choice([None, None, 3])
                )  # fmt: skip
                self.add_module(name, pool)
                with torch.no_grad():
                    size = pool(torch.zeros(1, 1, size, size)).shape[2]
            elif kind == "pad":
                size, channels = size + 3, channels + 2
            elif kind == "subsample" and size >= 4 and channels > 2:
                size, channels = (size + 1) // 2, channels - 1
            elif (kind in ("shuffle", "split") and channels % 2 != 0) or kind in (
                "grouped",
                "max_pool",
                "avg_pool",
                "subsample",
            ):
                continue
            self.steps.append((kind, name))
        self.pool = nn.AdaptiveAvgPool2d(rng.choice([1, 2, 3]) if size >= 3 else 1)
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(channels * (self.pool.output_size**2), 7)

    def example(self, batch: int, seed: int) -> Tensor:
        return torch.randn(batch, self.channels, self.size, self.size, generator=torch.Generator().manual_seed(seed))

    def forward(self, x: Tensor) -> Tensor:
        for kind, name in self.steps:
            module = getattr(self, name, None)
            if kind == "residual":
                x = F.relu(x + module(x))
            elif kind == "concat":
                x = torch.cat([x, module(x)], 1)
            elif kind == "gate":
                x = x * torch.sigmoid(module(F.adaptive_avg_pool2d(x, 1)))
            elif kind == "silu":
                x = F.silu(x)
            elif kind == "hardswish":
                x = F.hardswish(x)
            elif kind == "relu6":
                x = F.relu6(x)
            elif kind == "multiply":
                x = x * torch.sigmoid(x)
            elif kind == "double":
                x = torch.cat([x + x, x], 1)[:, : x.shape[1]]
            elif kind == "transpose":
                x = x.transpose(2, 3).contiguous()
            elif kind == "pad":
                x = F.pad(x, (1, 2, 2, 1, 0, 2))
            elif kind == "subsample":
                x = x[:, 1:, ::2, ::2]
            elif kind == "shuffle":
                b, c, h, w = x.shape
                x = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)
            elif kind == "split":
                a, b = x.chunk(2, dim=1)
                x = torch.cat([b, a + b], 1)
            elif module is not None:
                x = module(x)
        return self.linear(self.dropout(torch.flatten(self.pool(x), 1)))


def settle(model: nn.Module, x: Tensor) -> nn.Module:
    """Moving statistics of batch norm and random affine parameters that look like those of a trained network."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.copy_(1 + 0.4 * torch.randn(module.weight.shape, generator=generator))
                module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=generator))
                module.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(x)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return model
