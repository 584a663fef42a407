"""Sums in a fixed binary tree, so that the bits do not depend on how the work was spread.

Floating-point addition is not associative: (a + b) + c and a + (b + c) may differ in the last bit. Adding the gradients of micro-batches pairwise, pairs of
pairs next, gives one fixed order for any power-of-two number of workers, each of which holds a whole subtree.
"""

import torch
from torch import Tensor


class TreeSum:
    """Adds lists of tensors as they come, like a binary counter: never holds more than log2(n) + 1 partial sums."""

    def __init__(self) -> None:
        self._partial: list[tuple[int, list[Tensor]]] = []

    def add(self, tensors: list[Tensor]) -> None:
        """Add one leaf. The tensors are taken over and may be changed."""
        size = 1
        while self._partial and self._partial[-1][0] == size:
            _, left = self._partial.pop()
            torch._foreach_add_(left, tensors)
            tensors, size = left, 2 * size
        self._partial.append((size, tensors))

    def total(self) -> list[Tensor]:
        """The sum. The number of leaves must have been a power of two."""
        assert len(self._partial) == 1, f"{sum(size for size, _ in self._partial)} leaves are no power of two"
        return self._partial[0][1]


def mean_of_sums(sums: list[Tensor], weight: int) -> list[Tensor]:
    """Divide summed gradients by the weight of the whole global batch (tokens, samples)."""
    torch._foreach_div_(sums, float(weight))
    return sums


def clip_by_norm(gradients: list[Tensor], limit: float | None) -> float:
    """Scale gradients in place so that their global L2 norm is at most `limit`; returns the norm before."""
    norm = torch.stack([gradient.double().square().sum() for gradient in gradients]).sum().sqrt().item()
    if limit is not None and norm > limit:
        torch._foreach_mul_(gradients, limit / norm)
    return norm
