"""One thread that answers requests one after another, and tells each how many are before it."""

import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any

import torch

from glassworks.errors import UserError

Event = dict[str, Any]
"""A part of an answer, as JSON."""
Events = Generator[Event, None, None]
MOST = 100
"""Requests that may wait."""
FAILED = "the model failed on this input; the terminal of the server shows why"


class Job:
    """A request with the function that takes the events of its answer; None ends them."""

    def __init__(self, answer: Callable[[], Events], send: Callable[[Event | None], None]) -> None:
        self.answer, self.send = answer, send
        self.cancelled = False


class Worker:
    """The thread and its queue."""

    def __init__(self, threads: int) -> None:
        """`threads` are those of torch."""
        self._threads, self._changed = threads, threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        threading.Thread(target=self._work, name="answers", daemon=True).start()

    @property
    def full(self) -> bool:
        """Whether no request can be added."""
        return len(self._waiting) >= MOST

    def add(self, job: Job) -> None:
        """Put a request at the end of the queue."""
        with self._changed:
            self._waiting.append(job)
            job.send({"ahead": len(self._waiting) - (self._running is None)})
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Drop a request: it is not begun, or ends after its next event."""
        job.cancelled = True
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                self._tell()

    def _tell(self) -> None:
        for ahead, job in enumerate(self._waiting, start=self._running is not None):
            job.send({"ahead": ahead})

    def _work(self) -> None:
        torch.set_num_threads(self._threads)  # OpenMP counts them for every thread
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                self._running = job = self._waiting.popleft()
                self._tell()
            _answer(job)
            with self._changed:
                self._running = None
            job.send(None)  # a request that follows the end of this answer has none before it


def _answer(job: Job) -> None:
    try:
        job.send({"begun": True})
        with closing(job.answer()) as events:
            for event in events:
                if job.cancelled:
                    return
                job.send(event)
    except UserError as error:
        job.send({"error": " ".join(str(error).split())})
    except MemoryError:
        job.send({"error": "there is not enough memory for this input"})
    except Exception:
        traceback.print_exc()
        job.send({"error": FAILED})
