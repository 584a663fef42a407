"""A Vision Transformer encoder (Dosovitskiy et al., 2021): patches, learned positions, pre-norm blocks. No class token: all tokens are used."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.config.model import VisionTransformer as Config
from glassworks.models.attention import Attention, FeedForward


class LinearStem(nn.Module):
    """Images [B, 3, I, I] to one token per patch [B, N, C] by a linear map of its pixels."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.project = nn.Linear(3 * config.patch_size**2, config.width)

    def forward(self, images: Tensor) -> Tensor:
        return self.project(F.pixel_unshuffle(images, self.patch_size).flatten(2).transpose(1, 2))


class ConvolutionalStem(nn.Module):
    """Images [B, 3, I, I] to tokens [B, N, C] by three overlapping convolutions (Xiao et al., 2021): weights are shared by all places from the start."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        channels = (3, config.width // 4, config.width // 2, config.width)
        strides = (2, 2, config.patch_size // 4)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride, padding=1)
            for before, after, stride in zip(channels, channels[1:], strides, strict=False)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(1, count) for count in channels[1:-1])

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for convolution, norm in zip(self.convolutions, self.norms, strict=False):
            x = F.gelu(norm(convolution(x)))
        return self.convolutions[-1](x).flatten(2).transpose(1, 2)


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
        count = (config.image_size // config.patch_size) ** 2
        self.stem = ConvolutionalStem(config) if config.stem == "convolutional" else LinearStem(config)
        self.positions = nn.Parameter(torch.zeros(count, config.width))
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
