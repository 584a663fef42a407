"""The Perceiver resampler (Alayrac et al., 2022, "Flamingo", arXiv 2204.14198; layout of OpenFlamingo): any number of tokens to a fixed number of latents.

    layer:   z = z + attention(queries: LN(z), keys and values: LN(x) and LN(z))
             z = z + feed-forward(LN(z)), with GELU, four times as wide inside
    output:  LN(z)

Linear maps have no bias. Shapes: N samples, T tokens, L latents, C width, H heads, D width of a head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.models.feed_forward import FeedForward
from glassworks.models.settings.perceiver import Perceiver as Config


class LatentAttention(nn.Module):
    """Attention of the latents to the tokens and to themselves."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.heads = config.heads
        self.token_norm, self.latent_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, inner, bias=False)
        self.key_value = nn.Linear(width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)

    def forward(self, latents: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """[N, L, C] from latents [N, L, C] and tokens [N, T, C]; `mask` [N, 1, 1, T + L] is True at keys that count."""
        latents = self.latent_norm(latents)
        read = torch.cat([self.token_norm(tokens), latents], dim=1)
        key, value = self.key_value(read).chunk(2, dim=-1)
        mixed = F.scaled_dot_product_attention(
            self._split(self.query(latents)), self._split(key), self._split(value), attn_mask=mask
        )  # [N, H, L, D]
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Layer(nn.Module):
    """Attention and a feed-forward part, each added to the latents."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.attention = LatentAttention(width, config)
        self.norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, 4 * width, "gelu", bias=False)

    def forward(self, latents: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        latents = latents + self.attention(latents, tokens, mask)
        return latents + self.feed_forward(self.norm(latents))


class Perceiver(nn.Module):
    """Tokens [N, T, C] to latents [N, L, C]."""

    def __init__(self, width: int, tokens: int, config: Config) -> None:
        """`width` is C, and `tokens` is T, of which only `config.positions` depends."""
        super().__init__()
        self.latents = nn.Parameter(torch.randn(config.latents, width))
        self.positions = nn.Parameter(torch.zeros(tokens, width)) if config.positions else None
        self.layers = nn.ModuleList(Layer(width, config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Latents of tokens [N, T, C]. Those at which `mask` [N, T] is False count nowhere; a sample may have none at all."""
        latents = self.latents.expand(len(tokens), -1, -1)
        if self.positions is not None:
            tokens = tokens + self.positions
        seen = torch.cat([mask, mask.new_ones(latents.shape[:2])], dim=1)[:, None, None]  # [N, 1, 1, T + L]
        for layer in self.layers:
            latents = layer(latents, tokens, seen)
        return self.norm(latents)
