"""Bad input gets an error that names what was wrong and what is allowed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import qstep
from networks import ResNet20


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


X = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def prepared(config: qstep.QConfig | None = None) -> torch.fx.GraphModule:
    model = qstep.prepare(small(), config or qstep.QConfig.lsq_plus(4, 4), example_inputs=(X,))
    qstep.calibrate(model, [X], batches=1, progress=False)
    return model


@pytest.mark.parametrize("bits", [1, 9, 0, -4, 4.0, True, "4"])
def test_bit_widths(bits: object) -> None:
    with pytest.raises(ValueError, match=r"in \[2, 8\]"):
        qstep.QConfig.lsq_plus(bits, 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"in \[2, 8\]"):
        qstep.QConfig.iao(8, bits)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"overrides\['0'\]\['act_bits'\]"):
        qstep.QConfig.lsq_plus(4, 4, overrides={"0": {"act_bits": bits}})  # type: ignore[dict-item]


def test_options() -> None:
    for make, message in (
        (lambda: qstep.QConfig.lsq_plus(4, 4, act_config=5), "act_config must be 1, 2, 3 or 4"),
        (lambda: qstep.QConfig.iao(batch_norm="none"), "batch_norm must be 'fold', 'absorb' or 'fold_batch'"),
        (lambda: qstep.QConfig.iao(requantization="float"), "requantization must be"),
        (
            lambda: qstep.QConfig.lsq_plus(overrides={"a": {"bits": 4}}),
            "may set weight_bits, act_bits, weight and activation",
        ),
        (lambda: prepared(qstep.QConfig.iao(smoothing=1.0)), r"smoothing must be in \[0, 1\)"),
        (lambda: prepared(qstep.QConfig.lsq_plus(act_options={"init": "guess"})), "init must be 'mse' or 'min_max'"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(TypeError, match=r"config must be a qstep\.QConfig"):
        qstep.prepare(small(), "lsq", example_inputs=(X,))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="example_inputs must be a tuple"):
        qstep.prepare(small(), qstep.QConfig.lsq(), example_inputs=X)  # type: ignore[arg-type]


class Unsupported(nn.Module):
    def __init__(self, function) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.function = function

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.function(self.conv(x))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.softmax(x, 1), "softmax.*no integer definition"),
        (lambda x: x * 0.5 + 1, "one operand is a number"),
        (lambda x: nn.functional.layer_norm(x, x.shape[1:]), "layer_norm.*no integer definition"),
        (lambda x: x.mean(1), "mean over other dimensions"),
        (lambda x: torch.cumsum(x, 1), "cumsum.*no integer definition"),
    ],
)
def test_unsupported_operations_are_named(function, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(qstep.UnsupportedError, match=f"(?s){message}"):
        qstep.prepare(Unsupported(function), qstep.QConfig.lsq(), example_inputs=(X,))


def test_unsupported_modules_are_named_with_their_place() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(2)

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.norm(x)

    model = nn.Sequential(Inner(), nn.Conv2d(2, 2, 1))
    with pytest.raises(qstep.UnsupportedError, match=r"0\.norm \(BatchNorm2d\).*does not directly follow"):
        qstep.prepare(model, qstep.QConfig.lsq(), example_inputs=(X,))
    reflect = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(qstep.UnsupportedError, match="padding_mode 'reflect'"):
        qstep.prepare(reflect, qstep.QConfig.lsq(), example_inputs=(X,))

    class Branch(nn.Module):
        def forward(self, x):  # type: ignore[no-untyped-def]
            return x if x.sum() > 0 else -x

    with pytest.raises(qstep.UnsupportedError, match="cannot be traced"):
        qstep.prepare(Branch(), qstep.QConfig.lsq(), example_inputs=(X,))


@pytest.mark.parametrize("config", [qstep.QConfig.lsq_plus(4, 4), qstep.QConfig.iao()], ids=["lsq_plus", "iao"])
def test_missing_calibration(config: qstep.QConfig) -> None:
    model = qstep.prepare(small(), config, example_inputs=(X,))
    for call in (lambda: model(X), lambda: qstep.convert(model), lambda: model.eval()(X)):
        with pytest.raises(RuntimeError, match=r"missing calibration: run qstep\.calibrate"):
            call()
    with pytest.raises(ValueError, match="the loader gave no batch"):
        qstep.calibrate(model, [], progress=False)
    with pytest.raises(TypeError, match=r"must come from qstep\.prepare"):
        qstep.calibrate(small(), [X])
    with pytest.raises(TypeError, match="a batch must be a tensor"):
        qstep.calibrate(model, [{"x": X}], progress=False)
    with pytest.raises(ValueError, match="must be finite, got NaN"):
        qstep.calibrate(model, [X * float("nan")], progress=False)


WEIGHT_CONFIGS = {
    "lsq_plus": qstep.QConfig.lsq_plus(4, 4),
    "lsq_plus per channel": qstep.QConfig.lsq_plus(4, 4, per_channel=True),
    "iao": qstep.QConfig.iao(),
    "pact": qstep.QConfig.pact(4, 4),
    "inq": qstep.QConfig.inq(4),
    "pwlq": qstep.QConfig.pwlq(4, 8),
    "f8net": qstep.QConfig.f8net(),
}


@pytest.mark.parametrize("name", WEIGHT_CONFIGS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(name: str, value: float) -> None:
    broken = small()
    with torch.no_grad():
        broken.get_submodule("0").weight[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"0\.weight_quantizer: weights must be finite, got NaN or infinity"):
        model = qstep.prepare(broken, WEIGHT_CONFIGS[name], example_inputs=(X,))
        qstep.calibrate(model, [X], progress=False)


@pytest.mark.parametrize("name", WEIGHT_CONFIGS)
@pytest.mark.parametrize("value", [0.0, 0.25], ids=["zero", "constant"])
def test_constant_weights_are_quantized_or_named(name: str, value: float) -> None:
    network = small()
    with torch.no_grad():
        network.get_submodule("0").weight.fill_(value)
    model = qstep.prepare(network, WEIGHT_CONFIGS[name], example_inputs=(X,))
    if name == "f8net" and value != 0:  # the rule is one of the standard deviation
        with pytest.raises(ValueError, match=r"0\.weight_quantizer: .* use format='grid'"):
            qstep.calibrate(model, [X], progress=False)
        return
    qstep.calibrate(model, [X], progress=False)
    result = qstep.compare(model, qstep.convert(model), X)
    assert result.differing_codes == 0 < result.total_codes, str(result)


def test_values_no_network_can_hold() -> None:
    model = prepared()
    model.get_submodule("0").output_quantizer._scale.raw.data.fill_(float("nan"))
    with pytest.raises((ValueError, RuntimeError), match="scale"):
        model(X)
    with pytest.raises(ValueError, match="scale must be finite and positive"):
        qstep.convert(model)

    model = prepared()
    model.get_submodule("3").weight.data[1, 2] = float("nan")
    with pytest.raises(ValueError, match=r"3: weight 2 of channel 1"):
        qstep.convert(model)

    # A scale cannot become negative or 0: the largest of its magnitude and a tiny positive number is used.
    model = prepared()
    raw = model.get_submodule("0").output_quantizer._scale.raw
    raw.data.mul_(-1)
    y = model(X)
    raw.data.zero_()
    assert torch.isfinite(y).all()
    assert torch.isfinite(model(X)).all()


def test_conversion_takes_prepared_models_only() -> None:
    for function in (qstep.convert, qstep.summary):
        with pytest.raises(TypeError):
            function(small())  # type: ignore[arg-type, operator]
    net = qstep.convert(prepared())
    other = qstep.prepare(ResNet20(), qstep.QConfig.lsq_plus(4, 4), example_inputs=(torch.zeros(1, 3, 32, 32),))
    with pytest.raises(ValueError, match="the network has no layer"):
        qstep.compare(other, net, X)
    with pytest.raises(ValueError, match="forward must be"):
        qstep.compare(prepared(), net, X, forward="both")


def test_running() -> None:
    net = qstep.convert(prepared())
    for x, message in (
        (X[:, :1], "channel|shape|size"),
        (X[0], "dimension|rank|shape"),
        (torch.zeros(1, 2, 2, 2), "shape|features|size"),
        (X * float("nan"), "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            net(x)
    with pytest.raises(TypeError, match="inputs must be float tensors"):
        net(X.to(torch.int32))
    with pytest.raises(ValueError, match=r"reference"):
        net.with_options(isa="avx1024")
    assert torch.isfinite(net(X * float("inf"))).all()  # infinities saturate (0 * inf would be NaN: X has no 0)
    assert net(X[:0]).shape == (0, 3)


def test_files(tmp_path: Path) -> None:
    net = qstep.convert(prepared())
    path = tmp_path / "net.safetensors"
    net.save(path)
    whole = path.read_bytes()
    with pytest.raises(ValueError, match="nowhere"):
        net.save(tmp_path / "nowhere" / "net.safetensors")
    with pytest.raises(ValueError, match=r"missing\.safetensors"):
        qstep.load(tmp_path / "missing.safetensors")
    for length in (0, 7, 8, 100, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut"):
            qstep.load(tmp_path / "cut")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut", "net.safetensors"]


def test_command_line(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "qstep", *arguments], capture_output=True, text=True, timeout=120)

    path = str(tmp_path / "net.safetensors")
    qstep.convert(prepared()).save(path)
    bare = run()
    assert bare.returncode == 0 and "inspect" in bare.stdout and "examples:" in bare.stdout
    inspect = run("inspect", path)
    assert inspect.returncode == 0 and "W8A8" in inspect.stdout and "conv2d" in inspect.stdout, inspect.stderr
    out = str(tmp_path / "y.npy")
    result = run("run", path, "--output", out, "--threads", "1")
    assert result.returncode == 0 and "ms (median" in result.stdout and Path(out).stat().st_size > 0, result.stderr
    compare = run("compare", path)
    assert compare.returncode == 0 and compare.stdout.splitlines()[-1].split()[-1] == "0", compare.stderr
    missing = run("inspect", str(tmp_path / "nothing"))
    assert missing.returncode == 2 and missing.stderr.startswith("qstep: ") and "Traceback" not in missing.stderr
