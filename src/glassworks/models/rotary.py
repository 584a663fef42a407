"""Rotary positions (Su et al., 2021, RoFormer) in the half-split form of Llama and Qwen.

Dimension i of a head is paired with dimension i + D/2, and the pair is rotated by position * theta ** (-2i / D). The dot product of a query and a key
then depends only on the difference of their positions. Published checkpoints of Llama and Qwen are half-split; pairs of neighbours would need other weights.
"""

import math

import torch
from torch import Tensor

from glassworks.models.settings.text_decoder import RopeScaling

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of the angle of every position, each [T, D] or [B, 1, T, D], float32."""


def rotation(positions: Tensor, size: int, theta: float, scaling: RopeScaling | None = None) -> Rotation:
    """The rotation of `positions`, int [T] or [B, T], for heads of `size` dimensions."""
    angles = positions[..., None].to(torch.float32) * frequencies(size, theta, scaling, positions.device)
    angles = torch.cat([angles, angles], dim=-1)
    if angles.ndim == 3:
        angles = angles[:, None]
    if scaling is not None:
        return angles.cos() * scaling.attention_factor, angles.sin() * scaling.attention_factor
    return angles.cos(), angles.sin()


def frequencies(
    size: int, theta: float, scaling: RopeScaling | None = None, device: torch.device | None = None
) -> Tensor:
    """The angles of one position, float32 [D / 2]."""
    exponents = torch.arange(0, size, 2, dtype=torch.float32, device=device) / size
    unscaled = 1.0 / theta**exponents
    return unscaled if scaling is None else _scaled(unscaled, size, theta, scaling)


def _scaled(unscaled: Tensor, size: int, theta: float, scaling: RopeScaling) -> Tensor:
    """Frequencies [D / 2] for a longer context, by the formulas of transformers' modeling_rope_utils."""
    factor = scaling.factor
    if scaling.kind == "linear":
        return unscaled / factor
    assert scaling.original_max_tokens is not None
    original: int = scaling.original_max_tokens
    if scaling.kind == "llama3":
        lengths = 2 * math.pi / unscaled
        divided = torch.where(lengths > original / scaling.low, unscaled / factor, unscaled)
        smooth = (original / lengths - scaling.low) / (scaling.high - scaling.low)
        smoothed = (1 - smooth) * divided / factor + smooth * divided
        between = (lengths >= original / scaling.high) & (lengths <= original / scaling.low)
        return torch.where(between, smoothed, divided)

    def dimension(rotations: float) -> float:
        """The dimension whose pair turns that often in the original context."""
        return size * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(scaling.high), dimension(scaling.low)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    pairs = torch.arange(size // 2, dtype=torch.float32, device=unscaled.device)
    kept = 1 - ((pairs - low) / ((high - low) or 0.001)).clamp(0, 1)
    return unscaled / factor * (1 - kept) + unscaled * kept


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate `x` [B, H, T, D]. Computes in float32, returns the dtype of `x`."""
    cosine, sine = by
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (x * cosine + turned * sine).to(x.dtype)
