"""Held-out metrics, model selection and early stopping, all functions of the metrics log."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic

import torch

from glassworks.config.training import Selection
from glassworks.errors import ConfigError
from glassworks.training.metrics_log import LogRow, number, step_of
from glassworks.training.objective import to_device
from glassworks.training.precision import Precision
from glassworks.training.task import B, M, Trainable
from glassworks.training.workers import Workers
from glassworks.watchdog import beat

PREFIX = "validation_"


@dataclass(frozen=True)
class HeldOut(Generic[B]):
    """Held-out micro-batches, cut independently of the number of workers."""

    count: int
    read: Callable[[range], Iterator[B]]
    """Yields the micro-batches of a range."""
    sets: Mapping[str, range] = field(default_factory=dict)
    """The micro-batches of each set, by name; empty for a single set."""


@torch.no_grad()
def validate(
    model: M, task: Trainable[M, B], held_out: HeldOut[B], precision: Precision, workers: Workers
) -> dict[str, float]:
    """Weighted means over the held-out data and over each of several sets: {"validation_loss": …, "validation_loss.NAME": …}.

    Each rank validates a contiguous block. Sums are added in the order of the data.
    """
    model.eval()
    own, most = workers.part(held_out.count), math.ceil(held_out.count / workers.size)
    rows = []
    for batch in held_out.read(own):
        with precision.autocast():
            found = task.validate(model, to_device(batch, workers.device))
        rows.append([number for name in task.metrics for number in found[name]])
        beat()
    if len(own) < most and any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
        for batch in held_out.read(range(1)):  # gathering sharded weights is a collective
            task.validate(model, to_device(batch, workers.device))
    padded = torch.full((most, 2 * len(task.metrics)), math.nan, dtype=torch.float64, device=workers.device)
    if rows:
        padded[: len(rows)] = torch.tensor(rows, dtype=torch.float64)
    # a weight is NaN in padding only
    gathered = [row for row in workers.gather(padded).tolist() if not math.isnan(row[1])]
    means = _means(task.metrics, gathered)
    for name, part in held_out.sets.items():
        of_set = _means(task.metrics, gathered[part.start : part.stop])
        means |= {f"{metric}.{name}": mean for metric, mean in of_set.items()}
    return means


def _means(metrics: Sequence[str], rows: Sequence[Sequence[float]]) -> dict[str, float]:
    """The weighted mean of each metric. Each row holds the sum and the weight of every metric in turn."""
    totals = [math.fsum(column) for column in zip(*rows, strict=True)]
    pairs = zip(totals[0::2], totals[1::2], strict=True)
    return {PREFIX + name: total / weight for name, (total, weight) in zip(metrics, pairs, strict=True)}


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
        if value < self.best:
            self.best_step, self.best, self.waited = step_of(row), value, 0
        else:
            self.waited += 1

    @property
    def exhausted(self) -> bool:
        """Whether training stops early."""
        return self.selection.patience is not None and self.waited >= self.selection.patience
