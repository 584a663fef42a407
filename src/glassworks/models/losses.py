"""The loss and the metrics of next-token prediction.

Shapes: B rows, T tokens, V vocabulary, D width, N positions.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
"""Target of a position that has no loss."""

CHUNK_BYTES = 2**27
"""Bytes of logits that `linear_cross_entropy` holds at once. Smaller chunks read and write the weight gradient more often."""

PRODUCT_ROWS = 2**13
"""Rows of a half-precision product that are added to a float32 sum at once."""


class LinearLoss(NamedTuple):
    """The loss of `linear_cross_entropy`. All are scalars, the losses in nats. Only `total` has a gradient."""

    total: Tensor
    """The sum to minimise: cross-entropy plus z-loss."""
    z_term: Tensor
    """The z-loss in `total`."""
    correct: Tensor
    """The number of targets that no other token exceeds in probability, whatever their weights."""


def next_token_losses(logits: Tensor, targets: Tensor, reduction: Literal["none", "sum"] = "none") -> Tensor:
    """Cross-entropy in nats of logits [B, T, V] with targets [B, T]: one loss per target [B, T], or their sum.

    The loss of an `IGNORED` target is 0. The loss has the dtype of the logits, unless autocast chooses another.
    """
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction=reduction)
    return losses.view_as(targets) if reduction == "none" else losses


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    token_weights: Tensor | None = None,
    z_loss: float = 0.0,
    chunk_bytes: int = CHUNK_BYTES,
) -> LinearLoss:
    """The summed loss of features [..., D] under the head `weight` [V, D], `bias` [V], with targets [...].

    The loss of a target is w (c + z l²): c its cross-entropy, l the logsumexp of its logits, z = `z_loss`, w its element of `token_weights` [...],
    or 1. Positions with an `IGNORED` target have no loss and skip the head. The others are processed in chunks of at most `chunk_bytes` of logits, at
    least one position. The forward pass computes the logits of a chunk once, adds their gradients, and frees them (Hsu et al., 2024, "Liger Kernel").

    Logits have the dtype of `hidden`, or of autocast. Losses, softmax and sums over chunks are float32, for float64 logits float64. Gradients have
    the dtypes of `hidden`, `weight` and `bias`. Gradients that autograd does not need are not computed.

    The backward pass of a scaled loss, such as `2 * total`, needs memory for another weight gradient. A scale in `token_weights` does not.
    Raises `ValueError` for shapes that do not match, and for `token_weights` that require a gradient. Second derivatives raise `RuntimeError`.
    """
    if hidden.shape[:-1] != targets.shape:
        raise ValueError(f"targets have the shape {list(targets.shape)}, not {list(hidden.shape[:-1])} as hidden")
    if token_weights is not None and (token_weights.shape != targets.shape or token_weights.requires_grad):
        raise ValueError(f"token_weights must have the shape {list(targets.shape)} of the targets and need no gradient")
    device = hidden.device.type
    autocast = torch.is_autocast_enabled(device) and hidden.dtype != torch.float64  # which autocast leaves alone
    dtype = torch.get_autocast_dtype(device) if autocast else hidden.dtype
    # `ctx.needs_input_grad` ignores no_grad, and inside a Function gradients are always off.
    needs = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in (hidden, weight, bias)]
    with torch.autocast(device, enabled=False):
        found = _LinearCrossEntropy.apply(
            hidden, weight, bias, targets, token_weights, z_loss, chunk_bytes, dtype, needs
        )
    return LinearLoss(*found)


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass. The backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        token_weights: Tensor | None,
        z_loss: float,
        chunk_bytes: int,
        dtype: torch.dtype,
        needs: list[bool],
    ) -> tuple[Tensor, Tensor, Tensor]:
        sums = torch.float64 if dtype == torch.float64 else torch.float32
        # Small probabilities underflow in float16, and the loss is not scaled yet.
        factors = torch.float32 if dtype == torch.float16 else dtype
        features, targets = hidden.flatten(0, -2), targets.flatten()
        head, head_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        hidden_gradient, weight_gradient, bias_gradient = (
            x.new_zeros(x.shape, dtype=sums) if need and x is not None else None
            for x, need in zip((features, weight, bias), needs, strict=True)
        )
        # A compiled graph has one shape: it computes the logits of ignored targets, too, and weighs them by 0.
        static, real = torch.compiler.is_compiling(), targets != IGNORED
        positions = torch.arange(len(targets), device=targets.device) if static else real.nonzero()[:, 0]
        position_bytes = len(weight) * (sums.itemsize + (dtype.itemsize if dtype != sums else 0))
        chunks = positions.chunk(max(1, math.ceil(len(positions) / max(1, chunk_bytes // position_bytes))))
        # One buffer for all chunks: fresh pages would take a tenth of the time.
        products = features.new_empty(len(chunks[0]), len(weight), dtype=dtype)
        buffer = products if dtype == sums else torch.empty_like(products, dtype=sums)
        losses, z_terms, correct = [], [], targets.new_zeros(())
        for chunk in chunks:
            inputs, target, counts = features[chunk].to(dtype), targets[chunk, None], real[chunk, None]
            if static:
                target = target.clamp(min=0)
            product, logits = products[: len(chunk)], buffer[: len(chunk)]
            if head_bias is None:
                torch.mm(inputs, head.T, out=product)
            else:
                torch.addmm(head_bias, inputs, head.T, out=product)
            if dtype != sums:
                logits.copy_(product)
            target_logits, maximum = logits.gather(1, target), logits.amax(1, keepdim=True)
            correct += ((target_logits == maximum) & counts).sum()
            exponentials = logits.sub_(maximum).exp_()
            total = exponentials.sum(1, keepdim=True)
            logsumexp = maximum + total.log()
            z_term = z_loss * logsumexp.square()
            scale = torch.ones_like(total) if token_weights is None else token_weights.flatten()[chunk, None].to(sums)
            if static:
                scale = scale * counts
            losses.append(scale * (logsumexp - target_logits + z_term))
            z_terms.append(scale * z_term)
            if not any(needs):
                continue
            gradient = exponentials.mul_(scale * (1 + 2 * z_loss * logsumexp) / total)
            gradient.scatter_(1, target, gradient.gather(1, target) - scale)
            if bias_gradient is not None:
                bias_gradient += gradient.sum(0)
            if factors != sums:
                gradient = product.copy_(gradient)
            if hidden_gradient is not None:
                hidden_gradient[chunk] = (gradient @ (head if factors == dtype else weight.to(factors))).to(sums)
            if weight_gradient is not None:
                _add_product(weight_gradient, gradient.T, inputs.to(factors))
        if hidden_gradient is not None:
            hidden_gradient = hidden_gradient.view(hidden.shape)
        ctx.save_for_backward(hidden_gradient, weight_gradient, bias_gradient)
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        z_sum = torch.cat(z_terms).sum()
        ctx.mark_non_differentiable(z_sum, correct)
        return torch.cat(losses).sum(), z_sum, correct

    @staticmethod
    def backward(ctx: Any, scale: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("linear_cross_entropy has no second derivative; use create_graph=False")
        # A retained graph needs the saved gradients again. Autograd adds nothing to them as long as they are the saved tensors, not views.
        # On a GPU, reading the scale would wait for it. A compiled graph would end there.
        scaled = torch.compiler.is_compiling() or scale.device.type != "cpu" or scale.item() != 1
        gradients = [
            None if gradient is None else (gradient * scale if scaled else gradient).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *gradients, *[None] * 6


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left [V, N] @ right [N, D] to total [V, D] in place, without a second tensor of its size."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        for part, factor in zip(total.split(PRODUCT_ROWS), left.split(PRODUCT_ROWS), strict=True):
            part += factor @ right


def loss_weights(factors: Sequence[float]) -> Tensor | None:
    """float32 [B]: the factor of the loss of each row; None if all are 1."""
    return None if all(factor == 1 for factor in factors) else torch.tensor(factors, dtype=torch.float32)


def count_targets(targets: Tensor) -> int:
    """The number of targets that have a loss."""
    return int((targets != IGNORED).sum())


def per_target(rows: Tensor | None, targets: Tensor) -> Tensor | None:
    """[B, T]: the factors `rows` [B] of `loss_weights` for every target [B, T]."""
    return None if rows is None else rows[:, None].expand_as(targets)


def linear_metrics(found: LinearLoss, targets: Tensor) -> dict[str, tuple[float, int]]:
    """Cross-entropy and accuracy of targets [B, T], each as a sum over targets and their number."""
    count = count_targets(targets)
    return {"loss": ((found.total - found.z_term).item(), count), "accuracy": (int(found.correct), count)}
