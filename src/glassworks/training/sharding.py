"""Tensors that are spread over workers (FSDP2), and how they become whole again. torch.distributed.fsdp is imported when it is asked for: it is slow to load."""

from torch import Tensor, nn

from glassworks.training.workers import Workers


def shard(model: nn.Module, workers: Workers) -> None:
    """Spread the parameters over the workers: every module that `model.shards()` names by itself, the rest together."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(workers.device.type, (workers.size,))
    for module in model.shards():  # type: ignore[operator]
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its parts; where it is spread, every worker must ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """The whole tensor `tensor`, spread as `pattern` is, on its device."""
    if hasattr(pattern, "full_tensor") and tensor.ndim:
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor.to(pattern.device), pattern.device_mesh, pattern.placements)
    return tensor.to(pattern.device)
