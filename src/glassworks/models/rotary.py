"""Rotary positions (Su et al., 2021, RoFormer) in the half-split form of Llama and Qwen.

Dimension i of a head is paired with dimension i + D/2, and the pair is rotated by position * theta ** (-2i / D). The dot product of a query and a key
then depends only on the difference of their positions. Published checkpoints of Llama and Qwen are half-split; pairs of neighbours would need other weights.
"""

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of the angle of every position, each [T, D] or [B, 1, T, D], float32."""


def rotation(positions: Tensor, size: int, theta: float) -> Rotation:
    """The rotation of `positions`, int [T] or [B, T], for heads of `size` dimensions."""
    exponents = torch.arange(0, size, 2, dtype=torch.float32, device=positions.device) / size
    angles = positions[..., None].to(torch.float32) * (1.0 / theta**exponents)
    angles = torch.cat([angles, angles], dim=-1)
    if angles.ndim == 3:
        angles = angles[:, None]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate `x` [B, H, T, D]. Computes in float32, returns the dtype of `x`."""
    cosine, sine = by
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (x * cosine + turned * sine).to(x.dtype)
