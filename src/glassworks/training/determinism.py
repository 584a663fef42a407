"""Settings of torch under which equal inputs give equal bytes."""

from typing import Any

import torch


def make_deterministic(compiled: bool = False) -> None:
    """Use one thread, deterministic kernels only, and products of float32 in float32, in this process.

    `compiled` covers kernels of torch.compile, too.
    """
    torch.set_num_threads(1)  # thread counts change bits
    torch.backends.cudnn.allow_tf32 = False  # torch lets convolutions round to 10 bits otherwise
    torch.backends.cuda.matmul.allow_tf32 = False
    if compiled:
        torch.use_deterministic_algorithms(True)
    else:  # without the import of torch._inductor, which takes a second
        torch._C._set_deterministic_algorithms(True)
    assert torch.are_deterministic_algorithms_enabled()
    deterministic: Any = torch.utils.deterministic  # its type lacks the attribute
    deterministic.fill_uninitialized_memory = False  # no code reads uninitialized memory, and filling it costs time
