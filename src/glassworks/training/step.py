"""One optimizer step: a pure function of (weights, moments, loss scale, step number, data)."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, NoReturn

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from glassworks.artifacts.digests import digest_json
from glassworks.artifacts.finite import listed, not_finite
from glassworks.config.optimization import Optimization
from glassworks.config.training import Training
from glassworks.errors import ConfigError, DataError
from glassworks.models.saving import Matches
from glassworks.training.average import WeightAverage
from glassworks.training.digests import tensor_digest
from glassworks.training.fast_reduction import DataParallel, ShardedDataParallel
from glassworks.training.muon import Muon
from glassworks.training.objective import Objective, couple, to_device
from glassworks.training.parameters import ParameterGroups
from glassworks.training.precision import Precision
from glassworks.training.reduction import ExactReduction, TreeSum, clip_by_norm
from glassworks.training.sharding import shard, whole
from glassworks.training.task import B, CoupledTask, Loss, M, Trainable
from glassworks.training.workers import PeerLost, Workers

REMEDY = "lower the learning rate or look at these samples; the last good checkpoint stays"
Signals = Callable[[], Sequence[int]]
"""Returns counts of received signals."""


@dataclass(frozen=True)
class StepResult:
    """The logged values of a step, identical on all ranks."""

    loss: float
    """Weighted mean over the global batch."""
    weight: float
    """Weight of the global batch (target tokens, samples)."""
    parts: dict[str, float | None]
    """Weighted mean of each named term of the loss; None where its weight is 0."""
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
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


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
        if isinstance(task, CoupledTask) and task.passes > 1:
            raise ConfigError(f"{type(task).__name__}: a loss that couples the batch takes one pass, not {task.passes}")
        if training.reduction == "fsdp2":
            if isinstance(task, CoupledTask):
                raise ConfigError(
                    "training.reduction: fsdp2 does not go with a loss that couples the batch; use exact or ddp"
                )
            shard(model, workers)
        self.groups = ParameterGroups(model, optimization, training.steps)
        self.optimizer = self.groups.make_optimizer()
        if isinstance(self.optimizer, Muon):
            self.optimizer.workers = workers
        self.precision = Precision(training.precision, workers.device)
        self.average = (
            WeightAverage(self.groups.trainable, training.ema_decay) if training.ema_decay is not None else None
        )
        self.frozen = self._digest_frozen()
        """Digest of all parameters and buffers that no step trains; valid on rank 0."""
        self.start: Matches | None = None
        """The origin of the initial weights."""
        self.parameters: list[nn.Parameter] = []
        self.parts: tuple[str, ...] = ()
        """Names of the terms of the loss."""
        self.reduction: ExactReduction | DataParallel | ShardedDataParallel

    def _digest_frozen(self) -> str:
        """Gathers sharded tensors: every rank must call this."""
        found = {}
        for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
            if name not in self.groups.trainable:
                full = whole(tensor.detach())
                found[name] = tensor_digest(full) if self.workers.first else ""
        return digest_json(found)

    def step(self, batches: Sequence[B], step: int, signals: Signals = tuple) -> StepResult:
        """The result of step `step` (from 0) on a global batch; `batches` are the micro-batches of this rank in order.

        Gradients of loss sums are added in a fixed tree and divided by the total weight, so every token has the same weight in any micro-batch. Raises
        `DataError` with the step, the micro-batch and the sample keys when a loss is not finite, and with the parameters when a gradient is not.
        """
        if self.groups.prepare(step):
            self._prepare_reduction(step)
        batches = [to_device(batch, self.workers.device) for batch in batches]
        carries: list[tuple[Tensor, ...]] = [() for _ in batches]
        for number in range(self.task.passes):
            result = self._pass(batches, carries, step, number, signals)
        return result

    def _pass(
        self, batches: Sequence[B], carries: list[tuple[Tensor, ...]], step: int, number: int, signals: Signals
    ) -> StepResult:
        """One optimizer update: pass `number` over a global batch. Replaces the carry of each micro-batch."""
        first = self.workers.rank * len(batches)
        direct = None
        self._found: list[Tensor] = []
        if isinstance(self.task, CoupledTask):
            sums, direct = self._coupled_pass(self.task, batches, step, first, signals)
        else:
            sums = self._plain_pass(batches, carries, step, number, first, signals)
        with record_function("reduce"):
            gradients = self.reduction.total()
            total, weight, *others = sums().tolist()
        count = 2 * len(self.parts)
        if not all(map(math.isfinite, (total, weight, *others[:count]))):
            self._raise_not_finite(step, first, batches)
        if not weight:
            raise DataError(f"step {step}: no sample of the global batch has a target; look at the data")
        with record_function("optimize"):
            norm, rates, scale = self._update(gradients, direct, weight, step, number)
        pairs = zip(self.parts, others[0:count:2], others[1:count:2], strict=True)
        means = {name: part / share if share else None for name, part, share in pairs}
        return StepResult(total / weight, weight, means, rates, norm, scale, [int(value) for value in others[count:]])

    def _all_reduce(self, sums: Tensor, signals: Signals) -> Callable[[], Tensor]:
        """Start to add `sums` and signal counts over all ranks; returns a function that waits for the result."""
        counts = torch.tensor(signals(), dtype=torch.float64, device=self.workers.sums)
        return self.reduction.all_reduce_async(torch.cat([sums, counts]))

    def _sums(self, loss: Loss) -> Tensor:
        """float64 [2 + 2 * parts]: total and weight of a loss, then those of its parts. Does not wait for a GPU."""
        self.parts = tuple(loss.parts)
        weights = [loss.weight, *(weight for _, weight in loss.parts.values())]
        terms = [loss.total, *(part for part, _ in loss.parts.values())]
        totals = torch.stack([term.detach().to(self.workers.sums).double() for term in terms])
        sums = torch.stack([totals, torch.tensor(weights, dtype=torch.float64, device=totals.device)], 1).flatten()
        self._found.append(sums.clone())  # the tree adds in place
        return sums

    def _plain_pass(
        self,
        batches: Sequence[B],
        carries: list[tuple[Tensor, ...]],
        step: int,
        number: int,
        first: int,
        signals: Signals,
    ) -> Callable[[], Tensor]:
        """Forward and backward pass of every micro-batch; returns the function of `_all_reduce`."""
        tree = TreeSum()
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            seed_generators(self.seed, step, first + index, *([number] if number else []))
            with self.reduction.sync_context(last):
                with self.precision.autocast(), record_function("forward"):
                    loss = self.reduction.module(batch, carries[index])
                carries[index] = tuple(tensor.detach() for tensor in loss.carry)
                tree.add([self._sums(loss)])
                if last:
                    sums = self._all_reduce(tree.total()[0], signals)
                with record_function("backward"):
                    self.reduction.add(self.precision.scaled(loss.total).backward, last)
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
        size = self.workers.size  # a power of two: division is exact
        sums = self._all_reduce(self._sums(coupling.loss) / size, signals)
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
        self, gradients: list[Tensor], direct: list[Tensor | None] | None, weight: float, step: int, number: int
    ) -> tuple[float, dict[str, float], float | None]:
        """Divide by the weight, clip and step; returns the norm, the rates and the loss scale.

        Raises `DataError` for a gradient that is not finite, unless fp16 skips the step.
        """
        scale = self.precision.scaler.get_scale() if self.precision.scaler.is_enabled() else None
        for gradient, more in zip(gradients, direct or (), strict=False):
            if more is not None:
                gradient.add_(more, alpha=scale or 1.0)
        torch._foreach_div_(gradients, weight)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.precision.unscale(self.optimizer)
        norm = clip_by_norm(gradients, self.config.clip_norm)
        if not math.isfinite(norm) and not self.precision.may_skip:
            self._raise_gradient(step, norm)
        rates = self.groups.set_rates(self.optimizer, step)
        self.precision.step(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(step * self.task.passes + number)
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

    def _raise_not_finite(self, step: int, first: int, batches: Sequence[B]) -> NoReturn:
        """Raise `DataError` on the ranks with the faulty micro-batch; other ranks wait and end with their peer."""
        names = ["loss", "weight"] + [f"{kind} {part}" for part in self.parts for kind in ("loss", "weight of")]
        for index, sums in enumerate(self._found):
            faults = [
                (name, value) for name, value in zip(names, sums.tolist(), strict=True) if not math.isfinite(value)
            ]
            if faults:
                coupled = isinstance(self.task, CoupledTask)
                keys = [key for batch in (batches if coupled else [batches[index]]) for key in batch.keys]
                raise DataError(
                    f"step {step}, micro-batch {first + index}: the {faults[0][0]} is {faults[0][1]}; "
                    f"samples: {', '.join(keys)}; {REMEDY}"
                )
        self.workers.barrier()
        raise PeerLost("another rank has the faulty micro-batch")

    def _raise_gradient(self, step: int, norm: float) -> NoReturn:
        """Raise `DataError` naming the parameters whose gradient is not finite. Gathers sharded tensors: every rank must call this."""
        gradients = {
            name: whole(parameter.grad)
            for name, parameter in self.groups.trainable.items()
            if parameter.grad is not None
        }
        wrong = not_finite(gradients)
        where = f" ({listed(wrong)})" if wrong else ""
        raise DataError(f"step {step}: the loss is finite, but the norm of its gradient is {norm}{where}; {REMEDY}")


def _backward(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Backpropagate the gradients of embeddings; those of a frozen tower have none."""
    if pairs:
        torch.autograd.backward([tensor for tensor, _ in pairs], [gradient for _, gradient in pairs])
