"""One optimizer step: a pure function of (weights, moments, loss scale, step number, data)."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from glassworks.config.optimization import Optimization
from glassworks.config.training import Training
from glassworks.errors import ConfigError, DataError
from glassworks.training.average import WeightAverage
from glassworks.training.fast_reduction import DataParallel, ShardedDataParallel
from glassworks.training.objective import Objective, couple, to_device
from glassworks.training.parameters import ParameterGroups
from glassworks.training.precision import Precision
from glassworks.training.reduction import ExactReduction, TreeSum, clip_by_norm
from glassworks.training.sharding import shard
from glassworks.training.task import B, CoupledTask, M, Trainable
from glassworks.training.workers import Workers

Signals = Callable[[], Sequence[int]]
"""Returns counts of received signals."""


@dataclass(frozen=True)
class StepResult:
    """The logged values of a step, identical on all ranks."""

    loss: float
    """Weighted mean over the global batch."""
    weight: int
    """Weight of the global batch (target tokens, samples)."""
    rates: dict[str, float]
    """Learning rate of each parameter group."""
    gradient_norm: float
    """Before clipping."""
    loss_scale: float | None
    """None without fp16."""
    signals: list[int]
    """Counts of received signals summed over ranks, so that all ranks make the same decision."""


def seed_generators(*parts: int | str) -> None:
    """Seed torch's generators by a digest of `parts`, so that no draw depends on earlier ones."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    seed = int.from_bytes(digest[:8], "big") >> 1
    torch.default_generator.manual_seed(seed)  # torch.manual_seed queries every device type: slow per micro-batch
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


class Trainer(Generic[M, B]):
    """A model, its optimizer and all other state that a step changes."""

    def __init__(
        self,
        model: M,
        task: Trainable[M, B],
        optimization: Optimization,
        training: Training,
        seed: int,
        workers: Workers,
    ) -> None:
        self.model, self.task, self.config, self.training = model, task, optimization, training
        self.seed, self.workers = seed, workers
        self.objective = Objective(model, task)
        if training.reduction == "fsdp2":
            if isinstance(task, CoupledTask):
                raise ConfigError(
                    "training.reduction: fsdp2 does not go with a loss that couples the batch; use exact or ddp"
                )
            shard(model, workers)
        self.groups = ParameterGroups(model, optimization, training.steps)
        self.optimizer = self.groups.make_optimizer()
        self.precision = Precision(training.precision, workers.device)
        self.average = WeightAverage(model, training.ema_decay) if training.ema_decay is not None else None
        self.parameters: list[nn.Parameter] = []
        self.reduction: ExactReduction | DataParallel | ShardedDataParallel

    def step(self, batches: Sequence[B], step: int, signals: Signals = tuple) -> StepResult:
        """The result of step `step` (from 0) on a global batch; `batches` are the micro-batches of this rank in order.

        Gradients of loss sums are added in a fixed tree and divided by the total weight, so every token has the same weight in any micro-batch. Raises
        `DataError` with the step, the micro-batch and the sample keys when a loss is not finite.
        """
        if self.groups.prepare(step):
            self._prepare_reduction(step)
        batches = [to_device(batch, self.workers.device) for batch in batches]
        first = self.workers.rank * len(batches)
        direct = None
        if isinstance(self.task, CoupledTask):
            sums, direct = self._coupled_pass(self.task, batches, step, first, signals)
        else:
            sums = self._plain_pass(batches, step, first, signals)
        with record_function("reduce"):
            gradients = self.reduction.total()
            total, weight, *seen = sums().tolist()
        with record_function("optimize"):
            norm, rates, scale = self._update(gradients, direct, weight, step)
        return StepResult(total / weight, int(weight), rates, norm, scale, [int(count) for count in seen])

    def _all_reduce(self, loss: float, weight: float, signals: Signals) -> Callable[[], Tensor]:
        """Start to sum loss, weight and signal counts over all ranks; returns a function that waits for the sums."""
        return self.reduction.all_reduce_async(
            torch.tensor([loss, weight, *signals()], dtype=torch.float64, device=self.workers.device)
        )

    def _plain_pass(self, batches: Sequence[B], step: int, first: int, signals: Signals) -> Callable[[], Tensor]:
        """Forward and backward pass of every micro-batch; returns the function of `_all_reduce`."""
        losses, weight = TreeSum(), 0
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            seed_generators(self.seed, step, first + index)
            with self.reduction.sync_context(last):
                with self.precision.autocast(), record_function("forward"):
                    loss, count = self.reduction.module(batch)
                self._check(loss, step, first + index, batch)
                losses.add([loss.detach().double()])
                weight += count
                if last:
                    sums = self._all_reduce(losses.total()[0].item(), weight, signals)
                with record_function("backward"):
                    self.reduction.add(self.precision.scaled(loss).backward, last)
        return sums

    def _coupled_pass(
        self, task: CoupledTask[M, B], batches: Sequence[B], step: int, first: int, signals: Signals
    ) -> tuple[Callable[[], Tensor], list[Tensor | None]]:
        """The two passes of a coupled loss; returns the function of `_all_reduce` and the direct gradients."""
        embeddings = []
        for index, batch in enumerate(batches):
            seed_generators(self.seed, step, first + index)
            with torch.no_grad(), self.precision.autocast(), record_function("embed"):
                embeddings.append(self.objective(batch))
        with self.precision.autocast(), record_function("couple"):
            seed_generators(self.seed, step, "loss")
            coupling = couple(self.model, task, embeddings, self.parameters, self.workers)
        self._check(coupling.loss, step, first, *batches)
        size = self.workers.size  # a power of two: division is exact
        sums = self._all_reduce(coupling.loss.double().item() / size, coupling.weight / size, signals)
        scale = self.precision.scaled(torch.ones((), device=self.workers.device))
        for index, (batch, gradients) in enumerate(zip(batches, coupling.embedding_gradients, strict=True)):
            last = index == len(batches) - 1
            seed_generators(self.seed, step, first + index)
            with self.reduction.sync_context(last):
                with self.precision.autocast(), record_function("forward"):
                    again = self.reduction.module(batch)
                pairs = [(again[name], gradients[name] * scale) for name in again if again[name].requires_grad]
                with record_function("backward"):
                    self.reduction.add(partial(_backward, pairs), last)
        return sums, coupling.direct

    def _update(
        self, gradients: list[Tensor], direct: list[Tensor | None] | None, weight: float, step: int
    ) -> tuple[float, dict[str, float], float | None]:
        """Divide by the weight, clip and step; returns the norm, the rates and the loss scale."""
        scale = self.precision.scaler.get_scale() if self.precision.scaler.is_enabled() else None
        for gradient, more in zip(gradients, direct or (), strict=False):
            if more is not None:
                gradient.add_(more, alpha=scale or 1.0)
        torch._foreach_div_(gradients, weight)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.precision.unscale(self.optimizer)
        norm = clip_by_norm(gradients, self.config.clip_norm)
        rates = self.groups.set_rates(self.optimizer, step)
        self.precision.step(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(step)
        return norm, rates, scale

    def _prepare_reduction(self, step: int) -> None:
        """Reduce the gradients of the parameters trained now, and drop the optimizer state of frozen ones."""
        if self.parameters:
            self.reduction.close()
        self.parameters = self.groups.trained(step)
        if self.training.reduction == "exact":
            self.reduction = ExactReduction(self.objective, self.parameters, self.workers)
        elif self.training.reduction == "ddp":
            partly_used = isinstance(self.task, CoupledTask)
            self.reduction = DataParallel(self.objective, self.parameters, self.workers, partly_used)
        else:
            self.reduction = ShardedDataParallel(self.objective, self.model, self.parameters, self.workers)
        kept = {id(parameter) for parameter in self.parameters}
        for parameter in list(self.optimizer.state):
            if id(parameter) not in kept:
                del self.optimizer.state[parameter]

    def _check(self, loss: Tensor, step: int, micro_batch: int, *batches: B) -> None:
        if not math.isfinite(loss.item()):
            keys = ", ".join(key for batch in batches for key in batch.keys)
            raise DataError(
                f"step {step}, micro-batch {micro_batch}: the loss is {loss.item()}; samples: {keys}; "
                "lower the learning rate or look at these samples; the last good checkpoint stays"
            )


def _backward(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Backpropagate the gradients of embeddings; those of a frozen tower have none."""
    if pairs:
        torch.autograd.backward([tensor for tensor, _ in pairs], [gradient for _, gradient in pairs])
