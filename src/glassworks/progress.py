"""Progress display for work that takes longer than a few seconds.

A terminal shows a bar (rich). A log file, a pipe or Snakemake gets one line every few seconds instead, because several jobs share that output. Both
show rate and time left. Progress is written to stderr, never to an artefact.
"""

import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from glassworks.watchdog import beat

T = TypeVar("T")
LINE_SECONDS = 5.0


def clock(seconds: float) -> str:
    """Human-readable duration: 7s, 3:05, 1:02:09."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


LINE = re.compile(
    r"(?P<label>\S.*?)  (?P<done>[\d,]+)/(?P<total>[\d,]+)  (?:(?P<note>\S.*?)  )?"
    r"(?P<rate>[\d,.]+) (?P<unit>\S+)/s  (?P<left>\d+s|(?:\d+:)?\d+:\d\d) left"
)
DONE = re.compile(r"(?P<label>\S.*?)  done in (?:\d+s|(?:\d+:)?\d+:\d\d)")


@dataclass(frozen=True)
class ProgressLine:
    """A line of progress in a log."""

    label: str
    done: int
    total: int
    note: str
    rate: float
    """Units in a second."""
    unit: str
    left: int
    """Seconds."""


def read_line(text: str) -> ProgressLine | None:
    """The progress that a line of a log says; None for any other line."""
    found = LINE.fullmatch(text)
    if not found:
        return None
    done, total = (int(found[name].replace(",", "")) for name in ("done", "total"))
    left = 0
    for part in found["left"].removesuffix("s").split(":"):
        left = 60 * left + int(part)
    rate = float(found["rate"].replace(",", ""))
    return ProgressLine(found["label"], done, total, found["note"] or "", rate, found["unit"], left)


class Progress:
    """A count towards a total. Use as a context manager; call `advance` as work is done.

    `initial` is the work done by an earlier, interrupted run. It counts as done, but not towards the rate. With `silent` nothing is shown.
    """

    def __init__(self, label: str, total: int, unit: str = "it", initial: int = 0, silent: bool = False) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done, self.initial, self.silent = initial, initial, silent
        self.start = self.last_line = time.monotonic()
        self.bar = self.task = None
        if sys.stderr.isatty() and not silent:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self.bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.task = self.bar.add_task(label, total=total, completed=initial, note="")

    def __enter__(self) -> "Progress":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
        elif kind is None and time.monotonic() - self.start > LINE_SECONDS:
            self._line(f"done in {clock(time.monotonic() - self.start)}")

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units as done; `note` is shown beside the bar (a loss, a file name)."""
        beat()
        self.done += count
        now = time.monotonic()
        rate = (self.done - self.initial) / max(now - self.start, 1e-9)
        speed = f"{rate:,.1f} {self.unit}/s" if rate < 100 else f"{rate:,.0f} {self.unit}/s"
        text = f"{note}  {speed}" if note else speed
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=self.done, note=text)
        elif now - self.last_line >= LINE_SECONDS:
            left = (self.total - self.done) / rate if rate else 0
            self._line(f"{self.done:,}/{self.total:,}  {text}  {clock(left)} left")
            self.last_line = now

    def _line(self, text: str) -> None:
        if not self.silent:
            print(f"{self.label}  {text}", file=sys.stderr, flush=True)


def track(items: Iterable[T], label: str, total: int, unit: str = "it") -> Iterator[T]:
    """Yield from `items` while showing progress."""
    with Progress(label, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()
