"""The table of docs/records/robustness.md: each row is made by a test (`--write-docs`) and compared with it."""

import pytest

from glassworks.data.texts import printable

from ..small_pipeline import REPOSITORY

DOCS = REPOSITORY / "docs/records/robustness.md"


def compare_row(request: pytest.FixtureRequest, kind: int, name: str, out: str) -> None:
    """Hold `out` against the row of an input, or write the row in its place, behind the last of its kind if it is new."""
    cells = [cell.replace("|", "\\|").replace("\n", " ") for cell in (str(kind), name, printable(out)[:600])]
    row, start = f"| {' | '.join(cells)} |", f"| {cells[0]} | {cells[1]} | "
    lines = DOCS.read_text().splitlines()
    if request.config.getoption("--write-docs"):
        known = [index for index, line in enumerate(lines) if line.startswith(start)]
        same = [index for index, line in enumerate(lines) if line.startswith("| ") and _kind(line) <= kind]
        lines[known[0] if known else same[-1] + 1 : known[0] + 1 if known else same[-1] + 1] = [row]
        DOCS.write_text("\n".join(lines) + "\n")
    assert row in lines


def _kind(line: str) -> int:
    first = line.split("|")[1].strip()
    return int(first) if first.isdigit() else 0
