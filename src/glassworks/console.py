"""What is shown on stderr, and its copy in a log file, to which worker processes append; and when Ctrl-C is heard."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TextIO

from glassworks.errors import UserError

LOG = "GLASSWORKS_LOG"
"""Environment variable that tells worker processes the log of the command they work for."""


class Tee:
    """A text stream written twice; not a terminal, so progress comes as lines."""

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
    """In a worker process: copy stderr to the log of the command, if it has one."""
    if LOG not in os.environ:
        yield
        return
    with Path(os.environ[LOG]).open("a", buffering=1) as file, redirect_stderr(Tee(sys.stderr, file)):  # type: ignore[type-var]
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C and TERM during an import: compiled modules that meet an exception while they set themselves up abort, or call it a fault of their own."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
