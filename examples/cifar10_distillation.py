"""What a float teacher adds to the loss of the network that is quantized after it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from cifar10_network import BLOCKS, ResNet20
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def real(layer: nn.Module, output: Tensor) -> Tensor:
    """What a layer's output stands for: F8Net's tensors hold it in units of eta."""
    eta = layer.output_quantizer.eta
    return output if eta is None else output * eta


def fold_batch_norm(model: ResNet20) -> None:
    """Makes a network in ``eval()`` faster, in place."""
    for owner, index in [(model, 1), *((model.get_submodule(block), i) for block in BLOCKS for i in (1, 2))]:
        convolution, batch_norm = getattr(owner, f"conv{index}"), getattr(owner, f"bn{index}")
        setattr(owner, f"conv{index}", fuse_conv_bn_eval(convolution, batch_norm))
        setattr(owner, f"bn{index}", nn.Identity())


class Distillation:
    """Draws a prepared ResNet-20 to a float one, in its logits and in what leaves every block.

    The logits count as much as the labels (Hinton et al., 2015; LSQ trains so). A block's term is the mean squared difference from the
    teacher's output, relative to the mean square of the latter (hints: Romero et al., FitNets, 2015). Narrow codes change every layer at
    once, and labels tell a layer little about what it computed before: with hints each block learns by itself.

    Args:
        student: prepared from a :class:`ResNet20` with the teacher's activation.
        teacher: the float network; it is put into ``eval()`` and its batch norm folded.
        features: weight of the blocks' terms; 0 leaves them out.
    """

    def __init__(self, student: nn.Module, teacher: ResNet20, features: float) -> None:
        self.teacher = teacher.eval()
        fold_batch_norm(teacher)
        self.features = features
        self._learned: list[Tensor] = []
        self._taught: list[Tensor] = []
        fused = teacher.activation is F.relu  # the student's additions apply a ReLU themselves
        for block, addition in BLOCKS.items() if features else ():
            student.get_submodule(addition).register_forward_hook(
                lambda layer, x, y: self._learned.append(real(layer, y))
            )
            teacher.get_submodule(block).register_forward_hook(
                lambda _, x, y: self._taught.append(F.relu(y) if fused else y)
            )

    def loss(self, x: Tensor, logits: Tensor) -> Tensor:
        """The terms of the batch ``x``, [N, 3, 32, 32], whose logits the student has just computed: a scalar."""
        with torch.no_grad():
            soft = self.teacher(x).softmax(1)
        loss = F.cross_entropy(logits, soft)
        for learned, taught in zip(self._learned, self._taught, strict=True):
            loss = loss + self.features * F.mse_loss(learned, taught) / taught.square().mean()
        self._learned.clear()
        self._taught.clear()
        return loss
