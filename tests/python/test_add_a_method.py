"""docs/add-a-method.md stays true: its code blocks, run in order, build a method that passes the conformance suite."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

from qstep.quantizers import ACTIVATION_METHODS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "add-a-method.md"


def code() -> str:
    """The Python blocks of the page; lines keep their numbers."""
    text = PAGE.read_text(encoding="utf-8")
    blank = re.sub(r"[^\n]", "", text)
    lines = blank.split("\n")
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        first = text.count("\n", 0, block.start(1))
        for i, line in enumerate(block.group(1).splitlines()):
            lines[first + i] = line
    return "\n".join(lines)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module in which nothing has run yet. What the page registers is gone afterwards."""
    module = types.ModuleType("add_a_method")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # pickle looks classes up by name
    monkeypatch.setitem(ACTIVATION_METHODS, "dyadic", None)  # the page sets it, the fixture takes it out again
    return module


def test_the_page_builds_a_method_that_conforms(page: types.ModuleType) -> None:
    exec(compile(code(), str(PAGE), "exec"), page.__dict__)
    assert ACTIVATION_METHODS["dyadic"] is page.DyadicActivation


def test_an_error_on_the_page_would_be_found(page: types.ModuleType) -> None:
    source = code()
    for right, wrong in (
        ("(rest > 0.5)", "(rest > 0.4)"),
        ("x >= low * step", "x > -np.inf"),
        ("x, self.scale,", "x, 2 * self.scale,"),
    ):
        assert right in source
        with pytest.raises(AssertionError):
            exec(compile(source.replace(right, wrong), str(PAGE), "exec"), page.__dict__)


def test_every_file_that_the_page_names_exists() -> None:
    """Names of the toy stand for those of PACT."""
    text = PAGE.read_text(encoding="utf-8").replace("dyadic", "pact")
    named = set(re.findall(r"`((?:csrc|python|tests|docs)/[\w./]+\.\w+)`", text))
    assert len(named) >= 8
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    folder = ROOT / "csrc/qstep/methods/pact"
    assert {p.name for p in folder.iterdir()} == set(
        re.findall(r"`([\w]+\.\w+)`", text[text.index("| file in `csrc") : text.index("`methods/pact` is")])
    )
    sources = (ROOT / "csrc/qstep/methods/CMakeLists.txt").read_text(encoding="utf-8")
    assert all(f"pact/{name}" in sources for name in ("cpu.cpp", "op.cpp", "quantizer.cpp", "cuda.cu", "op_cuda.cpp"))
