"""From the patches of a frozen vision tower to image tokens: attention pooling of windows (Molmo), or a linear map (LLaVA, nanoVLM).

The frames of a clip may have larger windows than images. The windows of crops reach from crop to crop. All share the weights of the connector.

Shapes: N images, T patches, M image tokens, K tokens of all crops, P patches of a window, C width of the tower, D width of the decoder, H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.errors import ConfigError
from glassworks.models.attention import initialise
from glassworks.models.settings.connector import Connector as Config

STD = 0.02
"""Standard deviation of new weights that are `small`."""
PLACED, PLACED_UNIT = 0.3, 0.5**0.5
"""Standard deviation of new positions beside `fan_in`, on each axis, without and with `unit_scale`: about that of the features. Much smaller ones are learned
too slowly to tell places."""


def windows(grid: int, side: int) -> Tensor:
    """int64 [M, P]: the patches of each window of `side` by `side` patches, row by row; -1 beyond the edge of the grid."""
    across = -(-grid // side)
    numbers = F.pad(torch.arange(grid * grid, device="cpu").view(grid, grid), [0, across * side - grid] * 2, value=-1)
    return numbers.view(across, side, across, side).transpose(1, 2).reshape(across**2, side**2)


def between(grid: int, side: int, other: int) -> Tensor:
    """[M, N]: weights by which N values at the middles of windows of `side` patches are interpolated, bilinearly, at the M middles of windows of `other`."""
    known, wanted = (_middles(grid, length) for length in (side, other))
    right = torch.searchsorted(known, wanted).clamp(1, max(len(known) - 1, 1))
    line = torch.zeros(len(wanted), len(known), device="cpu")
    if len(known) == 1:
        line += 1
    else:
        start, end = known[right - 1], known[right]
        share = ((wanted - start) / (end - start)).clamp(0, 1)[:, None]
        line.scatter_(1, right[:, None] - 1, 1 - share).scatter_(1, right[:, None], share)
    return torch.kron(line, line)


def _middles(grid: int, side: int) -> Tensor:
    """The middles of the windows on one axis in patches. The last window may be cut off by the edge."""
    starts = range(0, grid, side)
    return torch.tensor([(start + min(start + side, grid) - 1) / 2 for start in starts], device="cpu")


@torch.no_grad()
def _place(positions: Tensor, std: float) -> None:
    """Fill positions [M, D] of a square of tokens with the sum of a vector for each row and one for each column.

    A vector is the coordinate on its axis times one random vector, plus another random vector for each place. So one linear map tells the order of places.
    """
    side = round(len(positions) ** 0.5)
    axes = torch.randn(2, side, positions.shape[1], device=positions.device)
    if side > 1:
        ramp = torch.linspace(-1, 1, side, device=positions.device)
        ramp = ramp / ramp.square().mean().sqrt()
        axes = (axes + ramp[:, None] * torch.randn(2, 1, positions.shape[1], device=positions.device)) / 2**0.5
    rows, columns = axes * std
    positions.copy_((rows[:, None] + columns[None]).flatten(0, 1))


class AttentionPooling(nn.Module):
    """One vector for each window. The query is the mean of the window, keys and values are its patches; those beyond the edge count nowhere."""

    def __init__(self, width: int, heads: int, places: Tensor, video_places: Tensor | None = None) -> None:
        """`places` [M, P] is that of `windows`, and `video_places` that of frames."""
        super().__init__()
        if width % heads:
            raise ConfigError(f"model.connector.heads: {heads} does not divide the width {width} of the tower")
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.register_buffer("places", places.clamp(min=0), persistent=False)
        self.register_buffer("real", places >= 0, persistent=False)
        if video_places is not None:
            self.register_buffer("video_places", video_places.clamp(min=0), persistent=False)
            self.register_buffer("video_real", video_places >= 0, persistent=False)

    def forward(self, patches: Tensor, video: bool = False) -> Tensor:
        """Patches [N, T, C] to [N, M, C], of images, or of frames with `video`. The softmax is float32 at least."""
        return self._pool(patches, *((self.video_places, self.video_real) if video else (self.places, self.real)))

    def across(self, patches: Tensor, windows: Tensor) -> Tensor:
        """Patches [T, C] of all crops to [K, C], by `windows`, int64 [K, P], the patches of each token, -1 for none."""
        return self._pool(patches[None], windows.clamp(min=0), windows >= 0)[0]

    def _pool(self, patches: Tensor, places: Tensor, inside: Tensor) -> Tensor:
        """Patches [N, T, C] to [N, M, C] by `places` [M, P], those `inside`, bool [M, P]."""
        gathered = patches[:, places]  # [N, M, P, C]
        real = inside[:, :, None].to(patches.dtype)
        mean = (gathered * real).sum(2) / real.sum(1)  # [N, M, C]
        query = self._heads(self.query(mean))  # [N, M, H, C / H]
        key, value = (self._heads(map(patches))[:, places] for map in (self.key, self.value))  # [N, M, P, H, C / H]
        scores = torch.einsum("nmhd,nmphd->nmhp", query, key) * key.shape[-1] ** -0.5
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        weights = scores.masked_fill(~inside[:, None], -torch.inf).softmax(-1).to(value.dtype)
        return self.out(torch.einsum("nmhp,nmphd->nmhd", weights, value).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))


class SwiGlu(nn.Module):
    """w2(silu(w1 x) * w3 x), without biases."""

    def __init__(self, width: int, inner: int, out: int) -> None:
        super().__init__()
        self.w1, self.w3 = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.w2 = nn.Linear(inner, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Connector(nn.Module):
    """Features [N, T, C] of `grid` by `grid` patches to image tokens [N, M, D]."""

    places: Tensor
    between: Tensor

    def __init__(self, config: Config, grid: int, width: int, out: int, inner: int) -> None:
        """`width` is that of the tower, `out` that of the decoder, `inner` the default of `inner_width`. Raises `ConfigError`."""
        super().__init__()
        try:
            self.tokens = config.tokens(grid)
        except ValueError as error:
            raise ConfigError(f"model.{error}") from None
        self.norm, self.unit_scale = nn.LayerNorm(width) if config.norm else None, config.unit_scale
        self.pooling: AttentionPooling | None = None
        places = windows(grid, config.side)
        if config.kind == "attention":
            video = None if config.video_window is None else windows(grid, config.video_window)
            self.pooling = AttentionPooling(width, config.heads, places, video)
            self.project: nn.Module = SwiGlu(width, config.inner_width or inner, out)
        else:
            self.register_buffer("places", places, persistent=False)
            self.project = nn.Linear(width * places.shape[1], out, bias=False)
        self.positions = nn.Parameter(torch.zeros(self.tokens, out)) if config.positions else None
        self.frame_tokens = config.frame_tokens(grid)
        if config.video_window is not None:
            self.register_buffer("between", between(grid, config.side, config.video_window), persistent=False)
        if config.initial == "fan_in":
            self.apply(initialise)
            if self.positions is not None:
                _place(self.positions, PLACED_UNIT if config.unit_scale else PLACED)
            return
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif not name.startswith("norm."):
                nn.init.normal_(parameter, std=STD)

    def forward(self, patches: Tensor, video: bool = False) -> Tensor:
        """Image tokens [N, M, D] of patches [N, T, C] in any floating type, of images, or of frames with `video`.

        The windows of frames have the positions of images, interpolated at their middles.
        """
        tokens = self.content(patches, video)
        if self.positions is None:
            return tokens
        positions = self.between @ self.positions if video else self.positions
        return tokens + positions.to(tokens.dtype)

    def content(self, patches: Tensor, video: bool = False) -> Tensor:
        """Image tokens [N, M, D] without their positions."""
        patches = patches.to(self._dtype)
        if self.norm is not None:
            patches = self.norm(patches)
        pooled = patches[:, self.places].flatten(2) if self.pooling is None else self.pooling(patches, video)
        return self._projected(pooled)

    def tiles(self, patches: Tensor, windows: Tensor) -> Tensor:
        """Tokens [K, D] of the patches [N, T, C] of all crops. `windows`, int64 [K, P], has the patches of each token among all N * T, -1 for none.

        They have no positions: the number of crops differs from image to image.
        """
        assert self.pooling is not None
        patches = patches.flatten(0, 1).to(self._dtype)
        if self.norm is not None:
            patches = self.norm(patches)
        return self._projected(self.pooling.across(patches, windows))

    def _projected(self, pooled: Tensor) -> Tensor:
        tokens: Tensor = self.project(pooled)
        return F.rms_norm(tokens, tokens.shape[-1:]) if self.unit_scale else tokens

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype
