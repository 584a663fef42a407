"""A Vision Transformer (Dosovitskiy et al., 2021) configurable as CLIP's or timm's: patches, learned positions, pre-norm blocks.

Shapes: B batch, I side of the image, P side of a patch, N tokens, C width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.models.attention import SelfAttention
from glassworks.models.feed_forward import FeedForward
from glassworks.models.settings.vision_transformer import VisionTransformer as Config
from glassworks.models.settings.whisper_encoder import WhisperEncoder


class LinearStem(nn.Module):
    """Images [B, 3, I, I] to one token per patch [B, (I / P)^2, C] by a linear map of its pixels."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.project = nn.Linear(3 * config.patch_size**2, config.width, bias=config.patch_bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.project(F.pixel_unshuffle(images, self.patch_size).flatten(2).transpose(1, 2))


class ConvolutionalStem(nn.Module):
    """Images [B, 3, I, I] to tokens [B, (I / P)^2, C] by three overlapping convolutions (Xiao et al., 2021), whose weights all positions share."""

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
    """A pre-norm block: self-attention and feed-forward, each with a residual connection."""

    def __init__(self, config: Config | WhisperEncoder) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attention = SelfAttention(config.width, config.heads)
        self.feed_forward_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.feed_forward = FeedForward(config.width, config.inner_width, config.feed_forward)
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        x = x + F.dropout(self.attention(self.attention_norm(x)), self.dropout, self.training)
        return x + F.dropout(self.feed_forward(self.feed_forward_norm(x)), self.dropout, self.training)


class VisionTransformer(nn.Module):
    """Images [B, 3, I, I] in [-1, 1] to tokens [B, N, C]: the optional class token and (I / P)^2 patch tokens."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.widths = config, [config.width]
        count = (config.image_size // config.patch_size) ** 2 + config.class_token
        self.stem = ConvolutionalStem(config) if config.stem == "convolutional" else LinearStem(config)
        if config.class_token:
            self.class_token = nn.Parameter(torch.zeros(config.width))
        self.positions = nn.Parameter(torch.zeros(count, config.width))
        if config.first_norm:
            self.first_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, images: Tensor) -> Tensor:
        """The normalised output of the last block."""
        return self.norm(self.layers(images, [-1])[0])

    def layers(self, images: Tensor, indices: Sequence[int]) -> list[Tensor]:
        """The unnormalised outputs of some blocks, by index: 0, 1, … or -1, -2, … from the end."""
        wanted = [range(len(self.blocks))[index] for index in indices]
        x = self.stem(standardise(images, self.config.mean, self.config.std))
        if self.config.class_token:
            x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1)
        x = x + self.positions
        if self.config.first_norm:
            x = self.first_norm(x)
        found: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks[: max(wanted) + 1]):
            x = block(x)
            if index in wanted:
                found[index] = x
        return [found[index] for index in wanted]


def standardise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images [B, 3, I, I] in [-1, 1], standardised by a network's training mean and deviation of values in 0 … 1."""
    if set(mean) == set(std) == {0.5}:
        return images
    scale = torch.tensor([0.5 / s for s in std], device=images.device)[:, None, None]
    shift = torch.tensor([(0.5 - m) / s for m, s in zip(mean, std, strict=True)], device=images.device)[:, None, None]
    return images * scale + shift
