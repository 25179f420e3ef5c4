"""Tables of text."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns side by side: None and empty strings blank; columns without any entry are left out."""
    lines = [[*head], *[["" if cell is None else str(cell) for cell in row] for row in rows]]
    used = [i for i in range(len(head)) if any(line[i] for line in lines[1:]) or i == 0]
    width = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = ["  ".join(line[i].ljust(width[i]) for i in used).rstrip() for line in lines]
    text.insert(1, "  ".join("-" * width[i] for i in used))
    return "\n".join(text)
