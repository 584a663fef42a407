"""metrics.jsonl: one line per training step and per validation, a pure function of the run. Times do not belong here."""

import json
from pathlib import Path
from typing import Any

from glassworks.artifacts.digests import flush_to_disk, write_text


class JsonLines:
    """A log of a run, one JSON row per line; on resuming, rows after the checkpoint's step are dropped first and will be written again, equal."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self.path = path
        kept = [row for row in read_metrics(path) if row["step"] <= resumed_step] if path.exists() else []
        write_text(path, "".join(map(_line, kept)))  # whole or as it was: a kill here must not cost the rows before
        self._file = path.open("a")

    def append(self, row: dict[str, Any]) -> None:
        self._file.write(_line(row))

    def flush(self) -> None:
        """To disk: a checkpoint must never be newer than the log before it."""
        self._file.flush()
        flush_to_disk(self.path)

    def close(self) -> None:
        self.flush()
        self._file.close()


class MetricsLog(JsonLines):
    """The rows of metrics.jsonl: a step and what was measured at it."""

    def write(self, row: dict[str, Any]) -> None:
        self.append(row)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True) + "\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a log, in its order; a last line that was cut by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def write_curves(rows: list[dict[str, Any]], folder: Path) -> None:
    """training.tsv and validation.tsv (columns step, loss), which `dvc plots` shows."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, column in (("training", "loss"), ("validation", "validation_loss")):
        lines = [f"{row['step']}\t{row[column]:.6f}" for row in rows if column in row]
        (folder / f"{name}.tsv").write_text("\n".join(["step\tloss", *lines]) + "\n")
