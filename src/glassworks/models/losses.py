"""The loss and the metrics of next-token prediction.

Shapes: B rows, T tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
"""Target of a position that has no loss."""


def next_token_losses(logits: Tensor, targets: Tensor, reduction: Literal["none", "sum"] = "none") -> Tensor:
    """Cross-entropy in nats of logits [B, T, V] with targets [B, T]: one loss per target [B, T], or their sum.

    The loss of an `IGNORED` target is 0. The loss has the dtype of the logits, unless autocast chooses another.
    """
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction=reduction)
    return losses.view_as(targets) if reduction == "none" else losses


def loss_weights(factors: Sequence[float]) -> Tensor | None:
    """float32 [B]: the factor of the loss of each row; None if all are 1."""
    return None if all(factor == 1 for factor in factors) else torch.tensor(factors, dtype=torch.float32)


def count_targets(targets: Tensor) -> int:
    """The number of targets that have a loss."""
    return int((targets != IGNORED).sum())


def next_token_metrics(logits: Tensor, targets: Tensor) -> dict[str, tuple[float, int]]:
    """Loss (nats, in float32) and accuracy of logits [B, T, V], each as a sum over targets [B, T] and their number."""
    logits, count = logits.float(), count_targets(targets)
    right = int((logits.argmax(-1) == targets).sum())
    return {"loss": (next_token_losses(logits, targets, "sum").item(), count), "accuracy": (right, count)}
