"""Heads that map the features of frozen encoders to one space, where matching samples are close.

N samples, T tokens, C features of an encoder, D width of the space. A modality is named after its encoder's tower: image, audio, text. A sample may lack some
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
from glassworks.models.perceiver import Perceiver
from glassworks.models.settings.alignment import Alignment as Config
from glassworks.models.settings.perceiver import Perceiver as Shape

KIND = "alignment"


class Head(nn.Module):
    """Features [N, C] to unit vectors [N, D]. The layer norm at the input removes the scale of the encoder."""

    def __init__(self, width: int, kind: str, config: Config) -> None:
        """`kind` is `linear` or `mlp`."""
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(config.dropout)
        self.project = nn.Linear(width, config.width)
        self.block: nn.Sequential | None = None
        if kind == "mlp":
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


class PerceiverHead(nn.Module):
    """Tokens [N, T, C] with their mask [N, T] to unit vectors [N, D]: the mean of the latents of a resampler, and a linear map."""

    def __init__(self, width: int, tokens: int, config: Config) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.resample = Perceiver(width, tokens, config.perceiver or Shape())
        self.project = nn.Linear(width, config.width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        latents = self.resample(self.dropout(tokens), mask)  # [N, L, C]
        return F.normalize(self.project(self.dropout(latents.mean(1))).float(), dim=-1)


def head_of(tower: Mapping[str, Any], config: Config) -> str:
    """The kind of head of a tower: its own, or that of all."""
    return str(tower.get("head", config.head))


def prefix(vectors: Tensor, width: int) -> Tensor:
    """The first `width` numbers of unit vectors [N, D], normalised again. Zero vectors stay zero."""
    return vectors if width == vectors.shape[1] else F.normalize(vectors[:, :width], dim=-1)


class Alignment(nn.Module):
    """The heads, and the temperature of the similarities between their outputs."""

    def __init__(self, config: Config, towers: Mapping[str, dict[str, Any]]) -> None:
        """`towers` describes the features of each modality: `width`, the number of `tokens` if they are not pooled, its own `head` if it has one, and whatever
        identifies the encoder. It is saved with the model.
        """
        super().__init__()
        kinds = {name: head_of(tower, config) for name, tower in towers.items()}
        if "perceiver" in kinds.values() and config.perceiver is None:  # saved with the model
            config = config.model_copy(update={"perceiver": Shape()})
        self.config, self.towers = config, dict(towers)
        self.heads = nn.ModuleDict({name: _head(kinds[name], tower, config) for name, tower in towers.items()})
        self.pairs = config.pairs_of(list(self.towers))
        temperature = config.temperature or (0.1 if config.loss == "sigmoid" else 0.07)
        self.log_scale = nn.Parameter(torch.tensor([-math.log(temperature)]))
        self.bias = nn.Parameter(torch.tensor([config.bias])) if config.loss == "sigmoid" else None

    def forward(
        self,
        features: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        masks: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Features [N, C] of some modalities, or tokens [N, T, C] with their mask [N, T], to unit vectors [N, D]; zero where `present` [N] is False."""
        vectors = {
            name: self.heads[name](values.float(), *([masks[name]] if masks and name in masks else []))
            for name, values in features.items()
        }
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
            fields = [name for name in Config.model_fields if name in saved or name not in Config.LATER]
            config = Config.model_validate({name: saved[name] for name in fields})
            model = cls(config, saved["towers"])
        except (KeyError, ValueError, TypeError) as error:
            first = str(error).splitlines()[0]
            raise ArtifactError(
                f"{directory / saving.CONFIG}: of another version of glassworks ({first}); train the model again"
            ) from None
        saving.assign(model, saving.read_tensors(directory / saving.WEIGHTS), directory / saving.WEIGHTS)
        return model


def _head(kind: str, tower: Mapping[str, Any], config: Config) -> nn.Module:
    if kind == "perceiver":
        return PerceiverHead(tower["width"], tower["tokens"], config)
    return Head(tower["width"], kind, config)
