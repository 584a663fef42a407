"""The order in which many URLs of many hosts are tried: few at a time from one host, again after a wait, none twice at a time."""

import heapq
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Task(NamedTuple):
    """An attempt that is due."""

    not_before: float
    """Time of the monotonic clock."""
    number: int
    """Place in the list of URLs. A negative one opens the host: -1 - place of a URL of the origin."""
    attempts: int
    """Earlier attempts."""


@dataclass
class _Host:
    first: list[Task] = field(default_factory=list)
    """Heap of the tasks that open the host. The others wait for them."""
    rest: list[Task] = field(default_factory=list)
    """Heap."""
    opening: int = 0
    """Tasks among `first` that are not finished."""
    active: int = 0
    not_before: float = 0.0
    queued: bool = False

    @property
    def due(self) -> list[Task]:
        return self.first if self.opening else self.rest


class Schedule:
    """Tasks of hosts. Threads `take` a task and then call `finish` or `again`."""

    def __init__(self, tasks: Iterable[tuple[str, int]], per_host: int) -> None:
        """`tasks` are hosts and numbers."""
        self.per_host, self.left, self.stopped = per_host, 0, False
        self._hosts: dict[str, _Host] = {}
        self._ready: list[tuple[float, int, str]] = []
        """Heap of the hosts that may be asked: when, the number of the task, the name."""
        self._changed = threading.Condition()
        for name, number in tasks:
            host = self._hosts.setdefault(name, _Host())
            host.opening += number < 0
            (host.first if number < 0 else host.rest).append(Task(0.0, number, 0))
            self.left += 1
        for name, host in self._hosts.items():
            heapq.heapify(host.first)
            heapq.heapify(host.rest)
            self._queue(name)

    def take(self) -> tuple[str, Task] | None:
        """The next task and its host, as soon as it is due; None when all are finished or `stop` was called."""
        with self._changed:
            while self.left and not self.stopped:
                wait = self._ready[0][0] - time.monotonic() if self._ready else None
                if wait is None or wait > 0:
                    self._changed.wait(wait)
                    continue
                name = heapq.heappop(self._ready)[2]
                host = self._hosts[name]
                host.queued = False
                if not host.due:  # its tasks were dropped
                    continue
                if max(host.not_before, host.due[0].not_before) > time.monotonic():  # it asked for a pause meanwhile
                    self._queue(name)
                    continue
                task = heapq.heappop(host.due)
                host.active += 1
                self._queue(name)
                return name, task
            return None

    def finish(self, name: str, task: Task) -> None:
        """End a task. If it was the last to open its host, the others may begin."""
        with self._changed:
            host = self._hosts[name]
            host.active -= 1
            host.opening -= task.number < 0
            self.left -= 1
            self._queue(name)
            self._changed.notify_all()

    def waiting(self, name: str) -> list[int]:
        """The numbers of the tasks that wait until a host is open."""
        with self._changed:
            return [task.number for task in self._hosts[name].rest]

    def drop(self, name: str, numbers: set[int]) -> None:
        """Remove tasks of a host that is not open yet. Call it before `finish`."""
        with self._changed:
            host = self._hosts[name]
            host.rest = [task for task in host.rest if task.number not in numbers]
            heapq.heapify(host.rest)
            self.left -= len(numbers)
            self._changed.notify_all()

    def again(self, name: str, task: Task, wait: float, whole_host: bool) -> None:
        """Put a task back, to be tried after `wait` seconds. With `whole_host` its host is left alone for as long."""
        with self._changed:
            host, then = self._hosts[name], time.monotonic() + wait
            host.active -= 1
            if whole_host:
                host.not_before = max(host.not_before, then)
            heapq.heappush(host.first if task.number < 0 else host.rest, Task(then, task.number, task.attempts + 1))
            self._queue(name)
            self._changed.notify_all()

    def stop(self) -> None:
        """Let every `take` return None."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    def _queue(self, name: str) -> None:
        """List a host as ready, unless it is, has nothing to do or is busy."""
        host = self._hosts[name]
        if host.due and not host.queued and host.active < (1 if host.opening else self.per_host):
            host.queued = True
            when = max(host.not_before, host.due[0].not_before)
            heapq.heappush(self._ready, (when, host.due[0].number, name))
