"""digests.jsonl: a digest of every parameter, every so many steps, by which `glassworks compare` finds where two runs part.

A digest is over bits: -0.0 is not 0.0, and the same numbers in another dtype or shape are another tensor.
"""

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from glassworks.training.metrics_log import JsonLines

if TYPE_CHECKING:  # this module is imported where torch is not
    from torch import Tensor


def tensor_digest(tensor: "Tensor") -> str:
    """16 hex characters: blake2b over dtype, shape and bytes of a tensor on any device."""
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")
    digest = hashlib.blake2b(f"{dtype} {list(tensor.shape)}\n".encode(), digest_size=8)
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy())  # as bytes: numpy has no bf16
    return digest.hexdigest()


class DigestLog(JsonLines):
    """The rows of digests.jsonl: `{"step": int, "digests": {parameter name: digest}}`."""

    def write(self, step: int, named_tensors: "Iterable[tuple[str, Tensor]]") -> None:
        self.append({"step": step, "digests": {name: tensor_digest(tensor) for name, tensor in named_tensors}})
