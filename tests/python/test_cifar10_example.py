"""examples/cifar10.py on a few random pictures: the whole path, and a run that was interrupted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qstep

EXAMPLES = Path(__file__).parents[2] / "examples"
TRAIN, TEST = 256, 30


@pytest.fixture
def cifar10(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import cifar10

    return cifar10


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An image folder and a checkpoint in the layout of published ones."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for part, count in (("train", TRAIN), ("test", TEST)):
        for i in range(count):
            folder = tmp_path / part / f"class{i % 10}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path


def run(cifar10: Any, monkeypatch: pytest.MonkeyPatch, data: Path, out: str) -> None:
    checkpoint = data / "float.th"
    if not checkpoint.exists():
        torch.manual_seed(0)
        state = cifar10.ResNet20().state_dict()
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, checkpoint)
    options = "--method lsq_plus --epochs 2 --batch-norm-batches 1 --name run --threads 1"
    paths = ["--data", data, "--checkpoint", checkpoint, "--teacher", checkpoint, "--out", data / out]
    monkeypatch.setattr(sys, "argv", ["cifar10.py", *map(str, paths), *options.split()])
    cifar10.main()


def test_an_interrupted_run_continues_bit_for_bit(
    cifar10: Any, monkeypatch: pytest.MonkeyPatch, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(cifar10, monkeypatch, data, "straight")

    save = cifar10.Training.save

    def save_and_stop(self: Any, path: Path) -> None:
        save(self, path)
        if self.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cifar10.Training, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run(cifar10, patch, data, "resumed")
    assert not (data / "resumed/run/result.json").exists()
    run(cifar10, monkeypatch, data, "resumed")

    straight, resumed = (torch.load(data / out / "run/model.pt") for out in ("straight", "resumed"))
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)

    result = json.loads((data / "resumed/run/result.json").read_text())
    assert result["integer_accuracy"] == result["accuracy"]
    assert result["differing_logits"] == result["differing_codes"] == 0
    assert result["compared_codes"] > 0


@pytest.mark.parametrize("margin", [0, 4])
def test_random_crops_and_flips_move_pictures_only(cifar10: Any, margin: int) -> None:
    import cifar10_data

    pixels = torch.randint(0, 256, (40, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    moved = cifar10_data._augment(pixels, margin, torch.Generator().manual_seed(1))
    padded = np.pad(pixels.numpy(), ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    flips = set()
    for picture, result in zip(padded, moved.numpy(), strict=True):
        crops = {
            flip: picture[top : top + 32, left : left + 32][:, :: -1 if flip else 1].tobytes()
            for top in range(2 * margin + 1)
            for left in range(2 * margin + 1)
            for flip in (False, True)
            if picture[top : top + 32, left : left + 32][:, :: -1 if flip else 1].tobytes() == result.tobytes()
        }
        assert len(crops) == 1
        flips |= crops.keys()
    assert flips == {False, True}


@pytest.mark.parametrize("activation", ["relu", "swish"])
def test_narrow_is_what_convolutions_read(cifar10: Any, activation: str) -> None:
    config = qstep.QConfig.lsq_plus(2, 2, overrides=cifar10.stream_widths(activation, 8))
    network = cifar10.ResNet20(activation, apart=True)
    model = qstep.prepare(network, config, example_inputs=(torch.zeros(2, 3, 32, 32),))
    read = {
        name: [q.bit_width for q in layer._inputs] for name, layer in model.named_modules() if hasattr(layer, "_inputs")
    }
    additions = {name: bits for name, bits in read.items() if name.startswith("add")}
    convolutions = {name: bits for name, bits in read.items() if name.startswith("layer")}
    assert len(additions) == 9 and set(map(tuple, additions.values())) == {(8, 8)}
    assert len(convolutions) == 18 and set(map(tuple, convolutions.values())) == {(2,)}
    assert read["conv1"] == read["linear"] == read["adaptive_avg_pool2d"] == [8]


def test_paired_difference(cifar10: Any) -> None:
    import cifar10_table

    a, b = np.array([1, 1, 0, 1, 0, 0, 1, 1], bool), np.array([1, 0, 0, 1, 1, 1, 1, 0], bool)
    mean, half = cifar10_table.paired_difference({"correct": a}, {"correct": b})
    gains, losses, n = 2, 2, 8  # pictures that exactly one of them gets right
    variance = (gains + losses - (gains - losses) ** 2 / n) / (n - 1)
    assert mean == pytest.approx(100 * (gains - losses) / n)
    assert half == pytest.approx(196 * (variance / n) ** 0.5)


def test_table_compares_with_the_float_run_of_the_same_seed(
    cifar10: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import cifar10_table

    common = {"activation": "relu", "epochs": 4, "option": {}, "strategy": "magnitude", "images": 4}
    float32 = {"method": "float", "weight_bits": None, "act_bits": None}
    w4a4 = {"method": "lsq_plus", "weight_bits": 4, "act_bits": 4, "learning_rate": None, "bytes": 9}
    w4a4 |= {"differing_logits": 0, "differing_codes": 0}
    runs = {
        "float-0": (float32 | {"seed": 0, "learning_rate": None}, [1, 1, 1, 1]),
        "float-0-fast": (float32 | {"seed": 0, "learning_rate": 0.1}, [1, 1, 0, 0]),
        "float-1": (float32 | {"seed": 1, "learning_rate": None}, [1, 1, 1, 0]),
        "low-0": (w4a4 | {"seed": 0, "integer_accuracy": 50.0}, [1, 1, 0, 0]),
        "low-1": (w4a4 | {"seed": 1, "integer_accuracy": 75.0}, [1, 1, 0, 1]),
    }
    for name, (run, correct) in runs.items():
        (tmp_path / name).mkdir()
        result = common | run | {"name": name, "accuracy": 100 * float(np.mean(correct))}
        (tmp_path / name / "result.json").write_text(json.dumps(result))
        np.savez(tmp_path / name / "correct.npz", correct=np.array(correct, bool))
    monkeypatch.setattr(sys, "argv", ["cifar10_table.py", str(tmp_path)])
    cifar10_table.main()
    cells = [line.split(" | ") for line in (tmp_path / "results.md").read_text().splitlines() if line.startswith("| ")]
    column = cells[0].index("drop")
    drops = {row[0].removeprefix("| "): row[column] for row in cells[1:]}
    assert drops == {"float-0": "", "float-0-fast": "50.00", "float-1": "", "low-0": "50.00", "low-1": "0.00"}
    assert "2 seeds: drop 25.00, standard deviation 35.36" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "results.csv").stat().st_size > 0
    assert "<svg" in (tmp_path / "results.svg").read_text()
