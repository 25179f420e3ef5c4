"""The integer network as a program sees it: profiles, memory, threads, the command line's bench."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import qstep
from networks import ResNet20


@pytest.fixture(scope="module")
def net() -> qstep.IntegerNetwork:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    model = qstep.prepare(ResNet20().eval(), qstep.QConfig.lsq(8, 8), example_inputs=(x,))
    qstep.calibrate(model, [x], batches=1, progress=False)
    return qstep.convert(model.eval())


@pytest.fixture(scope="module")
def file(net: qstep.IntegerNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "net.safetensors"
    net.save(path)
    return path


def test_profile(net: qstep.IntegerNetwork) -> None:
    one = net.with_options(num_threads=1)
    profile = one.profile(torch.randn(4, 3, 32, 32), repeats=5)
    kernels = {node.name: node.kernel for node in net.nodes}
    assert {layer.name: layer.kernel for layer in profile.layers} == kernels
    assert sum(layer.share for layer in profile.layers) == pytest.approx(1)
    assert 0 < profile.fastest <= profile.milliseconds
    stem = profile.layers[1]
    assert stem.kind == "conv2d" and stem.shape == (4, 16, 32, 32)
    assert stem.products == 4 * 16 * 32 * 32 * 27
    assert stem.gops == pytest.approx(2e-6 * stem.products / stem.milliseconds)
    assert stem.peak_fraction == pytest.approx(stem.gops / profile.peak_gops)
    text = str(profile)
    assert all(column in text for column in ("layer", "kernel", "share %", "GOPS", "of peak %", stem.kernel))
    stored = json.loads(profile.to_json())
    assert stored["num_threads"] == 1 and stored["layers"][1]["kernel"] == stem.kernel and stored["gops"] > 0


def test_profile_of_bad_input(net: qstep.IntegerNetwork) -> None:
    with pytest.raises(ValueError, match="3 channels"):
        net.profile(torch.randn(1, 4, 32, 32))
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        net.profile(torch.randn(1, 3, 32, 32), repeats=0)
    with pytest.raises(ValueError, match="NaN"):
        net.profile(torch.full((1, 3, 32, 32), float("nan")))
    with pytest.raises(TypeError, match="float tensors"):
        net.profile(torch.zeros(1, 3, 32, 32, dtype=torch.int32))
    with pytest.raises(ValueError, match="1 inputs, got 0"):
        net.profile()


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_threads_out_of_range(net: qstep.IntegerNetwork, file: Path, threads: int) -> None:
    for make in (
        lambda: net.with_options(num_threads=threads),
        lambda: qstep.load(file, num_threads=threads),
    ):
        with pytest.raises(ValueError, match=rf"num_threads must be in .*1024\], got {threads}"):
            make()


def largest_live_set(net: qstep.IntegerNetwork, batch: int) -> int:
    """Bytes of the codes that are needed at once, if additions are made in the place of an operand that dies."""
    made = {node.name: i for i, node in enumerate(net.nodes)}
    last = {name: i for i, node in enumerate(net.nodes) for name in node.inputs}
    largest = 0
    for i, node in enumerate(net.nodes):
        alive = [n for n in net.nodes[: i + 1] if n.act_bits and n.kind != "reshape" and last.get(n.name, 0) >= i]
        in_place = node.kind == "bilinear" and any(last[name] == i for name in node.inputs)
        sizes = [batch * torch.Size(n.shape[1:]).numel() for n in alive if not (in_place and made[n.name] == i)]
        largest = max(largest, sum(-(-size // 64) * 64 for size in sizes))
    return largest


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_memory(net: qstep.IntegerNetwork, batch: int) -> None:
    memory = net.memory((batch, 3, 32, 32))
    assert memory.activations <= largest_live_set(net, batch)
    assert memory.arena <= memory.activations + memory.scratch
    weights = sum(
        torch.Size(shape).numel() for shape in ((16, 27), *((16, 144),) * 6, (32, 144), *((32, 288),) * 5, (32, 16))
    )
    weights += sum(torch.Size(shape).numel() for shape in ((64, 288), *((64, 576),) * 5, (64, 32), (10, 64)))
    assert memory.codes == weights  # of 8 bits
    assert f"{memory.weights:,} bytes of weights" in str(qstep.summary(net))
    with pytest.raises(ValueError, match="3 channels"):
        net.memory((1, 4, 32, 32))


def test_calls_do_not_copy_inputs(net: qstep.IntegerNetwork) -> None:
    x = torch.randn(2, 3, 32, 32)
    expected = net(x)
    for same in (x.double(), x.to(memory_format=torch.channels_last), x.flip(3).flip(3), x.clone().requires_grad_()):
        assert torch.equal(net(same), expected)


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("size", [(1, 1), (1, 97), (33, 32), (130, 7)])
def test_shapes_equal_the_reference(net: qstep.IntegerNetwork, batch: int, size: tuple[int, int]) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(3, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, 1, 1, groups=4), nn.ReLU()
            )
            self.head = nn.Linear(12, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(nn.functional.adaptive_avg_pool2d(self.body(x), 1).flatten(1))

    torch.manual_seed(1)
    x = torch.randn(batch, 3, *size)
    model = qstep.prepare(Pooled().eval(), qstep.QConfig.lsq(4, 4), example_inputs=(x,))
    qstep.calibrate(model, [x], batches=1, progress=False)
    ours = qstep.convert(model.eval()).with_options(num_threads=2)
    reference = ours.with_options(isa="reference").capture(x)
    for name, codes in ours.capture(x).items():
        assert (codes == reference[name]).all(), name


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qstep", "bench", *arguments], capture_output=True, text=True, timeout=120
    )


def test_bench(net: qstep.IntegerNetwork, file: Path) -> None:
    table = bench(str(file), "--threads", "1", "--repeat", "3")
    assert table.returncode == 0 and "of peak %" in table.stdout and "ms (median of 3 runs" in table.stdout, (
        table.stderr
    )
    result = bench(str(file), "--json", "--repeat", "2", "--batch", "3", "--isa", "reference", "--threads", "1")
    profile = json.loads(result.stdout)
    assert profile["isa"] == "reference" and profile["repeats"] == 2
    assert profile["layers"][1]["shape"] == [3, 16, 32, 32]
    assert [layer["name"] for layer in profile["layers"]] == [node.name for node in net.nodes]


def test_bench_of_bad_input(file: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(file.read_bytes()[:-5])
    for arguments, message in (
        ((str(tmp_path / "nothing"),), "nothing"),
        ((str(damaged),), "damaged"),
        ((str(file), "--threads", "0"), "num_threads"),
        ((str(file), "--threads", "-2"), "num_threads"),
        ((str(file), "--repeat", "0"), "repeats must be at least 1"),
        ((str(file), "--input", str(tmp_path / "x.npy")), "x.npy"),
    ):
        result = bench(*arguments)
        assert result.returncode == 2 and result.stderr.startswith("qstep: ") and message in result.stderr, (
            result.stderr
        )
        assert "Traceback" not in result.stderr
