"""Training in two real processes with DistributedDataParallel: every method, and INQ's schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import qstep
from networks import settle
from qstep.optim import InqSchedule

PROCESSES = 2
STEPS = 3
CONFIGS = {
    "iao": qstep.QConfig.iao(8, 8),
    "lsq_plus": qstep.QConfig.lsq_plus(4, 4, per_channel=True),
    "pact": qstep.QConfig.pact(4, 4),
    "f8net": qstep.QConfig.f8net(),
    "inq": qstep.QConfig.inq(4),
}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.bn(self.conv(x))).mean((2, 3)))


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 3, 9, 9, generator=generator), torch.randint(0, 4, (8,), generator=generator)


def train(config: qstep.QConfig, rank: int) -> dict[str, Any]:
    """What this process holds after training on its own data."""
    torch.manual_seed(rank)  # the weights too: the wrapper has to make them equal
    model = qstep.prepare(settle(Small(), batch(0)[0]), config, example_inputs=(batch(0)[0],))
    qstep.calibrate(model, [batch(rank)[0]], batches=1, progress=False)
    wrapped = nn.parallel.DistributedDataParallel(model.train())
    optimizer = torch.optim.SGD(qstep.parameter_groups(wrapped, weight_decay=0.01), lr=0.05, momentum=0.9)
    schedule = None
    if config.weight.method == "inq":
        schedule = InqSchedule(wrapped, optimizer, [0.4, 0.8, 1.0], strategy="random")
    for step in range(STEPS):
        if schedule is not None:
            schedule.step()
        x, y = batch(100 + PROCESSES * step + rank)
        optimizer.zero_grad()
        F.cross_entropy(wrapped(x), y).backward()
        optimizer.step()
    result = {"parameters": {name: p.detach().clone() for name, p in model.named_parameters()}}
    if schedule is not None:
        result["frozen"] = [m.weight_quantizer.frozen for m in model.modules() if hasattr(m, "weight_quantizer")]
        result["names"] = list(schedule.state_dict()["layers"])
    # Statistics are each process's own until the next forward pass, which begins with those of process 0; a checkpoint is that of one process.
    result["state"] = model.state_dict() if rank == 0 else None
    return result


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    try:
        torch.save({name: train(config, rank) for name, config in CONFIGS.items()}, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("distributed")
    torch.multiprocessing.spawn(worker, args=(str(folder),), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")


@pytest.mark.parametrize("name", CONFIGS)
def test_processes_hold_the_same_parameters(results: list[dict[str, Any]], name: str) -> None:
    first, second = (result[name]["parameters"] for result in results)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    initial = settle(Small(), batch(0)[0])
    assert not torch.equal(first["conv.weight"], initial.conv.weight), "it trained"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_checkpoint_of_one_process_becomes_integers(results: list[dict[str, Any]], name: str) -> None:
    x = batch(7)[0]
    model = qstep.prepare(settle(Small(), x), CONFIGS[name], example_inputs=(x,))
    model.load_state_dict(results[0][name]["state"])
    assert qstep.compare(model.eval(), qstep.convert(model), x).differing_codes == 0


def test_processes_freeze_the_same_weights(results: list[dict[str, Any]]) -> None:
    first, second = (result["inq"] for result in results)
    assert first["names"] == ["conv", "fc"], "without the wrapper's name"
    for a, b in zip(first["frozen"], second["frozen"], strict=True):
        assert torch.equal(a, b) and a.all()
    for key, value in first["parameters"].items():
        if key.endswith(("conv.weight", "fc.weight")):
            powers = value[value != 0].abs().log2()
            assert torch.equal(powers, powers.round()), key
