"""One optimizer step: a pure function of (weights, moments, step number, data)."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from glassworks.config.training import Optimization
from glassworks.errors import DataError
from glassworks.training.reduction import TreeSum, clip_by_norm, mean_of_sums
from glassworks.training.schedules import learning_rate


class Task(Protocol):
    """What a step asks of an objective."""

    def loss(self, model: Any, batch: Any) -> tuple[Tensor, int]:
        """The sum of the losses of a micro-batch, and its weight (target tokens, samples)."""
        ...


@dataclass(frozen=True)
class StepResult:
    """What a step leaves in the log."""

    loss: float
    """Mean over the weight of the global batch."""
    weight: int
    learning_rate: float
    gradient_norm: float
    """Before clipping."""


def seed_generators(*parts: int | str) -> None:
    """Seed torch's generators by a digest of `parts`: nothing draws from a stream with a history."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def make_optimizer(model: nn.Module, config: Optimization) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, 2019); weight decay only on matrices that are not positions."""
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        (decayed if parameter.ndim >= 2 and "positions" not in name else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, foreach=False)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    task: Task,
    batches: Sequence[Any],
    config: Optimization,
    *,
    seed: int,
    step: int,
    steps: int,
) -> StepResult:
    """Step number `step` (from 0) of `steps` on one global batch, given as its micro-batches in order.

    Gradients of loss sums are added in a fixed tree and divided by the total weight: a token counts the same in whichever micro-batch it is. Raises
    `DataError` with the step, the micro-batch and the sample keys when a loss is not finite.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients, losses, weight = TreeSum(), TreeSum(), 0
    for index, batch in enumerate(batches):
        seed_generators(seed, step, index)
        loss, count = task.loss(model, batch)
        if not math.isfinite(loss.item()):
            keys = ", ".join(batch.keys)
            raise DataError(
                f"step {step}, micro-batch {index}: the loss is {loss.item()}; samples: {keys}; lower the learning rate or look at these samples"
            )
        gradients.add(list(torch.autograd.grad(loss, parameters)))
        losses.add([loss.detach().double()])
        weight += count
    mean = mean_of_sums(gradients.total(), weight)
    norm = clip_by_norm(mean, config.clip_norm)
    rate = learning_rate(config, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    for parameter, gradient in zip(parameters, mean, strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepResult(losses.total()[0].item() / weight, weight, rate, norm)
