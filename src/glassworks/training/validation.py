"""Held-out metrics, model selection and early stopping, all functions of the metrics log."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, NoReturn

import torch

from glassworks.config.training import Selection
from glassworks.errors import ConfigError, DataError
from glassworks.training.metrics_log import LogRow, number, step_of
from glassworks.training.objective import to_device
from glassworks.training.precision import Precision
from glassworks.training.task import B, M, Trainable
from glassworks.training.workers import PeerLost, Workers
from glassworks.watchdog import beat

PREFIX = "validation_"


@dataclass(frozen=True)
class HeldOut(Generic[B]):
    """Held-out micro-batches, cut independently of the number of workers."""

    count: int
    read: Callable[[range], Iterator[B]]
    """Yields the micro-batches of a range."""
    sets: Mapping[str, range] = field(default_factory=dict)
    """The micro-batches of each set, by name."""


@torch.no_grad()
def validate(
    model: M, task: Trainable[M, B], held_out: HeldOut[B], precision: Precision, workers: Workers, step: int
) -> dict[str, float]:
    """Weighted means over the held-out data and over each of several sets: {"validation_loss": …, "validation_loss.NAME": …}.

    Each rank validates a contiguous block. Sums are added in the order of the data. Raises `DataError` with the step, the data set and the sample keys for
    a sum that is not finite, and with the data set if it has no target.
    """
    model.eval()
    fault: tuple[int, str, float, list[str]] | None = None
    own, most = workers.part(held_out.count), math.ceil(held_out.count / workers.size)
    rows = []
    for batch in held_out.read(own):
        with precision.autocast():
            found = task.validate(model, to_device(batch, workers.device))
        rows.append([number for name in task.metrics for number in found[name]])
        wrong = [(name, value) for name in task.metrics for value in found[name] if not math.isfinite(value)]
        if wrong and fault is None:
            fault = own.start + len(rows) - 1, *wrong[0], batch.keys
        beat()
    if len(own) < most and any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
        for batch in held_out.read(range(1)):  # gathering sharded weights is a collective
            task.validate(model, to_device(batch, workers.device))
    padded = torch.zeros((most, 2 * len(task.metrics)), dtype=torch.float64, device=workers.sums)
    if rows:
        padded[: len(rows)] = torch.tensor(rows, dtype=torch.float64)
    blocks = workers.gather(padded).view(workers.size, most, -1).tolist()
    counts = [len(replace(workers, rank=rank).part(held_out.count)) for rank in range(workers.size)]
    gathered = [row for block, count in zip(blocks, counts, strict=True) for row in block[:count]]
    if not all(map(math.isfinite, (number for row in gathered for number in row))):
        _raise_not_finite(fault, held_out.sets, workers, step)
    means = _means(task.metrics, gathered, f"step {step}: the held-out data")
    if len(held_out.sets) > 1:
        for name, part in held_out.sets.items():
            of_set = _means(
                task.metrics, gathered[part.start : part.stop], f"step {step}: the held-out data of {name!r}"
            )
            means |= {f"{metric}.{name}": mean for metric, mean in of_set.items()}
    return means


def _raise_not_finite(
    fault: tuple[int, str, float, list[str]] | None, sets: Mapping[str, range], workers: Workers, step: int
) -> NoReturn:
    """Raise `DataError` on the ranks with a faulty micro-batch; other ranks wait and end with their peer."""
    if fault is None:
        workers.barrier()
        raise PeerLost("another rank has the faulty micro-batch")
    index, metric, value, keys = fault
    name = next((f" of {name!r}" for name, part in sets.items() if index in part), "")
    raise DataError(
        f"step {step}: {PREFIX}{metric} of the held-out data{name} is {value}; samples: {', '.join(keys)}; "
        "lower the learning rate or look at these samples; the last good checkpoint stays"
    )


def _means(metrics: Sequence[str], rows: Sequence[Sequence[float]], where: str) -> dict[str, float]:
    """The weighted mean of each metric that has a weight. Each row holds the sum and the weight of every metric in turn."""
    totals = [math.fsum(column) for column in zip(*rows, strict=True)]
    found = {name: pair for name, pair in zip(metrics, zip(totals[0::2], totals[1::2], strict=True), strict=True)}
    if not found[metrics[0]][1]:
        raise DataError(f"{where} has no target; look at its samples")
    return {PREFIX + name: total / weight for name, (total, weight) in found.items() if weight}


RISE = 1.01
"""A validation loss this much above its lowest has risen."""


def memorised_after(rows: Sequence[LogRow]) -> int | None:
    """The step of the lowest validation loss, if it rose by 1 % or more until the end while the training loss fell; None otherwise."""
    held_out = [(number(row, "validation_loss"), step_of(row)) for row in rows if "validation_loss" in row]
    losses = [(number(row, "loss"), step_of(row)) for row in rows if "loss" in row]
    if not held_out or not losses:
        return None
    lowest, best = min(held_out)
    share = max(1, len(losses) // 20)
    before = [loss for loss, step in losses if step <= best][-share:]
    after = [loss for loss, _ in losses][-share:]
    fell = sum(after) / len(after) < sum(before) / len(before)
    return best if held_out[-1][0] >= RISE * lowest and held_out[-1][0] > lowest and fell else None


class ValidationHistory:
    """The best validation so far and the patience left, from the rows of the log."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.clear()

    def clear(self) -> None:
        """Forget all rows."""
        self.best_step: int | None = None
        self.best = math.inf
        self.waited = 0
        """Validations since the best one."""

    def add(self, row: LogRow) -> None:
        """Account for a row of the log; training rows are ignored."""
        metrics = [name for name in row if name.startswith(PREFIX)]
        if not metrics:
            return
        if self.selection.metric not in row:
            raise ConfigError(
                f"training.selection.metric: this task has no {self.selection.metric!r}; it has {', '.join(sorted(metrics))}"
            )
        value = number(row, self.selection.metric) * (-1 if self.selection.mode == "max" else 1)
        if math.isfinite(value) and value < self.best:
            self.best_step, self.best, self.waited = step_of(row), value, 0
        else:
            self.waited += 1

    @property
    def exhausted(self) -> bool:
        """Whether training stops early."""
        return self.selection.patience is not None and self.waited >= self.selection.patience
