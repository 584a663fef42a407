"""A Vision Transformer encoder (Dosovitskiy et al., 2021): patches, learned positions, pre-norm blocks. No class token: all tokens are used."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.config.model import VisionTransformer as Config
from glassworks.models.attention import Attention, FeedForward


class EncoderBlock(nn.Module):
    """Self-attention and feed-forward, each normalised first and added to the stream."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads)
        self.feed_forward_norm = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(config.width)
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention_norm(x)
        x = x + F.dropout(self.attention(y, self.attention.keys_values(y)), self.dropout, self.training)
        return x + F.dropout(self.feed_forward(self.feed_forward_norm(x)), self.dropout, self.training)


class VisionTransformer(nn.Module):
    """Images [B, 3, I, I] in [-1, 1] to tokens [B, N, C], N = (I / P)^2 for patches of side P."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        count = (config.image_size // config.patch_size) ** 2
        self.patches = nn.Linear(3 * config.patch_size**2, config.width)
        self.positions = nn.Parameter(torch.zeros(count, config.width))
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, images: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(images, self.patch_size).flatten(2).transpose(1, 2)  # [B, N, 3 * P * P]
        x = self.patches(patches) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
