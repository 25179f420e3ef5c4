"""CIFAR-10 in memory: decoded once, augmented batch by batch with tensor operations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, ImageFolder
from tqdm import tqdm

# Of ImageNet, not of CIFAR-10: what the pretrained checkpoint was trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
MARGIN = 4  # pixels by which training pictures move into a border of zeros


@dataclass(frozen=True)
class Images:
    """uint8 pictures [N, 32, 32, 3] and their classes [N]."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int | None) -> Images:
        """A subset of evenly spaced pictures: image folders are sorted by class."""
        if count is None or count >= len(self):
            return self
        chosen = torch.arange(count) * len(self) // count
        return Images(self.pixels[chosen], self.labels[chosen])


def normalize(pixels: Tensor) -> Tensor:
    """uint8 [N, 32, 32, 3] to the network's input, float [N, 3, 32, 32] in channels-last memory."""
    scale = torch.tensor([1 / (255 * s) for s in STD])
    shift = torch.tensor([-m / s for m, s in zip(MEAN, STD, strict=True)])
    return (pixels * scale + shift).permute(0, 3, 1, 2)


def batches(images: Images, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """In order, without augmentation."""
    for pixels, labels in zip(images.pixels.split(size), images.labels.split(size), strict=True):
        yield normalize(pixels), labels


def shuffled_batches(
    images: Images, size: int, seed: int, epoch: int, margin: int = MARGIN
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of full batches, randomly moved by up to ``margin`` pixels and flipped; the same for the same seed and epoch, whatever came
    before."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    order = torch.randperm(len(images), generator=generator)
    for chosen in order.split(size)[: len(images) // size]:
        yield normalize(_augment(images.pixels[chosen], margin, generator)), images.labels[chosen]


def _augment(pixels: Tensor, margin: int, generator: torch.Generator) -> Tensor:
    count, height, width, _ = pixels.shape
    padded = torch.nn.functional.pad(pixels, (0, 0, margin, margin, margin, margin))
    top, left = torch.randint(0, 2 * margin + 1, (2, count, 1), generator=generator)
    flip = torch.rand((count, 1), generator=generator) < 0.5
    columns = torch.arange(width).expand(count, width)
    columns = torch.where(flip, width - 1 - columns, columns) + left
    rows = torch.arange(height) + top
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def load(root: Path, cache: Path) -> tuple[Images, Images]:
    """Training and test pictures.

    Args:
        root: what torchvision's ``CIFAR10`` downloads to, or a folder with ``train/<class>/*`` and ``test/<class>/*``.
        cache: file that keeps the decoded pictures.
    """
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        parts = [_decode(root, train) for train in (True, False)]
        torch.save([(part.pixels, part.labels) for part in parts], cache)
    train, test = torch.load(cache)
    return Images(*train), Images(*test)


def _decode(root: Path, train: bool) -> Images:
    if (root / "cifar-10-batches-py").exists():
        dataset = CIFAR10(str(root), train=train)
        return Images(torch.from_numpy(dataset.data), torch.tensor(dataset.targets))
    folder = root / ("train" if train else "test")
    if not folder.is_dir():
        raise FileNotFoundError(f"{root}: neither cifar-10-batches-py (torchvision's layout) nor {folder.name}/<class>")
    dataset = ImageFolder(str(folder))
    pixels = torch.empty(len(dataset), 32, 32, 3, dtype=torch.uint8)
    for i, (picture, _) in enumerate(tqdm(dataset, desc=f"decode {folder}", mininterval=1)):
        pixels[i] = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(32, 32, 3)
    return Images(pixels, torch.tensor(dataset.targets))
