"""experiments/NAME.yaml of the task `captioning`."""

from typing import ClassVar, Literal

from pydantic import model_validator

from glassworks.config.data import LossOptions, TextData
from glassworks.config.experiment import Experiment, Start
from glassworks.config.needs import Model, Need, Weights
from glassworks.models.settings.captioner import Captioner


class Network(Captioner, Start):
    """The network and its initial weights."""


class Captioning(Experiment):
    """An image captioner."""

    validated: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    scored_by: ClassVar[str] = "captions"

    task: Literal["captioning"]
    """The objective."""
    data: TextData[LossOptions]
    """The data of training and evaluation."""
    model: Network = Network()
    """The network."""

    @model_validator(mode="after")
    def _same_tokens(self) -> "Captioning":
        started = self.model.language_model
        if started and self.model.from_:
            raise ValueError("model.language_model: `from` replaces its weights; remove this key")
        if started is not None and self.data.tokenizer.of != started:
            raise ValueError(
                f"data.tokenizer: a decoder that begins as {started} reads its tokens; write {{of: {started}}}"
            )
        return self

    @model_validator(mode="after")
    def _a_short_length_to_compile(self) -> "Captioning":
        if self.training.compile and self.model.language_model and self.model.max_tokens is None:
            raise ValueError(
                f"model.max_tokens: compile: true pads every caption to it, and the context of {self.model.language_model} "
                "may be thousands of tokens; set it to the longest caption, such as 64"
            )
        return self

    def needs(self) -> dict[str, Need]:
        found = super().needs()
        if self.model.language_model:
            found["language_model"] = Model(
                "model.language_model", self.model.language_model, task="language_modelling"
            )
        if self.model.backbone and self.model.backbone.weights and not self.model.from_:
            found["backbone.weights"] = Weights("model.backbone.weights", self.model.backbone.weights)
        return found
