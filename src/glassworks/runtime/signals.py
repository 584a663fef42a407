"""Signals during training: TERM, USR2 and Ctrl-C request a checkpoint and a stop after the current step. A second Ctrl-C stops at once."""

import signal
from multiprocessing.process import parent_process
from types import FrameType, TracebackType
from typing import Any, NoReturn

from glassworks.errors import Interrupted, Stopped

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class StopRequest:
    """A context manager that catches these signals, except those that the process ignored before.

    In a worker process, the death of its parent counts as TERM.
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
        """For each of `SIGNALS` 1 if it was received, else 0. The loop sums them over ranks."""
        parent = parent_process()
        if parent is not None and signal.SIGTERM not in self.received and not parent.is_alive():
            self.received.append(signal.SIGTERM)
        return [int(number in self.received) for number in SIGNALS]

    def check(self) -> None:
        """End the process if a signal was received. For work without checkpoints."""
        counts = dict(zip(SIGNALS, self.counts(), strict=True))
        name = next((number for number, count in counts.items() if count), None)
        if name == signal.SIGINT:
            raise KeyboardInterrupt
        if name is not None:
            raise Stopped(f"{name.name}: stopped; the same command begins again")

    def end(self, counts: list[int], step: int) -> NoReturn:
        """End the run for the signals in `counts`. The state after `step` steps is on disk."""
        name = next(number for number, count in reversed(list(zip(SIGNALS, counts, strict=True))) if count)
        if name == signal.SIGINT:
            raise KeyboardInterrupt
        raise Interrupted(f"{name.name}: saved after step {step}; the same command continues from there")
