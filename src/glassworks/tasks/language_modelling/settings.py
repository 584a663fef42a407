"""experiments/NAME.yaml of the task `language_modelling`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from glassworks.config.data import LossOptions, TextData
from glassworks.config.experiment import Experiment, Start
from glassworks.config.needs import Need
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


class LanguageModelling(Experiment):
    """A language model."""

    validated: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    scored_by: ClassVar[str] = "language"

    task: Literal["language_modelling"]
    """The objective."""
    data: PackedData
    """Training data."""
    model: Model = Model()
    """The network."""

    def model_needs(self) -> dict[str, Need]:
        return self.start_needs() if self.model.adapter else {}
