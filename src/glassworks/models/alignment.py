"""Heads that map the features of frozen encoders to one space, where matching samples are close.

N samples, C features of an encoder, D width of the space. A modality is named after its encoder's tower: image, audio, text. A sample may lack some
modalities: its vectors of these are zero.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.errors import ArtifactError
from glassworks.models import saving
from glassworks.models.contrastive import info_nce, sigmoid_loss
from glassworks.models.settings.alignment import Alignment as Config

KIND = "alignment"


class Head(nn.Module):
    """Features [N, C] to unit vectors [N, D]. The layer norm at the input removes the scale of the encoder."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(config.dropout)
        self.project = nn.Linear(width, config.width)
        self.block: nn.Sequential | None = None
        if config.head == "mlp":
            inner = 2 * config.width
            self.block = nn.Sequential(
                nn.LayerNorm(config.width),
                nn.Linear(config.width, inner),
                nn.GELU(),
                nn.Dropout(config.dropout),
                nn.Linear(inner, config.width),
            )

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.project(self.dropout(self.norm(features)))
        if self.block is not None:
            hidden = hidden + self.block(hidden)
        return F.normalize(hidden.float(), dim=-1)


def prefix(vectors: Tensor, width: int) -> Tensor:
    """The first `width` numbers of unit vectors [N, D], normalised again. Zero vectors stay zero."""
    return vectors if width == vectors.shape[1] else F.normalize(vectors[:, :width], dim=-1)


class Alignment(nn.Module):
    """The heads, and the temperature of the similarities between their outputs."""

    def __init__(self, config: Config, towers: Mapping[str, dict[str, Any]]) -> None:
        """`towers` describes the features of each modality: `width`, and whatever identifies the encoder. It is saved with the model."""
        super().__init__()
        self.config, self.towers = config, dict(towers)
        self.heads = nn.ModuleDict({name: Head(tower["width"], config) for name, tower in towers.items()})
        self.pairs = config.pairs_of(list(self.towers))
        temperature = config.temperature or (0.1 if config.loss == "sigmoid" else 0.07)
        self.log_scale = nn.Parameter(torch.tensor([-math.log(temperature)]))
        self.bias = nn.Parameter(torch.tensor([config.bias])) if config.loss == "sigmoid" else None

    def forward(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Features [N, C] of some modalities to their unit vectors [N, D]; zero where `present` [N] of the modality is False."""
        vectors = {name: self.heads[name](values.float()) for name, values in features.items()}
        return {
            name: values * present[name][:, None] if present and name in present else values
            for name, values in vectors.items()
        }

    def loss(self, left: Tensor, right: Tensor, equal: Tensor | None = None) -> Tensor:
        """The summed loss of N pairs of unit vectors [N, D]."""
        if self.bias is None:
            return info_nce(left, right, self.scale(), equal)
        return sigmoid_loss(left, right, self.scale(), self.bias, equal)

    def scale(self) -> Tensor:
        """The factor of the similarities [1]: the inverse temperature within its limits.

        The gradient ignores the limits, so the parameter can return from beyond them.
        """
        limited = self.log_scale.clamp(0, -math.log(self.config.smallest_temperature))
        return (self.log_scale + (limited - self.log_scale).detach()).exp()

    def blocks(self) -> Iterator[nn.Module]:
        """The heads."""
        yield from self.heads.values()

    def shards(self) -> Iterator[nn.Module]:
        """The heads."""
        yield from self.heads.values()

    def save(self, directory: Path) -> None:
        """Write config.json and model.safetensors."""
        saving.save(self, directory, {"model": KIND, **self.config.model_dump(mode="json"), "towers": self.towers})

    @classmethod
    def load(cls, directory: Path) -> "Alignment":
        """The model written by `save`. Raises `ArtifactError` for another kind of model or tensors that do not match."""
        saved = saving.read_config(directory, "saved heads")
        if saved.get("model") != KIND:
            raise ArtifactError(f"{directory}: not saved heads (it is a {saved.get('model', 'foreign model')})")
        try:
            config = Config.model_validate({name: saved[name] for name in Config.model_fields})
            model = cls(config, saved["towers"])
        except (KeyError, ValueError, TypeError) as error:
            first = str(error).splitlines()[0]
            raise ArtifactError(
                f"{directory / saving.CONFIG}: of another version of glassworks ({first}); train the model again"
            ) from None
        saving.assign(model, saving.read_tensors(directory / saving.WEIGHTS), directory / saving.WEIGHTS)
        return model
