"""A model and its task as one module, and the gradient of a loss that couples the global batch.

Most losses are sums over samples or tokens, so each micro-batch is differentiated separately. A loss that couples the batch (contrastive learning) needs two
passes, known as gradient caching (Gao et al., 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"):

1. Embed all micro-batches without a graph. Compute the loss of all embeddings and its gradient with respect to each of them.
2. Run every micro-batch again and backpropagate its slice of that gradient.

Peak memory is that of one micro-batch; the gradient is that of the global batch.
"""

from dataclasses import dataclass, replace
from typing import Any, Generic

import torch
from torch import Tensor, nn

from glassworks.training.task import B, CoupledTask, Loss, M, Trainable
from glassworks.training.workers import Workers

HALF = (torch.bfloat16, torch.float16)


class Objective(nn.Module, Generic[M, B]):
    """A model and its task as one module: torch's wrappers (DDP, FSDP2) intercept `forward`."""

    def __init__(self, model: M, task: Trainable[M, B]) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, batch: B, carry: tuple[Tensor, ...] = ()) -> Loss | dict[str, Tensor]:
        """The loss of a micro-batch, or its embeddings for a `CoupledTask`."""
        if isinstance(self.task, CoupledTask):
            embeddings = self.task.embed(self.model, batch)
            return {name: tensor.float() if tensor.dtype in HALF else tensor for name, tensor in embeddings.items()}
        return self.task.loss(self.model, batch, carry)


@dataclass
class Coupling:
    """The loss of a global batch, and its gradients."""

    loss: Loss
    embedding_gradients: list[dict[str, Tensor]]
    """One dictionary per micro-batch of this rank."""
    direct: list[Tensor | None]
    """The gradient of each parameter that bypasses the embeddings; identical on all ranks."""


def couple(
    model: M,
    task: CoupledTask[M, B],
    embeddings: list[dict[str, Tensor]],
    parameters: list[nn.Parameter],
    workers: Workers,
) -> Coupling:
    """The loss over the embeddings of all ranks and its gradients. Every rank computes the same values."""
    sizes = [len(next(iter(part.values()))) for part in embeddings]
    whole = {
        name: workers.gather(torch.cat([part[name].detach() for part in embeddings])).requires_grad_()
        for name in embeddings[0]
    }
    loss = task.coupled_loss(model, whole)
    gradients = torch.autograd.grad(loss.total, [*whole.values(), *parameters], allow_unused=True)
    own = slice(workers.rank * sum(sizes), (workers.rank + 1) * sum(sizes))
    parts = {
        name: (torch.zeros_like(tensor) if gradient is None else gradient)[own].split(sizes)
        for (name, tensor), gradient in zip(whole.items(), gradients, strict=False)
    }
    cut = [{name: part[index] for name, part in parts.items()} for index in range(len(sizes))]
    return Coupling(replace(loss, total=loss.total.detach()), cut, list(gradients[len(whole) :]))


def to_device(batch: B, device: torch.device) -> B:
    """The micro-batch with its tensors on `device`, those in dictionaries included."""
    if device.type == "cpu":
        return batch
    moved = {name: _moved(value, device) for name, value in vars(batch).items() if isinstance(value, Tensor | dict)}
    return replace(batch, **moved)  # type: ignore[type-var]


def _moved(value: Any, device: torch.device) -> Any:
    """A tensor, or a dictionary of tensors at any depth, on `device`."""
    if isinstance(value, dict):
        return {name: _moved(inner, device) for name, inner in value.items()}
    return value.to(device, non_blocking=True)
