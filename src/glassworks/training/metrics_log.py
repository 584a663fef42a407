"""metrics.jsonl: one JSON row per training step and per validation, a pure function of the run. It holds no times."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from glassworks.artifacts.digests import flush_to_disk, write_text

LogRow = Mapping[str, object]
"""A JSON object with a "step"."""


class Logger(Protocol):
    """Displays rows as they are written to metrics.jsonl."""

    def log(self, row: LogRow) -> None:
        """Display the numbers of a row: {"step": 12, "loss": 3.1, …} or {"step": 12, "validation_loss": 3.4, …}."""
        ...

    def close(self) -> None:
        """Send pending rows and release the logger."""
        ...


class JsonLines:
    """An append-only log of a run, one JSON row per line.

    A resumed run drops the rows after the step of its checkpoint, and writes equal rows again.
    """

    def __init__(self, path: Path, resumed_step: int) -> None:
        self.path = path
        kept = [row for row in read_metrics(path) if step_of(row) <= resumed_step] if path.exists() else []
        write_text(path, "".join(map(_line, kept)))  # atomic: a kill here must not lose earlier rows
        self._file = path.open("a")

    def append(self, row: LogRow) -> None:
        self._file.write(_line(row))

    def flush(self) -> None:
        """Flush to disk: a checkpoint must never be newer than its log."""
        self._file.flush()
        flush_to_disk(self.path)

    def close(self) -> None:
        self.flush()
        self._file.close()


class MetricsLog(JsonLines):
    """The log metrics.jsonl: a step and its measurements in each row."""

    def write(self, row: LogRow) -> None:
        self.append(row)


def _line(row: LogRow) -> str:
    return json.dumps(row, sort_keys=True, allow_nan=False) + "\n"


def step_of(row: LogRow) -> int:
    """The step of a row."""
    step = row["step"]
    assert isinstance(step, int)
    return step


def number(row: LogRow, name: str) -> float:
    """A number of a row."""
    value = row[name]
    assert isinstance(value, int | float)
    return value


def read_metrics(path: Path) -> list[LogRow]:
    """The rows of a log, in order, without a last line truncated by a kill."""
    rows: list[LogRow] = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def write_curves(rows: Sequence[LogRow], folder: Path) -> None:
    """Write training.tsv and validation.tsv (columns step, loss) for `dvc plots`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, column in (("training", "loss"), ("validation", "validation_loss")):
        lines = [f"{step_of(row)}\t{number(row, column):.6f}" for row in rows if column in row]
        (folder / f"{name}.tsv").write_text("\n".join(["step\tloss", *lines]) + "\n")
