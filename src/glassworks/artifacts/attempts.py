"""Who runs a stage, and its earlier attempts: small files in .work/ for `glassworks watch`. No stage reads them, and an error in writing them is ignored."""

import json
import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import psutil

FILE = "attempts.jsonl"
SECONDS = 2.0
"""Largest difference between the start of a process and the time in its lock, where the process id is not reused."""


@dataclass(frozen=True)
class Holder:
    """The process that holds the lock of a stage."""

    host: str
    pid: int
    started: float
    """Seconds since 1970."""

    @property
    def is_here(self) -> bool:
        """Whether it was started on this machine, which can look for it."""
        return self.host == platform.node()

    def is_alive(self) -> bool:
        """Whether the process runs on this machine. A later process with its id does not count."""
        try:
            process = psutil.Process(self.pid)
            return process.create_time() <= self.started + SECONDS and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


@dataclass
class Attempt:
    """A start of a stage that had not finished before."""

    started: float
    host: str
    resumed_after: list[int] = field(default_factory=list)
    """The step that a training continued from."""


def hold(lock: TextIO) -> None:
    """Write this process into the lock that it holds, a file opened to append."""
    with suppress(OSError):
        lock.truncate(0)
        lock.write(json.dumps({"host": platform.node(), "pid": os.getpid(), "started": time.time()}))
        lock.flush()


def release(lock: TextIO) -> None:
    """Empty the lock: the stage ended, in whatever way, but was not killed."""
    with suppress(OSError):
        lock.truncate(0)


def read_holder(lock: Path) -> Holder | None:
    """The process in a lock; None for an empty, unreadable or missing one."""
    try:
        found = json.loads(lock.read_text())
        return Holder(str(found["host"]), int(found["pid"]), float(found["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def begin(work: Path) -> None:
    """Note that a stage starts in its work directory."""
    _append(work, {"started": time.time(), "host": platform.node()})


def resume(work: Path, step: int) -> None:
    """Note that the training in this work directory continues after a step."""
    _append(work, {"resumed_after": step})


def read_attempts(work: Path) -> list[Attempt]:
    """The attempts of the stage in a work directory, the first one first. A damaged line is left out."""
    try:
        lines = (work / FILE).read_text().splitlines()
    except (OSError, ValueError):
        return []
    found: list[Attempt] = []
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            if "resumed_after" not in entry:
                found.append(Attempt(float(entry["started"]), str(entry["host"])))
            elif found:
                found[-1].resumed_after.append(int(entry["resumed_after"]))
    return found


def _append(work: Path, entry: dict[str, object]) -> None:
    with suppress(OSError), (work / FILE).open("a") as file:
        file.write(json.dumps(entry) + "\n")
