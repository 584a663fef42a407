"""Signals during training: TERM, USR2 and Ctrl-C ask for a stop at the next step boundary, where everything is saved; a second Ctrl-C stops at once."""

import signal
from multiprocessing.process import parent_process
from types import FrameType, TracebackType
from typing import Any

from glassworks.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class StopRequest:
    """A context manager that catches the signals above, but for those that this process was started to ignore.

    In a worker process, the end of the process that started it counts as TERM.
    """

    def __init__(self) -> None:
        self.received: list[signal.Signals] = []
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT in self.received:
            raise KeyboardInterrupt
        self.received.append(signal.Signals(number))

    def counts(self) -> list[int]:
        """For each of `SIGNALS` whether it has come; workers add these up."""
        parent = parent_process()
        if parent is not None and signal.SIGTERM not in self.received and not parent.is_alive():
            self.received.append(signal.SIGTERM)
        return [int(number in self.received) for number in SIGNALS]


def stop(counts: list[int], step: int) -> None:
    """End the run, whose state after `step` steps is on disk, as the signals in `counts` demand."""
    name = next(number for number, count in reversed(list(zip(SIGNALS, counts, strict=True))) if count)
    if name == signal.SIGINT:
        raise KeyboardInterrupt
    raise Interrupted(f"{name.name}: saved after step {step}; the same command continues from there")
