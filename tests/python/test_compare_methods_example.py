"""examples/compare_methods.py on a few digits: every method ends as the integer network that it trained."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch.utils.data import TensorDataset

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_every_method_becomes_its_integer_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import compare_methods

    train, test = (TensorDataset(*(t[:256] for t in data.tensors)) for data in compare_methods.load_digits())
    monkeypatch.setattr(compare_methods, "load_digits", lambda: (train, test))
    table = tmp_path / "table.md"
    monkeypatch.setattr(sys, "argv", ["compare_methods.py", "--epochs", "1", "--out", str(table)])
    compare_methods.main()
    header, _, _, *rows = (
        [cell.strip() for cell in line.strip("| ").split("|")] for line in table.read_text().splitlines()
    )
    assert [row[0] for row in rows] == list(compare_methods.METHODS)
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        assert cells["trained %"] == cells["integer %"]
        assert cells["differing codes"].startswith("0 of ")
    assert len(list(tmp_path.glob("*.safetensors"))) == len(rows)
