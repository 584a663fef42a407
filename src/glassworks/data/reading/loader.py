"""Collated micro-batches from an order: rows are read, transformed and collated, optionally in worker processes.

The output depends on the order and the seed alone. It depends neither on the number of workers nor on the resumed step.
"""

import atexit
import errno
import re
import signal
import sys
import warnings
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from glassworks.data.reading.order import Pick, Picks, sample_seed
from glassworks.data.reading.rows import Keyed, Rows
from glassworks.errors import ResourceError, UserError

PREFETCH = 4
"""Micro-batches that each worker prefetches."""
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
"""A forked worker inherits the imported torch."""

R = TypeVar("R", bound=Keyed)
E = TypeVar("E")
B = TypeVar("B")


def micro_batches(
    dataset: Rows[R] | Sequence[Rows[R]],
    order: Picks,
    *,
    start_step: int,
    steps: int,
    batch_size: int,
    micro_batches: int,
    workers: int,
    transform: Callable[[R, int], E],
    collate: Callable[[list[E]], B],
    seed: int,
    part: range | None = None,
    start_method: str | None = None,
) -> Iterator[list[B]]:
    """An iterator over the steps start_step … start_step + steps - 1, each as its collated micro-batches in order.

    Step s consumes the positions s * batch_size … of the order. `part` selects micro-batches of a step (those of one
    rank of a distributed run). For a mixture, `dataset` is the sequence of its data sets. `transform(row, seed)` returns
    an example. Its randomness must derive from that seed alone, a function of (seed, epoch, key). `transform` and
    `collate` run in the workers, so a collated batch must not hold views of a sample.

    A `UserError` of a worker is raised here unchanged. Workers ignore SIGINT and SIGTERM and end with this iterator.
    """
    if batch_size % micro_batches:
        raise ValueError(f"{micro_batches} micro-batches do not divide a batch of {batch_size}")
    part = range(micro_batches) if part is None else part
    size = batch_size // micro_batches
    datasets: list[Rows[R]] = list(dataset) if isinstance(dataset, Sequence) else [dataset]
    with warnings.catch_warnings():
        # the user may ask for more workers than cores
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader: DataLoader[B] = DataLoader(
            _Examples(datasets, transform, collate, seed),
            batch_sampler=_Positions(order, range(start_step, start_step + steps), part, batch_size, size),
            collate_fn=_as_is,
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            worker_init_fn=_leave_signals_to_parent if workers else None,
            multiprocessing_context=(start_method or START_METHOD) if workers else None,
            generator=torch.Generator(),
        )
    batches: Generator[list[B], None, None] = _steps(loader, len(part))
    if workers:
        ending = partial(_close, weakref.ref(batches))
        atexit.register(ending)
        weakref.finalize(batches, atexit.unregister, ending).atexit = False
    return batches


class _Positions:
    """Yields the picks of each micro-batch."""

    def __init__(self, order: Picks, steps: range, part: range, batch_size: int, size: int) -> None:
        self.order, self.steps, self.part, self.batch_size, self.size = order, steps, part, batch_size, size

    def __len__(self) -> int:
        return len(self.steps) * len(self.part)

    def __iter__(self) -> Iterator[list[Pick]]:
        for step in self.steps:
            for number in self.part:
                start = step * self.batch_size + number * self.size
                yield self.order.picks(start, start + self.size)


class _Failure:
    """Carries an error out of a worker: torch would wrap its message in a traceback."""

    def __init__(self, error: UserError) -> None:
        self.error = error


class _Examples(Dataset[B], Generic[R, E, B]):
    """Maps the picks of a micro-batch to the collated micro-batch."""

    def __init__(
        self,
        datasets: list[Rows[R]],
        transform: Callable[[R, int], E],
        collate: Callable[[list[E]], B],
        seed: int,
    ) -> None:
        self.datasets, self.transform, self.collate, self.seed = datasets, transform, collate, seed

    def __getitems__(self, picks: list[Pick]) -> B | _Failure:
        try:
            batch = self.collate([self._example(pick) for pick in picks])
            if get_worker_info():  # here, since an error in the thread that sends batches would hang the training
                for value in getattr(batch, "__dict__", {}).values():
                    if isinstance(value, torch.Tensor):
                        value.share_memory_()
            return batch
        except UserError as error:
            return _Failure(error)
        except RuntimeError as error:
            if "shared memory" not in str(error) and "No space left" not in str(error):
                raise
            return _Failure(_no_shared_memory())

    def _example(self, pick: Pick) -> E:
        row = self.datasets[pick.dataset][pick.row]
        return self.transform(row, sample_seed(self.seed, pick.epoch, row.key))


def _check_shared_memory(workers: int) -> None:
    """Raise `ResourceError` if there is no room for the semaphores of the workers: torch fails half-way through its own."""
    try:
        held = [torch.multiprocessing.get_context(START_METHOD).Event() for _ in range(workers + 1)]
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise _no_shared_memory() from None
    del held


def _no_shared_memory() -> ResourceError:
    return ResourceError(
        "/dev/shm is full: loader workers pass batches through this memory; free some of it, give the container more (--shm-size), "
        "or set execution.loader_workers: 0"
    )


def _as_is(batch: B) -> B:
    return batch


def _steps(loader: DataLoader[B], per_step: int) -> Generator[list[B], None, None]:
    handler = signal.getsignal(signal.SIGCHLD)
    if loader.num_workers:
        _check_shared_memory(loader.num_workers)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")
        batches: Any = iter(loader)
    if signal.getsignal(signal.SIGCHLD) != handler:
        signal.signal(signal.SIGCHLD, handler)  # torch's handler raises at an arbitrary line when a worker dies
    try:
        step: list[B] = []
        for batch in batches:
            if isinstance(batch, _Failure):
                raise batch.error
            step.append(batch)
            if len(step) == per_step:
                yield step
                step = []
    except RuntimeError as error:
        if not re.search("DataLoader worker.*(exited unexpectedly|killed by signal)", str(error)):
            raise
        if "Bus error" in str(error):
            raise _no_shared_memory() from None
        first = str(error).splitlines()[0].rstrip(". ")
        raise ResourceError(
            f"a loader worker died ({first}), usually for lack of memory; use fewer loader_workers"
        ) from None
    finally:
        if loader.num_workers:  # explicitly: the traceback of an error may keep the iterator alive
            batches._shutdown_workers()


def _close(batches: "weakref.ref[Generator[list[B], None, None]]") -> None:
    """Shut the workers down at exit, before multiprocessing joins its children: workers ignore SIGTERM."""
    alive = batches()
    if alive is not None:
        alive.close()


def _leave_signals_to_parent(worker: int) -> None:
    """Ignore signals to the process group, and die with the training process.

    The training process handles the signal: it finishes its step and then shuts the workers down.
    """
    multiprocessing: Any = torch.multiprocessing  # its type stubs lack the function
    multiprocessing._prctl_pr_set_pdeathsig(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
