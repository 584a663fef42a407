"""Tensors sharded over ranks (FSDP2). torch.distributed.fsdp is slow to import, so functions import it."""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from glassworks.training.task import Network
from glassworks.training.workers import Workers

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def shard(model: nn.Module, workers: Workers) -> None:
    """Shard the parameters over the ranks: one group per module of `model.shards()`, one for the rest."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(workers.device.type, (workers.size,))
    for module in cast(Network, model).shards():
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def whole(tensor: Tensor) -> Tensor:
    """The full tensor. Gathering a sharded tensor is a collective: every rank must call this."""
    return cast("DTensor", tensor).full_tensor() if hasattr(tensor, "full_tensor") else tensor


@torch.no_grad()
def to_cpu(model: nn.Module) -> None:
    """Move a model to the CPU and undo `shard`: its parameters are full again. Every rank must call this."""
    full: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and hasattr(parameter, "full_tensor"):
                if id(parameter) not in full:  # tied parameters stay tied
                    full[id(parameter)] = nn.Parameter(whole(parameter.detach()), parameter.requires_grad)
                module._parameters[name] = full[id(parameter)]
        if hasattr(module, "unshard"):  # `fully_shard` put a subclass (FSDPX, FSDPModule, X) in place of the class X
            module.__class__ = type(module).__mro__[2]
    model.cpu()


def like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """The full tensor `tensor` with the sharding and device of `pattern`."""
    if hasattr(pattern, "full_tensor") and tensor.ndim:
        from torch.distributed.tensor import distribute_tensor

        sharded = cast("DTensor", pattern)
        return distribute_tensor(tensor.to(pattern.device), sharded.device_mesh, sharded.placements)
    return tensor.to(pattern.device)
