"""Quantization-aware training of ResNet-20 on CIFAR-10 from a float checkpoint, with any method of qstep.

Each run has a folder of its own under --out: its state after every epoch (the same command continues from there, bit for bit), the integer
network, and result.json with the accuracy of the trained and of the integer network. cifar10_table.py makes a table of all runs.

    python examples/cifar10.py --data cifar --checkpoint resnet20.th --method float --out runs
    python examples/cifar10.py --data cifar --checkpoint resnet20.th --method lsq_plus --weight-bits 4 --act-bits 4 --out runs
    python examples/cifar10_table.py runs
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cifar10_data import MARGIN, Images, batches, load, shuffled_batches
from cifar10_distillation import Distillation
from cifar10_network import ACTIVATIONS, BLOCKS, ResNet20, load_checkpoint
from torch import Tensor, fx, nn
from tqdm import tqdm

import qstep

BATCH = 128
WEIGHT_DECAY = {2: 0.25e-4, 3: 0.5e-4}  # LSQ: fewer bits need less of it
CALIBRATION_BATCHES = 16
FLOAT_BITS = 32  # --act-bits of INQ as its paper has it
CODES_COMPARED = 256  # test pictures whose codes are compared in every layer; logits are compared on all


@dataclass(frozen=True)
class Method:
    """How a method is configured and trained.

    ``config`` makes the QConfig from widths and options; ``None`` trains in float. Every method has the same budget: SGD with Nesterov
    momentum, cosine from ``learning_rate`` to 0, no weight decay on anything but weights (and PACT's clipping levels).
    """

    config: Callable[..., qstep.QConfig] | None
    options: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float = 0.01
    incremental: bool = False  # INQ: weights are frozen step by step
    epochs: int = 4  # 0: post-training quantization


METHODS: dict[str, Method] = {
    "float": Method(None),
    "iao": Method(qstep.QConfig.iao, {"per_channel": True}),
    "lsq": Method(qstep.QConfig.lsq, {"per_channel": True}),
    "lsq_plus": Method(qstep.QConfig.lsq_plus, {"per_channel": True}),
    "pact": Method(qstep.QConfig.pact),
    "f8net": Method(qstep.QConfig.f8net),
    "inq": Method(qstep.QConfig.inq, incremental=True),
    "pwlq": Method(qstep.QConfig.pwlq, epochs=0),
}


def stream_widths(activation: str, bits: int) -> dict[str, dict[str, int]]:
    """Overrides that keep what an addition or the pooling reads and writes at ``bits``, and so narrow only what a convolution reads."""
    names = ["conv1", *(f"{b}.conv2" for b in BLOCKS), *BLOCKS.values()]
    if activation == "swish":
        # A layer of its own, three in a block: on the stream, for the first convolution, for the second one.
        names += ["silu", *(f"silu_{3 * i}" for i in range(1, len(BLOCKS) + 1))]
    return {name: {"act_bits": bits} for name in names}


def float_network(activation: str, checkpoint: Path, apart: bool = False) -> ResNet20:
    model = ResNet20(activation, apart=apart)
    load_checkpoint(model, checkpoint)
    model.to(memory_format=torch.channels_last)
    return model


def build(arguments: argparse.Namespace, train: Images) -> nn.Module:
    """The network to train: float, or prepared and calibrated."""
    method = METHODS[arguments.method]
    narrow = method.config is not None and arguments.act_bits < 8
    model = float_network(arguments.activation, arguments.checkpoint, apart=narrow)
    if method.config is None:
        return model
    options = {**method.options, **arguments.option}
    if narrow:
        options.setdefault("overrides", stream_widths(arguments.activation, 8))
    if arguments.edges:
        edge = qstep.Scheme("iao", 8, {"per_channel": True})
        options["overrides"] = {**options.get("overrides", {}), "conv1": {"weight": edge}, "linear": {"weight": edge}}
    act_bits = None if arguments.act_bits == FLOAT_BITS else arguments.act_bits
    config = method.config(arguments.weight_bits, act_bits, **options)
    loader = shuffled_batches(train, BATCH, arguments.seed, 0, arguments.margin)
    if arguments.epochs == 0:
        return qstep.quantize_post_training(model, config, loader, batches=CALIBRATION_BATCHES, progress=False)
    model = qstep.prepare(model, config, example_inputs=(torch.zeros(2, 3, 32, 32),))
    qstep.calibrate(model, loader, batches=CALIBRATION_BATCHES, progress=False)
    return model


@dataclass
class Training:
    """Model, optimizer and position; all that a run needs to go on is in its state.

    An INQ schedule of n steps divides training into n phases of equal length, each with a cosine from ``rate`` to 0. The first phase is
    free: the pictures differ from those of the checkpoint, and frozen weights cannot adapt any more. Each later phase begins with a step
    of the schedule, and the last step, which freezes the rest, comes at the end.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    settings: Mapping[str, Any]
    rate: float
    schedule: qstep.optim.InqSchedule | None = None
    distillation: Distillation | None = None
    epoch: int = 0

    def resume(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        if state["settings"] != dict(self.settings):
            raise ValueError(f"{path} belongs to a run with other settings: {state['settings']}, not {self.settings}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.epoch = state["epoch"]

    def save(self, path: Path) -> None:
        state = {
            "settings": self.settings,
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)  # an interrupted save leaves the last good state

    @property
    def phases(self) -> int:
        return 1 if self.schedule is None else len(self.schedule.fractions)

    def learning_rate(self, step: int, total: int) -> float:
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step * self.phases % total) / total))

    def step(self, x: Tensor, y: Tensor, learning_rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        outputs = self.model(x)
        loss = F.cross_entropy(outputs, y)
        if self.distillation is not None:
            loss = loss + self.distillation.loss(x, outputs)
        loss.backward()
        self.optimizer.step()
        return loss.item()


def train(run: Training, images: Images, epochs: int, seed: int, margin: int, state: Path) -> None:
    per_epoch = len(images) // BATCH
    total = epochs * per_epoch
    begins = {math.ceil(phase * total / run.phases) for phase in range(1, run.phases)}
    while run.epoch < epochs:
        run.model.train()
        losses: list[float] = []
        loader = shuffled_batches(images, BATCH, seed, run.epoch, margin)
        bar = tqdm(loader, desc=f"epoch {run.epoch + 1}", total=per_epoch, unit="batch", mininterval=5)
        for step, (x, y) in enumerate(bar, start=run.epoch * per_epoch):
            if step in begins and run.schedule is not None:
                run.schedule.step()
            losses.append(run.step(x, y, run.learning_rate(step, total)))
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", refresh=False)
        run.epoch += 1
        run.save(state)
        print(f"epoch {run.epoch}: training loss {np.mean(losses):.4f}", flush=True)
    if run.schedule is not None:
        run.schedule.step()


@torch.no_grad()
def logits(model: nn.Module | qstep.IntegerNetwork, images: Images) -> Tensor:
    if isinstance(model, nn.Module):
        model.eval()
    loader = tqdm(batches(images, 250), desc="test", total=math.ceil(len(images) / 250), mininterval=5)
    return torch.cat([model(x) for x, _ in loader])


def percent_correct(outputs: Tensor, images: Images) -> float:
    return 100 * (outputs.argmax(1) == images.labels).double().mean().item()


def evaluate(model: nn.Module, test: Images, folder: Path) -> dict[str, Any]:
    """Accuracy of the trained network and of the integer network made from it, which must agree in every bit."""
    outputs = logits(model, test)
    np.savez_compressed(folder / "correct.npz", correct=(outputs.argmax(1) == test.labels).numpy())
    result: dict[str, Any] = {"accuracy": percent_correct(outputs, test), "images": len(test)}
    print(f"trained: {result['accuracy']:.2f} %", flush=True)
    if not isinstance(model, fx.GraphModule):
        return result
    path = folder / "network.safetensors"
    qstep.convert(model).save(path)
    net = qstep.load(path)
    integer_outputs = logits(net, test)
    x, _ = next(batches(test.first(CODES_COMPARED), CODES_COMPARED))
    comparison = qstep.compare(model, net, x)
    return {
        **result,
        "integer_accuracy": percent_correct(integer_outputs, test),
        "differing_logits": int((outputs != integer_outputs).sum()),
        "differing_codes": comparison.differing_codes,
        "compared_codes": comparison.total_codes,
        "bytes": path.stat().st_size,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="torchvision's folder, or train/<class>, test/<class>")
    parser.add_argument("--checkpoint", type=Path, required=True, help="float ResNet-20 to start from")
    parser.add_argument("--out", type=Path, default=Path("cifar10-runs"), help="folder of all runs")
    parser.add_argument("--method", choices=list(METHODS), required=True)
    parser.add_argument("--weight-bits", type=int, default=4)
    parser.add_argument("--act-bits", type=int, default=4)
    parser.add_argument("--epochs", type=int, help="0: post-training quantization; default: the method's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, help="first learning rate; default: the method's")
    parser.add_argument("--weight-decay", type=float, help="default: by width of the weights, as LSQ does")
    parser.add_argument("--option", type=_option, action="append", default=[], metavar="NAME=VALUE",
                        help="argument of the method's QConfig, as JSON: per_channel=false, act_config=1")  # fmt: skip
    parser.add_argument("--strategy", choices=("magnitude", "random"), default="magnitude", help="of INQ's partition")
    parser.add_argument(
        "--teacher", type=Path, help="float checkpoint whose logits and blocks' outputs are learned besides the labels"
    )
    parser.add_argument("--features", type=float, default=1.0, help="weight of the teacher's blocks; 0: logits only")
    parser.add_argument(
        "--margin", type=int, default=MARGIN, help="pixels by which training pictures move; 0: only flipped"
    )
    parser.add_argument("--edges", action="store_true", help="weights of the first and last layer by IAO in 8 bits")
    parser.add_argument("--activation", choices=list(ACTIVATIONS), default="relu")
    parser.add_argument(
        "--batch-norm-batches", type=int, default=50, help="to re-estimate statistics at the end; 0: not"
    )
    parser.add_argument("--limit-train", type=int, help="use so many pictures only")
    parser.add_argument("--limit-test", type=int)
    parser.add_argument("--name", help="of the run's folder; default: from method, widths and seed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    arguments.option = dict(arguments.option)
    if arguments.epochs is None:
        arguments.epochs = METHODS[arguments.method].epochs
    if arguments.name is None:
        widths = "" if arguments.method == "float" else f"-w{arguments.weight_bits}a{arguments.act_bits}"
        arguments.name = f"{arguments.method}{widths}-e{arguments.epochs}-s{arguments.seed}"
    return arguments


def _option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    folder = arguments.out / arguments.name
    folder.mkdir(parents=True, exist_ok=True)
    train_images, test_images = load(arguments.data, arguments.out / "cifar10.pt")
    train_images = train_images.first(arguments.limit_train)
    test_images = test_images.first(arguments.limit_test)

    settings = {
        key: str(value) for key, value in sorted(vars(arguments).items()) if key not in ("out", "data", "threads")
    }
    method = METHODS[arguments.method]
    model = build(arguments, train_images)
    decay = arguments.weight_decay
    if decay is None:
        decay = 1e-4 if method.config is None else WEIGHT_DECAY.get(arguments.weight_bits, 1e-4)
    rate = arguments.learning_rate or method.learning_rate
    optimizer = torch.optim.SGD(qstep.parameter_groups(model, weight_decay=decay), lr=rate, momentum=0.9, nesterov=True)
    schedule = None
    if method.incremental:
        generator = torch.Generator().manual_seed(arguments.seed)
        schedule = qstep.optim.InqSchedule(
            model, optimizer, f"resnet18_{arguments.weight_bits}bit", strategy=arguments.strategy, generator=generator
        )
    distillation = None
    if arguments.teacher is not None:
        teacher = float_network(arguments.activation, arguments.teacher)
        distillation = Distillation(model, teacher, arguments.features)
    run = Training(model, optimizer, settings, rate, schedule, distillation)
    state = folder / "state.pt"
    if state.exists():
        run.resume(state)
    start = time.perf_counter()
    train(run, train_images, arguments.epochs, arguments.seed, arguments.margin, state)
    if arguments.batch_norm_batches and arguments.epochs:
        loader = shuffled_batches(train_images, BATCH, arguments.seed, arguments.epochs, arguments.margin)
        qstep.reestimate_batch_norm(model, loader, arguments.batch_norm_batches, progress=False)
    torch.save(model.state_dict(), folder / "model.pt")
    result = {
        **{
            key: getattr(arguments, key)
            for key in (
                "name",
                "method",
                "activation",
                "epochs",
                "learning_rate",
                "seed",
                "option",
                "strategy",
                "margin",
            )
        },
        "teacher": arguments.teacher is not None,
        "features": arguments.features if arguments.teacher is not None else 0,
        "edges": arguments.edges,
        "weight_bits": None if arguments.method == "float" else arguments.weight_bits,
        "act_bits": None if arguments.method == "float" else arguments.act_bits,
        **evaluate(model, test_images, folder),
        "seconds": round(time.perf_counter() - start),
        "command": " ".join(["python", *sys.argv]),
    }
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
