"""Signals during training: the first asks for a stop at the next step boundary, where everything is saved; a second Ctrl-C stops at once."""

import signal
import sys
from types import FrameType, TracebackType
from typing import Any

from glassworks.errors import Interrupted


class StopRequest:
    """A context manager that catches TERM, USR2 and INT. `raise_if_asked` belongs after the state has been saved."""

    SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        print(f"{self.received.name}: stopping after this step", file=sys.stderr, flush=True)

    def raise_if_asked(self, step: int) -> None:
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received:
            raise Interrupted(f"{self.received.name}: saved after step {step}; the same command continues from there")
