"""The Tiny Recursive Model (Jolicoeur-Martineau, 2025, "Less is More: Recursive Reasoning with Tiny Networks", arXiv 2510.04871).

One network f of two layers keeps two states at every position: an answer y and a latent state z. The question is x.

    supervision step:  T rounds of n updates of z and one of y (`recursion.refine`)
    answer:            a linear map of y at the cells; a halting logit from y at the first position

Training repeats the supervision step on its own detached states (deep supervision). There are no further inputs: the states are all that a step passes on.

Shapes: B boards, L cells, P prefix vectors, D width, V symbols.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.errors import ArtifactError, ConfigError
from glassworks.models import saving
from glassworks.models.attention import Attend, SelfAttention, initialise
from glassworks.models.feed_forward import FeedForward
from glassworks.models.recursion import States, refine, register_initial_states
from glassworks.models.rotary import Rotation, rotation
from glassworks.models.settings.recursive import Recursive as Config
from glassworks.models.settings.recursive import rounded_up

KIND = "recursive"
EPS = 1e-5
HALTING_BIAS = -5.0
"""Initial bias of the halting logit: at first no answer counts as correct."""


class Step(NamedTuple):
    """The result of a supervision step."""

    states: States
    """Each [B, P + L, D], for the next step; detached by the caller."""
    logits: Tensor
    """[B, L, V] of every cell."""
    halting: Tensor
    """float32 [B]: the logit of the probability that the whole answer is correct."""


class Layer(nn.Module):
    """A mixer of positions and a SwiGLU part, each followed by a residual sum and a norm without gain."""

    def __init__(self, config: Config, length: int) -> None:
        super().__init__()
        self.config = config
        if config.mixer == "attention":
            self.mix: nn.Module = SelfAttention(config.width, config.heads, input_bias=False, output_bias=False)
        else:
            self.mix = FeedForward(length, rounded_up(8 * length / 3), "swiglu", bias=False)
        self.feed_forward = FeedForward(config.width, config.inner_width, "swiglu", bias=False)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        x = _norm(x + self._mixed(x, attend))
        return _norm(x + self.feed_forward(x))

    def _mixed(self, x: Tensor, attend: Attend) -> Tensor:
        if self.config.mixer == "mlp":
            return self.mix(x.transpose(1, 2)).transpose(1, 2)
        return self.mix(x, attend)


class Recursive(nn.Module):
    """The model for boards of `cells` cells with `symbols` symbols."""

    initial_answer: Tensor
    initial_latent: Tensor

    def __init__(self, config: Config, cells: int, symbols: int) -> None:
        super().__init__()
        self.config, self.cells, self.symbols = config, cells, symbols
        length = config.prefix + cells
        self.embedding = nn.Embedding(symbols, config.width)
        self.prefix = nn.Parameter(torch.zeros(config.prefix, config.width))
        self.positions: nn.Parameter | None = None
        if config.mixer == "attention" and config.positions == "learned":
            self.positions = nn.Parameter(torch.empty(length, config.width).normal_(std=config.width**-0.5))
        self.layers = nn.ModuleList(Layer(config, length) for _ in range(config.layers))
        self.head = nn.Linear(config.width, symbols, bias=False)
        self.halting = nn.Linear(config.width, 1)
        register_initial_states(self, config.width)
        self.apply(initialise)
        nn.init.normal_(self.embedding.weight, std=config.width**-0.5)
        nn.init.zeros_(self.halting.weight)
        nn.init.constant_(self.halting.bias, HALTING_BIAS)

    def embed(self, boards: Tensor) -> Tensor:
        """The question x [B, P + L, D] of boards [B, L], scaled to unit variance."""
        cells = self.embedding(boards)
        x = torch.cat([self.prefix.expand(len(boards), -1, -1), cells], dim=1)
        if self.positions is not None:
            x = (x + self.positions) * 0.5**0.5
        return x * self.config.width**0.5

    def begin(self, count: int) -> States:
        """The states before the first supervision step on `count` boards. Both are fixed: they are not trained."""
        shape = (count, self.config.prefix + self.cells, -1)
        return self.initial_answer.expand(shape), self.initial_latent.expand(shape)

    def forward(self, boards: Tensor, states: States | None = None) -> Step:
        """One supervision step on boards [B, L], from the states of the previous one or from the initial ones."""
        network = partial(self._network, attend=Attend(rotation=self._rotation(boards.device)))
        answer, latent = refine(network, self.embed(boards), states or self.begin(len(boards)), self.config)
        cells = answer[:, self.config.prefix :]
        return Step((answer, latent), self.head(cells), self.halting(answer[:, 0]).float()[:, 0])

    def _network(self, x: Tensor, attend: Attend) -> Tensor:
        for layer in self.layers:
            x = layer(x, attend)
        return x

    def _rotation(self, device: torch.device) -> Rotation | None:
        config = self.config
        if config.mixer == "mlp" or config.positions == "learned":
            return None
        positions = torch.arange(config.prefix + self.cells, device=device)
        return rotation(positions, config.width // config.heads, config.theta)

    def blocks(self) -> Iterator[nn.Module]:
        """The layers."""
        yield from self.layers

    def shards(self) -> Iterator[nn.Module]:
        """The layers."""
        yield from self.layers

    def save(self, directory: Path) -> None:
        """Write config.json and model.safetensors."""
        shape = {"cells": self.cells, "symbols": self.symbols}
        saving.save(self, directory, {"model": KIND, **self.config.model_dump(mode="json"), **shape})

    @classmethod
    def load(cls, directory: Path) -> "Recursive":
        """The model written by `save`. Raises `ArtifactError` for another kind of model or tensors that do not match."""
        saved = saving.read_config(directory, "a saved recursive model")
        if saved.get("model") != KIND:
            raise ArtifactError(
                f"{directory}: not a saved recursive model (it is a {saved.get('model', 'foreign model')})"
            )
        try:
            config = Config.model_validate({name: saved[name] for name in Config.model_fields})
            model = cls(config, int(saved["cells"]), int(saved["symbols"]))
        except (KeyError, ValueError, TypeError) as error:
            first = str(error).splitlines()[0]
            raise ArtifactError(
                f"{directory / saving.CONFIG}: of another version of glassworks ({first}); train the model again"
            ) from None
        saving.assign(model, saving.read_tensors(directory / saving.WEIGHTS), directory / saving.WEIGHTS)
        return model


def stablemax_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy [...] of logits [..., V] with targets [...] under stablemax, in float64 (Prieto et al., 2025, arXiv 2501.04697).

    Stablemax replaces exp by s(x) = x + 1 for x ≥ 0 and 1 / (1 - x) for x < 0, which grows linearly and cannot overflow.
    """
    if logits.device.type == "mps":
        raise ConfigError("training.cell_loss: stablemax computes in float64, which mps does not have; use softmax")
    logits = logits.double()
    positive = torch.where(logits < 0, 1 / (1 - logits.clamp(max=0)), logits.clamp(min=0) + 1)
    chosen = positive.gather(-1, targets[..., None])[..., 0]
    return positive.sum(-1).log() - chosen.log()


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=EPS)
