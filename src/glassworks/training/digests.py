"""digests.jsonl: periodic digests of every trained parameter, by which `glassworks compare` finds the step where two runs diverge.

A digest covers bits, dtype and shape: -0.0 differs from 0.0.
"""

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from glassworks.training.metrics_log import JsonLines

if TYPE_CHECKING:  # `glassworks compare` imports this module without torch
    from torch import Tensor


def tensor_digest(tensor: "Tensor") -> str:
    """16 hex characters: blake2b over dtype, shape and bytes of a tensor on any device."""
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")
    digest = hashlib.blake2b(f"{dtype} {list(tensor.shape)}\n".encode(), digest_size=8)
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)  # as bytes: numpy has no bf16
    return digest.hexdigest()


class DigestLog(JsonLines):
    """The log digests.jsonl, with rows `{"step": int, "digests": {parameter name: digest}}`."""

    def write(self, step: int, named_tensors: "Iterable[tuple[str, Tensor]]") -> None:
        """Append the digests of the parameters after step `step`."""
        self.append({"step": step, "digests": {name: tensor_digest(tensor) for name, tensor in named_tensors}})
