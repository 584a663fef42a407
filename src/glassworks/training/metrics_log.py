"""metrics.jsonl: one line per training step and per validation, a pure function of the run. Times do not belong here."""

import json
from pathlib import Path
from typing import Any

from glassworks.artifacts.digests import flush_to_disk


class MetricsLog:
    """Appends rows; on resuming, rows after the checkpoint's step are dropped first and will be written again, equal."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self.path = path
        kept = [row for row in read_metrics(path) if row["step"] <= resumed_step] if path.exists() else []
        self._file = path.open("w")
        for row in kept:
            self.write(row)
        self.flush()

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row, sort_keys=True) + "\n")

    def flush(self) -> None:
        """To disk: a checkpoint must never be newer than the log before it."""
        self._file.flush()
        flush_to_disk(self.path)

    def close(self) -> None:
        self.flush()
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line that was cut by a kill is left out."""
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
