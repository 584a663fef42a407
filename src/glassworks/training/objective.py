"""What is trained: a model and its task, and the two ways in which a loss meets a global batch.

Most losses are sums over samples or tokens: each micro-batch is differentiated by itself. A loss that couples the whole batch (contrastive learning) goes in
two passes, known as gradient caching (Gao et al., 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"): the embeddings of all
micro-batches without a graph; the loss of all of them and its gradient with respect to each embedding; then every micro-batch again, with its part of that
gradient. The memory is that of one micro-batch, the gradient that of the whole batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from glassworks.training.workers import Workers

B = TypeVar("B")
HALF = (torch.bfloat16, torch.float16)


class Task(Protocol):
    """What training asks of an objective."""

    metrics: Sequence[str]
    """Names of what `validate` measures."""

    def build(self) -> nn.Module:
        """The network with fresh weights, drawn from torch's generator."""
        ...

    def loss(self, model: Any, batch: Any) -> tuple[Tensor, int]:
        """The *sum* of the losses of a micro-batch (a dataclass with `keys`), and its weight (target tokens, samples)."""
        ...

    def validate(self, model: Any, batch: Any) -> Mapping[str, tuple[float, int]]:
        """Every metric of a held-out micro-batch as (sum, weight)."""
        ...


@runtime_checkable
class CoupledTask(Protocol):
    """An objective whose loss couples all samples of the global batch."""

    def embed(self, model: Any, batch: Any) -> dict[str, Tensor]:
        """Embeddings of a micro-batch, each [samples, …] in the order of the samples."""
        ...

    def coupled_loss(self, model: Any, embeddings: dict[str, Tensor]) -> tuple[Tensor, int]:
        """The loss sum and weight of the whole batch; of the model's own parameters it may use those that no embedding depends on (a logit scale)."""
        ...


class Objective(nn.Module):
    """Model and task as one module, so that torch's wrappers (DDP, FSDP2) see every pass as a forward pass."""

    def __init__(self, model: nn.Module, task: Any) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, batch: Any) -> tuple[Tensor, int] | dict[str, Tensor]:
        """The loss sum and the weight of a micro-batch, or its embeddings if the loss couples the batch."""
        if isinstance(self.task, CoupledTask):
            embeddings = self.task.embed(self.model, batch)
            return {name: tensor.float() if tensor.dtype in HALF else tensor for name, tensor in embeddings.items()}
        return self.task.loss(self.model, batch)


@dataclass
class Coupling:
    """The loss of a whole batch, and its gradients."""

    loss: Tensor
    weight: int
    embedding_gradients: list[dict[str, Tensor]]
    """For each of this worker's micro-batches."""
    direct: list[Tensor | None]
    """For each parameter the gradient that does not pass through the embeddings; the same on all workers."""


def couple(
    model: nn.Module,
    task: CoupledTask,
    embeddings: list[dict[str, Tensor]],
    parameters: list[nn.Parameter],
    workers: Workers,
) -> Coupling:
    """Compute the loss over the embeddings of all workers' micro-batches, identically everywhere, and differentiate it with respect to the embeddings."""
    sizes = [len(next(iter(part.values()))) for part in embeddings]
    whole = {
        name: workers.gather(torch.cat([part[name].detach() for part in embeddings])).requires_grad_()
        for name in embeddings[0]
    }
    loss, weight = task.coupled_loss(model, whole)
    gradients = torch.autograd.grad(loss, [*whole.values(), *parameters], allow_unused=True)
    own = slice(workers.rank * sum(sizes), (workers.rank + 1) * sum(sizes))
    parts = {
        name: (torch.zeros_like(tensor) if gradient is None else gradient)[own].split(sizes)
        for (name, tensor), gradient in zip(whole.items(), gradients, strict=False)
    }
    cut = [{name: part[index] for name, part in parts.items()} for index in range(len(sizes))]
    return Coupling(loss.detach(), weight, cut, list(gradients[len(whole) :]))


def to_device(batch: B, device: torch.device) -> B:
    """A micro-batch (a dataclass) with its tensors on `device`."""
    if device.type == "cpu":
        return batch
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return replace(batch, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})  # type: ignore[type-var]
