"""experiments/NAME.yaml of the task `alignment`."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Name, Settings, nearest
from glassworks.config.data import Data
from glassworks.config.encoder import Encoder
from glassworks.config.experiment import Experiment, Start
from glassworks.config.needs import EncoderWeights, Features, Need, roles
from glassworks.config.training import Training
from glassworks.models.settings.alignment import Alignment as Heads
from glassworks.models.settings.alignment import Head


class Tower(Settings):
    """A frozen encoder. Its features are the input of a trained head."""

    encoder: Name
    """An entry under `encoders` in params.yaml."""
    features: Literal["stored", "loop"] = "stored"
    """`stored`: read the features that the stage `features` has computed once. `loop`: run the encoder in every training step, for the same result."""
    head: Annotated[Head | None, Field(exclude_if=lambda head: head is None)] = None
    """The head of this tower; null is `model.head`. Only a `perceiver` reads an encoder with `pooling: none`."""


class Network(Heads, Start):
    """The heads, the encoders that they read, and the initial weights."""

    REPLACED: ClassVar = frozenset({"towers", "pairs", "loss", "equal", "widths", "width_weights", "structure"})
    """Keys that replace those of the experiment that the training continues from. The other settings of a shape must be equal."""

    from_: Annotated[Name | None, Field(alias="from", exclude_if=lambda name: name is None)] = None
    """Continue from another alignment: the heads of towers with the same names start with its weights. Settings need not be repeated. `towers`, `pairs`,
    `loss`, `equal`, `widths`, `width_weights` and `structure` may be others. A head of a further tower is new, and one that is not named is left over.
    """
    towers: dict[Name, Tower] = Field(default={})
    """At least two encoders by modality: `image`, `audio`, `text`."""


class AlignmentTraining(Training):
    """Steps, global batch, precision, reduction, validation and selection, and mixed features."""

    mixup: Annotated[float, Field(ge=0, allow_inf_nan=False, exclude_if=lambda alpha: alpha == 0)] = 0.0
    """Mix the features of two samples of a micro-batch in training, with one weight for all modalities, drawn from Beta(mixup, mixup) (FuseMix, Vouitsis et
    al., 2024, arXiv 2312.10144). 0: none; 1: every weight is as likely.
    """


class Alignment(Experiment):
    """Heads that map the features of several encoders to one space."""

    scored_by: ClassVar[str] = "retrieval"

    task: Literal["alignment"]
    """The objective."""
    data: Data
    """The data of training and evaluation."""
    model: Network = Network()
    """The heads and their towers."""
    training: AlignmentTraining
    """Steps, global batch, precision, validation and selection of the weights."""

    @model_validator(mode="after")
    def _pairs_of_towers(self) -> "Alignment":
        model, names = self.model, list(self.model.towers)
        if len(names) < 2:
            raise ValueError(f"model.towers: name at least two encoders, by modality; there are {len(names)}")
        for key, used in (("pairs", [name for pair in model.pairs for name in pair]), ("equal", [model.equal])):
            for name in used:
                if name is not None and name not in names:
                    raise ValueError(f"model.{key}: there is no tower {name!r}{nearest(name, names)}")
        if twice := [pair for pair in model.pairs if pair[0] == pair[1]]:
            raise ValueError(f"model.pairs: {twice[0]} names one tower twice")
        kinds = [frozenset(pair) for pair in model.pairs]
        if repeated := [pair for pair in model.pairs if kinds.count(frozenset(pair)) > 1]:
            raise ValueError(f"model.pairs: {repeated[0]} is there twice")
        alone = [name for name in names if model.pairs and not any(name in pair for pair in model.pairs)]
        if alone:
            raise ValueError(f"model.pairs: no pair has the tower {alone[0]!r}; add one, or remove the tower")
        if model.perceiver is not None and "perceiver" not in map(self._head, names):
            raise ValueError("model.perceiver: no head is a perceiver; set model.head: perceiver, or remove the key")
        if self.training.mixup and "perceiver" in map(self._head, names):
            raise ValueError("training.mixup mixes vectors, and a perceiver reads tokens; remove one of them")
        return self

    def _head(self, tower: str) -> Head:
        return self.model.towers[tower].head or self.model.head

    def encoder_faults(self, encoders: Mapping[str, Encoder]) -> list[str]:
        """Perceivers over encoders that give one vector, and other heads over tokens, beside those of all tasks."""
        faults = super().encoder_faults(encoders)
        for name, tower in self.model.towers.items():
            head, encoder = self._head(name), encoders.get(tower.encoder)
            if encoder is not None and encoder.gives_tokens != (head == "perceiver"):
                why = (
                    f"{tower.encoder!r} gives tokens, which only a perceiver reads; name an encoder with pooling: mean, or set head: perceiver"
                    if encoder.gives_tokens
                    else f"a perceiver reads tokens, which {tower.encoder!r} does not give; name an encoder with pooling: none, or set another head"
                )
                faults.append(f"{_key(name)}: {why}")
        return faults

    def needs(self) -> dict[str, Need]:
        found = super().needs()
        datasets = [*self.data.datasets, *self.data.held_out_splits]
        for name, tower in self.model.towers.items():
            if tower.features == "stored":
                own = roles(features_role(name), datasets)
                found |= {role: Features(_key(name), tower.encoder, dataset) for dataset, role in own.items()}
            else:
                found[weights_role(name)] = EncoderWeights(_key(name), tower.encoder)
        return found

    def evaluation_needs(self, dataset: str) -> dict[str, Need]:
        towers = self.model.towers.items()
        return {features_role(name): Features(_key(name), tower.encoder, dataset) for name, tower in towers}


def features_role(tower: str) -> str:
    """The role of the stored features of a tower; that of one of several datasets is this, a dot and its name."""
    return f"features.{tower}"


def weights_role(tower: str) -> str:
    """The role of the weights of a tower that runs in the loop."""
    return f"weights.{tower}"


def _key(tower: str) -> str:
    return f"model.towers.{tower}.encoder"
