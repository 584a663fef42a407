"""Copies stderr to a log file, to which worker processes append, and defers signals during imports."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TextIO

from glassworks.errors import UserError

LOG = "GLASSWORKS_LOG"
"""Environment variable that holds the log file of the command, for its worker processes."""


class Tee:
    """A text stream that writes to two streams. It is not a terminal, so progress is printed as lines."""

    def __init__(self, first: TextIO, second: TextIO) -> None:
        self.streams = (first, second)

    def write(self, text: str) -> int:
        for stream in self.streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in self.streams:
            stream.flush()

    def isatty(self) -> bool:
        return False


@contextmanager
def copied_to(log: Path | None) -> Iterator[None]:
    """Copy stderr, errors included, to a new log file."""
    if log is None:
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    with log.open("a", buffering=1) as file, redirect_stderr(Tee(sys.stderr, file)):  # type: ignore[type-var]
        os.environ[LOG] = str(log.absolute())
        try:
            yield
        except UserError as error:
            print(f"error: {error}", file=file)
            raise
        finally:
            del os.environ[LOG]


@contextmanager
def appended_to_log() -> Iterator[None]:
    """Copy stderr of a worker process to the log of the command, if the command has a log."""
    if LOG not in os.environ:
        yield
        return
    with Path(os.environ[LOG]).open("a", buffering=1) as file, redirect_stderr(Tee(sys.stderr, file)):  # type: ignore[type-var]
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Block SIGINT and SIGTERM during an import: an exception while a compiled module initialises aborts, or is misreported as a module error."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
