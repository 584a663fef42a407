"""experiments/NAME.yaml of the task `language_modelling`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from glassworks.config.data import LossOptions, TextData
from glassworks.config.experiment import Experiment, Start
from glassworks.config.needs import Need
from glassworks.config.training import Training
from glassworks.models.settings.adapter import Adapter
from glassworks.models.settings.text_decoder import TextDecoder


class PackedData(TextData[LossOptions]):
    """Training data of a language model."""

    packing: Literal["documents", "stream"] = "documents"
    """Packing of texts into rows of max_tokens. "documents" packs whole texts, with separate attention and positions. "stream" concatenates texts and
    cuts at every row end.
    """


class Model(TextDecoder, Start):
    """The network and its initial weights."""

    adapter: Annotated[Adapter | None, Field(exclude_if=lambda adapter: adapter is None)] = None
    """Train an adapter of the model that `from` names, whose weights stay as they are. The experiment publishes the adapter alone."""

    @model_validator(mode="after")
    def _adapter_of_something(self) -> "Model":
        if self.adapter and self.from_ is None:
            raise ValueError("adapter: an adapter of random weights is of no use; name a trained model in `from`")
        return self


class TokenTraining(Training):
    """Steps, global batch, precision, reduction, validation and selection, and the loss."""

    z_loss: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Weight of the squared logsumexp of the logits of every target, which keeps logits small (PaLM, Chowdhery et al., 2022, uses 1e-4)."""


class LanguageModelling(Experiment):
    """A language model."""

    scored_by: ClassVar[str] = "language"

    task: Literal["language_modelling"]
    """The objective."""
    data: PackedData
    """Training data."""
    model: Model = Model()
    """The network."""
    training: TokenTraining
    """Steps, global batch, precision, validation, selection of the weights and the loss."""

    def model_needs(self) -> dict[str, Need]:
        return self.start_needs() if self.model.adapter else {}
