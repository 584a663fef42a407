"""Contrastive losses between the embeddings of two modalities, and a loss between features and embeddings of one.

N pairs, C features, D width. Row i of one side belongs to row i of the other. Each function returns a sum over the N pairs in float32.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(left: Tensor, right: Tensor, scale: Tensor, equal: Tensor | None = None) -> Tensor:
    """The summed symmetric InfoNCE loss of N pairs of unit vectors [N, D] (Radford et al., 2021, "CLIP").

    Each row must choose its partner among all rows of the other side, by the similarities times `scale`; the two directions are averaged. `equal` [N, N]
    is True where the rows of two pairs are the same: they are no negatives of each other. A single pair has no loss.
    """
    with torch.autocast(left.device.type, enabled=False):
        logits = scale.float() * left.float() @ right.float().T  # [N, N]
        if equal is not None:
            logits = logits.masked_fill(_others(equal), -torch.inf)
        own = torch.arange(len(logits), device=logits.device)
        both = F.cross_entropy(logits, own, reduction="sum") + F.cross_entropy(logits.T, own, reduction="sum")
        return both / 2


def sigmoid_loss(left: Tensor, right: Tensor, scale: Tensor, bias: Tensor, equal: Tensor | None = None) -> Tensor:
    """The summed sigmoid loss of N pairs of unit vectors [N, D] (Zhai et al., 2023, "SigLIP").

    Every combination of rows is a binary decision by `scale` times the similarity plus `bias`. `equal` is that of `info_nce`.
    """
    with torch.autocast(left.device.type, enabled=False):
        logits = scale.float() * left.float() @ right.float().T + bias.float()  # [N, N]
        signs = 2 * torch.eye(len(logits), device=logits.device) - 1
        losses = -F.logsigmoid(signs * logits)
        if equal is not None:
            losses = losses.masked_fill(_others(equal), 0.0)
        return losses.sum()


def neighbourhood_loss(features: Tensor, vectors: Tensor, temperature: float = 0.05) -> Tensor:
    """The summed Jensen-Shannon divergence between the neighbours of N samples by features [N, C] and by embeddings [N, D] (Gröger et al., 2025,
    "STRUCTURE", arXiv 2506.16895, with one level, its default).

    The neighbours of a sample are a distribution over all N samples: the softmax of similarities divided by `temperature`, between unit vectors from which
    their mean over the N samples is subtracted.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        first, second = (_neighbours(side.float(), temperature) for side in (features, vectors))  # log, [N, N]
        middle = torch.logaddexp(first, second) - math.log(2)
        divergences = [F.kl_div(middle, side, reduction="sum", log_target=True) for side in (first, second)]
        return (divergences[0] + divergences[1]) / 2


def _neighbours(values: Tensor, temperature: float) -> Tensor:
    unit = F.normalize(values, dim=-1)
    centred = unit - unit.mean(0)
    return (centred @ centred.T / temperature).log_softmax(-1)


def equal_rows(values: Tensor) -> Tensor:
    """bool [N, N]: whether two rows of `values` [N, C] have the same numbers."""
    kinds = torch.unique(values, dim=0, return_inverse=True)[1]
    return kinds[:, None] == kinds


def _others(equal: Tensor) -> Tensor:
    """`equal` without the diagonal."""
    return equal & ~torch.eye(len(equal), dtype=torch.bool, device=equal.device)
