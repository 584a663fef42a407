"""From an order to batches: reads, transforms and collates samples, in worker processes when asked.

What comes out depends on the order and the seed alone: not on the number of workers, nor on where the run was resumed.
"""

import atexit
import re
import signal
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from glassworks.data.reading.dataset import Sample, ShardDataset
from glassworks.data.reading.order import Pick, sample_seed
from glassworks.errors import ResourceError, UserError

PREFETCH = 4
"""Micro-batches that each worker prepares ahead."""
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
"""A forked worker need not import torch again."""


class Picks(Protocol):
    """An `Order`, `InOrder` or `Mixture`."""

    def picks(self, start: int, stop: int) -> list[Pick]: ...


def micro_batches(
    dataset: ShardDataset | Sequence[ShardDataset],
    order: Picks,
    *,
    start_step: int,
    steps: int,
    batch_size: int,
    micro_batches: int,
    workers: int,
    transform: Callable[[Sample, int], Any],
    collate: Callable[[list[Any]], Any],
    seed: int,
    part: range | None = None,
    start_method: str | None = None,
) -> Iterator[list[Any]]:
    """Yield, for each of the steps start_step … start_step + steps - 1, its collated micro-batches in order.

    Step s consumes the positions s * batch_size … of the order; `part` picks some of its micro-batches (those of one
    worker of a distributed run). A mixture takes the sequence of its data sets. `transform(sample, seed)` makes a
    training example; everything random in it must come from that seed, a function of (seed, epoch, key). Both functions
    run in the workers, so nothing that holds views of the sample may leave `collate`.

    A `UserError` raised in a worker arrives here as it was raised. The workers leave signals to this process and end
    with this iterator.
    """
    if batch_size % micro_batches:
        raise ValueError(f"{micro_batches} micro-batches do not divide a batch of {batch_size}")
    part = range(micro_batches) if part is None else part
    size = batch_size // micro_batches
    datasets = list(dataset) if isinstance(dataset, Sequence) else [dataset]
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "This DataLoader will create"
        )  # more workers than cores are the user's choice
        loader = DataLoader(
            _Examples(datasets, transform, collate, seed),
            batch_sampler=_Positions(order, range(start_step, start_step + steps), part, batch_size, size),
            collate_fn=_as_is,
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            worker_init_fn=_leave_signals_to_the_parent if workers else None,
            multiprocessing_context=(start_method or START_METHOD) if workers else None,
            generator=torch.Generator(),
        )
    batches = _steps(loader, len(part))
    if workers:
        ending = partial(_close, weakref.ref(batches))
        atexit.register(ending)
        weakref.finalize(batches, atexit.unregister, ending).atexit = False
    return batches


class _Positions:
    """For each micro-batch the samples it is made of."""

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
    """An error on its way from a worker: torch would wrap its line in a traceback."""

    def __init__(self, error: UserError) -> None:
        self.error = error


class _Examples(Dataset):
    """Whole micro-batches by their picks, so that reading, transforming and collating happen in one place."""

    def __init__(
        self,
        datasets: list[ShardDataset],
        transform: Callable[[Sample, int], Any],
        collate: Callable[[list[Any]], Any],
        seed: int,
    ) -> None:
        self.datasets, self.transform, self.collate, self.seed = datasets, transform, collate, seed

    def __getitems__(self, picks: list[Pick]) -> Any:
        try:
            return self.collate([self._example(pick) for pick in picks])
        except UserError as error:
            return _Failure(error)

    def _example(self, pick: Pick) -> Any:
        sample = self.datasets[pick.dataset][pick.index]
        return self.transform(sample, sample_seed(self.seed, pick.epoch, sample.key))


def _as_is(batch: Any) -> Any:
    return batch


def _steps(loader: DataLoader, per_step: int) -> Iterator[list[Any]]:
    handler = signal.getsignal(signal.SIGCHLD)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")
        batches: Any = iter(loader)
    if signal.getsignal(signal.SIGCHLD) != handler:
        signal.signal(signal.SIGCHLD, handler)  # torch's would raise wherever the death of a worker meets this process
    try:
        step = []
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
        first = str(error).splitlines()[0].rstrip(". ")
        raise ResourceError(
            f"a loader worker ended ({first}), mostly for want of memory; use fewer loader_workers"
        ) from None
    finally:
        if (
            loader.num_workers
        ):  # asked by name: the traceback of an error may hold the iterator, and with it the workers, for longer
            batches._shutdown_workers()


def _close(batches: "weakref.ref[Any]") -> None:
    """At exit, before multiprocessing waits for its children: workers that ignore SIGTERM must have been told."""
    alive = batches()
    if alive is not None:
        alive.close()


def _leave_signals_to_the_parent(worker: int) -> None:
    """A signal to the process group is for the training process, which finishes its step and then ends the workers; should it be killed, they go with it."""
    torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
