"""Ends a process that makes no progress, such as a collective that hangs or a file system that does not respond.

Code that advances a stage calls `beat`: after a step, a batch, a sample read, a file flushed to disk. Work that is legitimately slow and silent runs
in `unwatched`.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, TextIO

from glassworks.console import LOG

FAREWELL_SECONDS = 60
"""Time limit for writing the stacks and the error: the log may be on the file system that does not respond."""

PATIENCE = 4
"""The limit for a thread that holds the GIL, as a multiple of the watchdog's."""


class Watchdog:
    """A context manager that calls `end` after `seconds` without a `beat`, with the stacks of all threads already in the log.

    `end` must not return. With `seconds` None nothing is watched. The watchdog is a thread. It cannot run while a thread that waits for a page of a
    file holds the GIL. The thread of faulthandler then dumps the stacks and exits with code 1, after a longer time: it cannot tell that the process was stopped.

    Time during which the process is stopped (Ctrl-Z, SIGSTOP) or the machine sleeps does not count. After SIGSTOP, this holds up to `PATIENCE` times `seconds`.
    """

    current: ClassVar["Watchdog | None"] = None

    def __init__(self, seconds: float | None, end: Callable[[str], None]) -> None:
        self.seconds, self.end = seconds, end
        self.last, self.unwatched = time.monotonic(), 0
        self.over = threading.Event()

    def __enter__(self) -> "Watchdog":
        if self.seconds is not None:
            Watchdog.current, self.last = self, time.monotonic()
            if (
                threading.current_thread() is threading.main_thread()
                and signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL
            ):
                signal.signal(signal.SIGTSTP, _stop)
            self.thread = threading.Thread(target=self._watch, args=(self.seconds,), name="watchdog", daemon=True)
            self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.seconds is not None:
            self.over.set()
            self.thread.join()
            Watchdog.current = None
            if signal.getsignal(signal.SIGTSTP) == _stop:
                signal.signal(signal.SIGTSTP, signal.SIG_DFL)

    def _watch(self, seconds: float) -> None:
        with _log() as log:
            tick = min(1.0, seconds / 4)
            while True:
                faulthandler.dump_traceback_later(PATIENCE * seconds + FAREWELL_SECONDS, exit=True, file=log)
                before = time.monotonic()
                if self.over.wait(tick):
                    break
                # a longer tick: the process was stopped, the machine slept, or a thread held the GIL
                if (elapsed := time.monotonic() - before) > 2 * tick:
                    self.last += elapsed - tick
                if not self.unwatched and time.monotonic() - self.last > seconds:
                    signal.alarm(FAREWELL_SECONDS)
                    faulthandler.dump_traceback(log, all_threads=True)
                    self.end(_message(seconds))
            faulthandler.cancel_dump_traceback_later()


def _stop(*_: object) -> None:
    """Stop this process on Ctrl-Z, without the timer of faulthandler, which would fire on waking. The next tick starts it again."""
    faulthandler.cancel_dump_traceback_later()
    os.kill(os.getpid(), signal.SIGSTOP)
    beat()


def beat() -> None:
    """Report progress to the watchdog."""
    if Watchdog.current:
        Watchdog.current.last = time.monotonic()


@contextmanager
def unwatched() -> Iterator[None]:
    """Suspend the watchdog around work that is legitimately slow and silent: waiting for a lock, running another program."""
    watchdog = Watchdog.current
    if watchdog is None:
        yield
        return
    watchdog.unwatched += 1
    try:
        yield
    finally:
        beat()
        watchdog.unwatched -= 1


def limit() -> float | None:
    """Seconds without progress after which this process is ended; None without a watchdog."""
    return Watchdog.current.seconds if Watchdog.current else None


def _message(seconds: float) -> str:
    where = os.environ.get(LOG)
    return (
        f"no progress for {seconds / 60:g} minutes (watchdog_minutes in params.yaml): something hangs; the stacks of all threads are "
        f"{f'in {os.path.relpath(where)}' if where else 'above'}; the same command continues where it can"
    )


@contextmanager
def _log() -> Iterator[TextIO]:
    """The log of the command, or the original stderr, since faulthandler writes to a file descriptor."""
    if LOG in os.environ:
        with open(os.environ[LOG], "a") as file:  # noqa: PTH123
            yield file
    else:
        assert sys.__stderr__
        yield sys.__stderr__
