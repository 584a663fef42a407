"""Fast reduction: torch's DDP or FSDP2, for models that need them. The bytes of a run then depend on the number of workers.

DDP (Li et al., 2020) keeps whole weights on every worker. FSDP2 (`fully_shard`, Zhao et al., 2023) keeps a part of every weight, gradient and moment on each.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from glassworks.training.workers import Workers


class DataParallel:
    """DDP around the objective."""

    def __init__(
        self, objective: nn.Module, parameters: Sequence[nn.Parameter], workers: Workers, partly_used: bool
    ) -> None:
        self.parameters, self.workers = list(parameters), workers
        devices = [workers.device] if workers.device.type == "cuda" else None
        self.module = DistributedDataParallel(objective, device_ids=devices, find_unused_parameters=partly_used)

    def passing(self, last: bool) -> AbstractContextManager[Any]:
        """The context of a forward and backward pass; only the last one of a step exchanges gradients."""
        return nullcontext() if last else self.module.no_sync()

    def add(self, backward: Callable[[], None], last: bool) -> None:
        backward()

    def agree(self, values: Tensor) -> Callable[[], Tensor]:
        """What adds `values` over all workers, after torch's own exchange."""
        return partial(self.workers.add, values)

    def total(self) -> list[Tensor]:
        """The summed gradients: DDP gives their mean over workers, and workers are a power of two."""
        return _sums(self.parameters, self.workers.size)

    def close(self) -> None:
        del self.module


class ShardedDataParallel:
    """FSDP2: `sharding.shard` must have been called on the model before its optimizer was made."""

    def __init__(
        self, objective: nn.Module, model: nn.Module, parameters: Sequence[nn.Parameter], workers: Workers
    ) -> None:
        self.module, self.model, self.parameters, self.workers = objective, model, list(parameters), workers

    @contextmanager
    def passing(self, last: bool) -> Iterator[None]:
        """The context of a forward and backward pass; only the last one of a step exchanges gradients."""
        self.model.set_requires_gradient_sync(last)  # type: ignore[operator]
        yield

    def add(self, backward: Callable[[], None], last: bool) -> None:
        backward()

    def agree(self, values: Tensor) -> Callable[[], Tensor]:
        """What adds `values` over all workers, after torch's own exchange."""
        return partial(self.workers.add, values)

    def total(self) -> list[Tensor]:
        """The summed gradients, each worker's part of them."""
        return _sums(self.parameters, self.workers.size)

    def close(self) -> None:
        pass


def _sums(parameters: list[nn.Parameter], size: int) -> list[Tensor]:
    sums = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
    for parameter in parameters:
        parameter.grad = None
    torch._foreach_mul_(sums, size)
    return sums
