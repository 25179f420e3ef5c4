"""Results on disk: one JSON file per row, so that a report can be put together from runs at different times."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


class Results:
    """DIRECTORY/MODE/PART/ROW.json"""

    def __init__(self, directory: Path, mode: str, part: str) -> None:
        self._folder = directory / mode / part

    def path(self, row: str) -> Path:
        return self._folder / f"{re.sub('[^A-Za-z0-9_.-]+', '_', row)}.json"

    def __contains__(self, row: str) -> bool:
        return self.path(row).exists()

    def write(self, row: str, result: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self.path(row).write_text(json.dumps(result, indent=1))


def read(directory: Path) -> list[dict[str, Any]]:
    """Every row, in the order in which the parts list them."""
    rows = [json.loads(path.read_text()) for path in directory.glob("*/*/*.json")]
    return sorted(rows, key=lambda row: row["position"])
