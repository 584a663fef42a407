"""A device beside the CPU on any machine: its tensors lie in main memory and claim to be elsewhere.

The CPU computes, so results have its bits. What a GPU refuses is refused here: operands on two devices, operations without a deterministic
CUDA kernel, and float64 if the device has none (as mps). Not emulated: streams, generators of the device, autocast, several devices.

torch takes one such device per process, for good: run `emulated` in a process of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "emulated"
CROSSING = {"_to_copy", "copy_", "_local_scalar_dense"}
"""Operations that take tensors on two devices."""
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""Operations whose indices may be on the CPU."""
WITHOUT_DETERMINISTIC_KERNEL = {
    "_adaptive_avg_pool2d_backward",
    "_adaptive_avg_pool3d_backward",
    "_ctc_loss_backward",
    "_upsample_bicubic2d_aa_backward",
    "_upsample_bilinear2d_aa_backward",
    "adaptive_max_pool2d_backward",
    "avg_pool3d_backward",
    "grid_sampler_2d_backward",
    "grid_sampler_3d_backward",
    "histc",
    "max_pool3d_with_indices_backward",
    "max_unpool2d",
    "median",
    "nll_loss2d_backward",
    "nll_loss2d_forward",
    "put_",
    "reflection_pad1d_backward",
    "reflection_pad2d_backward",
    "upsample_bicubic2d_backward",
    "upsample_bilinear2d_backward",
    "upsample_linear1d_backward",
}
"""Operations that raise on CUDA under torch.use_deterministic_algorithms (its documentation); `cumsum` does for floating-point numbers."""


class DeviceTensor(Tensor):
    """A tensor in main memory, `held`, that is on the emulated device for all that use it."""

    @staticmethod
    def __new__(cls, held: Tensor) -> "DeviceTensor":
        return Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self) -> str:
        return f"{self.held!r} on the emulated device"

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(operation, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Sends every operation through `_computed`, also those without a tensor of the device."""

    def __init__(self, has_float64: bool) -> None:
        super().__init__()
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE  # torch.tensor(…, device=…) then asks the mode
        self.has_float64 = has_float64

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = _computed(operation, args, kwargs or {})
        for tensor in tree_leaves(found):
            if isinstance(tensor, DeviceTensor) and tensor.dtype == torch.float64 and not self.has_float64:
                raise TypeError(f"{operation}: the device has no float64")
        return found


@contextmanager
def emulated(has_float64: bool = True) -> Iterator[torch.device]:
    """The device, on which torch computes inside this context."""
    _register()
    torch.__future__.set_swap_module_params_on_conversion(True)  # Module.to keeps tied parameters tied
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with _Mode(has_float64), torch.autograd.set_multithreading_enabled(False), _no_inference_mode():
            yield torch.device(NAME)
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
        torch.__future__.set_swap_module_params_on_conversion(False)


@contextmanager
def _no_inference_mode() -> Iterator[None]:
    """Let torch.inference_mode do what torch.no_grad does: tensors of subclasses have a version."""

    def enter(self: Any) -> None:
        self.before = torch.no_grad()
        self.before.__enter__()

    def leave(self: Any, *error: Any) -> None:
        self.before.__exit__(*error)

    with patch.multiple(torch.inference_mode, __enter__=enter, __exit__=leave):
        yield


class _Module(_DummyBackendModule):
    """torch.emulated"""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


@cache
def _register() -> None:
    _setup_privateuseone_for_python_backend(NAME, _Module())


def _computed(operation: Any, args: Any, kwargs: Any) -> Any:
    """The result of an operation by the CPU, on the device where it belongs. Raises `RuntimeError` where a GPU does."""
    name = operation._schema.name.removeprefix("aten::")
    leaves = tree_leaves((args, kwargs))
    here = [leaf for leaf in leaves if isinstance(leaf, DeviceTensor)]
    elsewhere = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, DeviceTensor)]
    if here and any(tensor.ndim for tensor in elsewhere) and name not in CROSSING | INDEXING:
        raise RuntimeError(f"{operation}: tensors on the device and on the CPU")
    if here and (name in WITHOUT_DETERMINISTIC_KERNEL or (name == "cumsum" and here[0].is_floating_point())):
        raise RuntimeError(f"{operation} has no deterministic CUDA kernel")
    target = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    on_device = target.type == NAME if target is not None else bool(here)
    found = operation(*tree_map(_plain, args), **tree_map(_plain, kwargs))
    known = {id(tensor.held): tensor for tensor in here}  # in-place operations return their argument

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, DeviceTensor):
            return value
        if id(value) in known:
            return known[id(value)]
        return DeviceTensor(value) if on_device else value

    return tree_map(placed, found) if operation._schema.returns else None


def _plain(value: Any) -> Any:
    if isinstance(value, DeviceTensor):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value
