"""experiments/NAME.yaml of the task `alignment`."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Name, Settings
from glassworks.config.data import Data
from glassworks.config.experiment import Experiment
from glassworks.config.needs import EncoderWeights, Features, Need, roles
from glassworks.models.settings.alignment import Alignment as Heads


class Tower(Settings):
    """A frozen encoder. Its features are the input of a trained head."""

    encoder: Name
    """An entry under `encoders` in params.yaml."""
    features: Literal["stored", "loop"] = "stored"
    """`stored`: read the features that the stage `features` has computed once. `loop`: run the encoder in every training step, for the same result."""


class Network(Heads):
    """The heads and the encoders that they read."""

    towers: dict[Name, Tower] = Field(default={})
    """Two encoders by modality: `image` and `text`."""


class Alignment(Experiment):
    """Heads that map images and texts to one space."""

    scored_by: ClassVar[str] = "retrieval"

    task: Literal["alignment"]
    """The objective."""
    data: Data
    """The data of training and evaluation."""
    model: Network = Network()
    """The heads and their towers."""

    @model_validator(mode="after")
    def _two_towers(self) -> "Alignment":
        if len(self.model.towers) != 2:
            raise ValueError(f"model.towers: name two encoders, by modality; there are {len(self.model.towers)}")
        return self

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
