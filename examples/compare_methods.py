"""All methods on one small network and real data: the accuracy after training, and that of the integer network, which is the same.

5,000 MNIST digits, 1,000 of them for the test, as in quickstart.py; a residual network with ReLU. Every method starts from the same float
network, with the same number of epochs (PWLQ: none). Prints a table and writes it as Markdown.

    python examples/compare_methods.py            # a few minutes on two cores
    python examples/compare_methods.py --epochs 1 # a quick look
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from quickstart import Net, accuracy, load_digits, train
from rich.console import Console
from rich.table import Table
from torch import fx, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

import qstep

COLUMNS = ("method", "weights", "activations", "trained %", "integer %", "differing codes", "bytes", "of float")


def quantization_aware(
    model: nn.Module, config: qstep.QConfig, data: TensorDataset, epochs: int, name: str
) -> fx.GraphModule:
    """Prepare, calibrate, train."""
    prepared = qstep.prepare(model, config, example_inputs=(data.tensors[0][:2],))
    qstep.calibrate(prepared, DataLoader(data, batch_size=64), batches=8, progress=False)
    train(prepared, data, epochs, 0.01, name)
    return prepared


def incremental(model: nn.Module, config: qstep.QConfig, data: TensorDataset, epochs: int, name: str) -> fx.GraphModule:
    """INQ: before each part of the training a further share of the weights becomes powers of two, after the last the rest."""
    prepared = qstep.prepare(model, config, example_inputs=(data.tensors[0][:2],))
    qstep.calibrate(prepared, DataLoader(data, batch_size=64), batches=8, progress=False)
    groups = qstep.parameter_groups(prepared, weight_decay=1e-4)
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    schedule = qstep.optim.InqSchedule(prepared, optimizer, "resnet18_5bit")
    loader = DataLoader(data, batch_size=64, shuffle=True, generator=torch.Generator().manual_seed(1))
    prepared.train()
    total = epochs * len(loader)
    begins = {part * total // (len(schedule.fractions) - 1) for part in range(len(schedule.fractions) - 1)}
    batches = (batch for _ in range(epochs) for batch in loader)
    for step, (x, y) in enumerate(tqdm(batches, desc=name, total=total, unit="batch")):
        if step in begins:
            schedule.step()
        optimizer.zero_grad()
        F.cross_entropy(prepared(x), y).backward()
        optimizer.step()
    schedule.step()
    return prepared


def post_training(
    model: nn.Module, config: qstep.QConfig, data: TensorDataset, epochs: int, name: str
) -> fx.GraphModule:
    """Calibration, and no training."""
    return qstep.quantize_post_training(model, config, DataLoader(data, batch_size=64), batches=8, progress=False)


@dataclass(frozen=True)
class Method:
    config: qstep.QConfig
    apply: Callable[[nn.Module, qstep.QConfig, TensorDataset, int, str], fx.GraphModule] = quantization_aware


METHODS = {
    "IAO": Method(qstep.QConfig.iao(8, 8)),
    "LSQ": Method(qstep.QConfig.lsq(4, 4)),
    "LSQ+": Method(qstep.QConfig.lsq_plus(4, 4)),
    "PACT": Method(qstep.QConfig.pact(4, 4)),
    "F8Net": Method(qstep.QConfig.f8net()),
    "INQ": Method(qstep.QConfig.inq(5, 8), incremental),
    "PWLQ, not trained": Method(qstep.QConfig.pwlq(4, 8), post_training),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4, help="of each method; float trains twice as long (default 4)")
    parser.add_argument("--out", type=Path, default=Path("compare-methods.md"), help="Markdown file for the table")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    train_data, test_data = load_digits()
    float_net = Net(F.relu)
    train(float_net, train_data, 2 * arguments.epochs, 0.05, "float")
    float_bytes = sum(p.numel() * 4 for p in float_net.parameters())
    rows = [("float", "32", "32", f"{accuracy(float_net, test_data):.1f}", "", "", f"{float_bytes:,}", "")]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for name, method in METHODS.items():
        model = method.apply(float_net, method.config, train_data, arguments.epochs, name)
        path = arguments.out.with_name(name.lower().replace("+", "_plus").split(",")[0] + ".safetensors")
        qstep.convert(model).save(path)
        net = qstep.load(path)
        codes = qstep.compare(model, net, test_data.tensors[0][:256])
        widths = (str(scheme.bit_width) for scheme in (method.config.weight, method.config.activation))
        size = path.stat().st_size
        rows.append(
            (
                name,
                *widths,
                f"{accuracy(model, test_data):.1f}",
                f"{accuracy(net, test_data):.1f}",
                f"{codes.differing_codes} of {codes.total_codes:,}",
                f"{size:,}",
                f"{100 * size / float_bytes:.0f} %",
            )
        )
    table = Table(title="5,000 MNIST digits, 1,000 of them for the test")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
    lines = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1)), *rows]
    arguments.out.write_text("".join("| " + " | ".join(line) + " |\n" for line in lines))
    print(f"written: {arguments.out}, and one integer network per method beside it")


if __name__ == "__main__":
    main()
