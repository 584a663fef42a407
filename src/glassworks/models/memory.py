"""Memory in few large pieces. NumPy asks Linux for huge pages (2 MiB) where it allocates 4 MiB or more at once, PyTorch does not: with them, what streams through
a core once per token (weights, keys and values) misses the TLB less. benchmarks/decoding.py shows what it is worth."""

from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor, nn

ALIGNMENT = 64
"""Bytes; those of a cache line."""
CACHE = 32 << 20
"""Bytes that a core may have to itself of its last cache."""


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An uninitialised tensor on the CPU, in huge pages if it is large."""
    size = torch.Size(shape)
    return torch.from_numpy(np.empty(size.numel() * dtype.itemsize, dtype=np.uint8)).view(dtype).view(size)


def gather(module: nn.Module, for_decoding: bool = False) -> None:
    """Move the parameters of a module on the CPU into one block, each type of numbers into its own. Their values, shapes and names stay.

    With `for_decoding` the matrices of linear maps lie column by column if all parameters fit into a cache: that is how multiplying one row reads them fastest
    from there, though not from memory. Not for training.
    """
    by_columns = for_decoding and sum(parameter.nbytes for parameter in module.parameters()) <= CACHE
    matrices = {id(part.weight) for part in module.modules() if isinstance(part, nn.Linear) and by_columns}
    for dtype in {parameter.dtype for parameter in module.parameters()}:
        parameters = [parameter for parameter in module.parameters() if parameter.dtype == dtype]
        step = ALIGNMENT // dtype.itemsize
        ends = accumulate((-(-parameter.numel() // step) * step for parameter in parameters), initial=0)
        places = list(pairwise(ends))
        block = empty(places[-1][1], dtype=dtype)
        for parameter, (start, _) in zip(parameters, places, strict=True):
            place = block[start : start + parameter.numel()]
            if id(parameter) in matrices:
                place = place.view(parameter.shape[::-1]).T
            parameter.data = place.view(parameter.shape).copy_(parameter.data)
