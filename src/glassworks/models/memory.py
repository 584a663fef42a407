"""Allocation of weights and caches in few large blocks.

NumPy requests huge pages (2 MiB) from Linux for allocations of 4 MiB or more; PyTorch does not. Huge pages reduce TLB misses for data that a core
streams once per token: weights, keys and values. benchmarks/decoding.py measures the gain.
"""

from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor, nn

ALIGNMENT = 64
"""Bytes of a cache line."""
CACHE = 32 << 20
"""Bytes of last-level cache that one core may use alone."""


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An uninitialised CPU tensor, in huge pages if it is large."""
    size = torch.Size(shape)
    return torch.from_numpy(np.empty(size.numel() * dtype.itemsize, dtype=np.uint8)).view(dtype).view(size)


def gather(module: nn.Module, for_decoding: bool = False) -> None:
    """Move the parameters of a CPU module into one block per dtype. Values, shapes and names are unchanged.

    With `for_decoding`, matrices of linear maps are stored column by column if all parameters fit into a cache. From a cache, though not from memory,
    this layout is the fastest for a product with one row. Do not use it for training.
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
