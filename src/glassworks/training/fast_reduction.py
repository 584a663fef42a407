"""Fast reduction by torch's DDP or FSDP2. The bytes of a run then depend on the number of workers.

DDP (Li et al., 2020) replicates the weights on every rank. FSDP2 (`fully_shard`, Zhao et al., 2023) shards weights, gradients and moments.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from glassworks.training.workers import Workers

if TYPE_CHECKING:  # slow to import
    from torch.distributed.fsdp import FSDPModule


class DataParallel:
    """DDP around the objective."""

    def __init__(
        self, objective: nn.Module, parameters: Sequence[nn.Parameter], workers: Workers, partly_used: bool
    ) -> None:
        self.parameters, self.workers = list(parameters), workers
        devices = [workers.device] if workers.device.type == "cuda" else None
        self.module = DistributedDataParallel(objective, device_ids=devices, find_unused_parameters=partly_used)

    def sync_context(self, last: bool) -> AbstractContextManager[object]:
        """The context of a forward and backward pass; only the last pass of a step synchronizes gradients."""
        context: AbstractContextManager[object] = nullcontext() if last else self.module.no_sync()
        return context

    def add(self, backward: Callable[[], None], last: bool) -> None:
        backward()

    def all_reduce_async(self, values: Tensor) -> Callable[[], Tensor]:
        """A function that returns `values` summed over all ranks, for use after the last backward pass."""
        return partial(self.workers.add, values)

    def total(self) -> list[Tensor]:
        """The summed gradients. DDP averages over ranks; their number is a power of two, so scaling back is exact."""
        return _sums(self.parameters, self.workers.size)

    def close(self) -> None:
        del self.module


class ShardedDataParallel:
    """FSDP2. Call `sharding.shard` on the model before its optimizer is built."""

    def __init__(
        self, objective: nn.Module, model: nn.Module, parameters: Sequence[nn.Parameter], workers: Workers
    ) -> None:
        self.module, self.model, self.parameters, self.workers = objective, model, list(parameters), workers

    @contextmanager
    def sync_context(self, last: bool) -> Iterator[None]:
        """The context of a forward and backward pass; only the last pass of a step synchronizes gradients."""
        cast("FSDPModule", self.model).set_requires_gradient_sync(last)
        yield

    def add(self, backward: Callable[[], None], last: bool) -> None:
        backward()

    def all_reduce_async(self, values: Tensor) -> Callable[[], Tensor]:
        """A function that returns `values` summed over all ranks, for use after the last backward pass."""
        return partial(self.workers.add, values)

    def total(self) -> list[Tensor]:
        """This rank's shards of the summed gradients."""
        return _sums(self.parameters, self.workers.size)

    def close(self) -> None:
        pass


def _sums(parameters: list[nn.Parameter], size: int) -> list[Tensor]:
    sums = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    torch._foreach_mul_(sums, size)
    return sums
