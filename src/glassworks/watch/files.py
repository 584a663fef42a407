"""Reads files that another process writes, replaces, truncates or deletes at the same time. A file that cannot be read is empty."""

import json
import math
import os
import re
from array import array
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

TAIL = 64 * 1024
"""Bytes at the end of a log that are read."""
CHUNK = 16 * 2**20
"""Bytes of a log of metrics that one look reads; the next looks read the rest."""
CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal would obey: colours and other sequences, and control characters but tab and newline."""
POINTS = 240
"""Points of a curve."""


def scan(folder: Path) -> dict[str, os.stat_result]:
    """The entries of a folder by name; empty if it cannot be read."""
    found: dict[str, os.stat_result] = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                found[entry.name] = entry.stat()
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def signature(stat: os.stat_result | None) -> tuple[int, int, int]:
    """What changes when a file changes."""
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns) if stat else (0, 0, 0)


def tail(path: Path) -> list[str]:
    """The last lines of a log, without empty ones, control characters, and a line that is cut at its beginning."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            text = file.read(TAIL).decode(errors="replace")
    except OSError:
        return []
    lines = CONTROL.sub("", text).split("\n")
    return [line for line in (lines if size <= TAIL else lines[1:]) if line.strip()]


class Tails:
    """The last lines of logs, read again when a log changes."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int, int], list[str]]] = {}

    def of(self, path: Path, stat: os.stat_result | None) -> list[str]:
        if stat is None:
            return []
        seen = signature(stat)
        if path not in self._known or self._known[path][0] != seen:
            self._known[path] = seen, tail(path)
        return self._known[path][1]


class Curve:
    """Losses by step."""

    def __init__(self) -> None:
        self.steps, self.losses = array("q"), array("d")

    def add(self, step: int, loss: float) -> None:
        self.steps.append(step)
        self.losses.append(loss)

    def points(self) -> list[tuple[float, float]]:
        """At most `POINTS` points, each the mean of consecutive steps."""
        size = math.ceil(len(self.steps) / POINTS) or 1
        starts = range(0, len(self.steps), size)
        return [(_mean(self.steps[at : at + size]), _mean(self.losses[at : at + size])) for at in starts]


def _mean(values: "array[int] | array[float]") -> float:
    return sum(values) / len(values)


class Metrics:
    """The curves of a metrics.jsonl that grows. A file that is replaced or has become shorter is read from its beginning."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inode = self._offset = 0
        self._clear()

    def _clear(self) -> None:
        self.training, self.validation, self.last_step = Curve(), Curve(), 0

    def read(self) -> None:
        """Read what is new, up to the last complete line."""
        try:
            with self.path.open("rb") as file:
                stat = os.fstat(file.fileno())
                if stat.st_ino != self._inode or stat.st_size < self._offset:
                    self._clear()
                    self._inode, self._offset = stat.st_ino, 0
                file.seek(self._offset)
                text = file.read(CHUNK)
        except OSError:
            return
        whole, end, _ = text.rpartition(b"\n")
        self._offset += len(whole) + len(end)
        for line in whole.splitlines():
            with suppress(ValueError):
                self._add(json.loads(line))

    def _add(self, row: Any) -> None:
        step = row.get("step") if isinstance(row, Mapping) else None
        if not isinstance(step, int):
            return
        self.last_step = max(self.last_step, step)
        for name, curve in (("loss", self.training), ("validation_loss", self.validation)):
            loss = row.get(name)
            if isinstance(loss, int | float) and math.isfinite(loss):
                curve.add(step, loss)
