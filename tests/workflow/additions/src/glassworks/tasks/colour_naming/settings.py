"""experiments/NAME.yaml of the task `colour_naming`."""

from typing import ClassVar, Literal

from glassworks.config import registry
from glassworks.config.base import Settings
from glassworks.config.encoder import Encoder
from glassworks.config.experiment import Experiment
from glassworks.config.needs import Need


class Classifier(Settings):
    """A linear classifier on the features of a frozen encoder."""

    names: list[str]
    """The classes."""
    encoder: registry.union("encoders", Encoder, "encoder")  # type: ignore[valid-type]
    """The frozen encoder."""


class ColourNaming(Experiment):
    """A classifier of colours."""

    scored_by: ClassVar[str] = "accuracy"

    task: Literal["colour_naming"]
    """The objective."""
    model: Classifier
    """The network."""

    def modules(self) -> tuple[str, ...]:
        return (*super().modules(), *registry.modules("encoders", self.model.encoder.encoder))

    def model_needs(self) -> dict[str, Need]:
        needs: dict[str, Need] = self.model.encoder.needs("model.encoder")
        return needs
