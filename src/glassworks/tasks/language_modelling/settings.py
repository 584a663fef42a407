"""experiments/NAME.yaml of the task `language_modelling`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from glassworks.config.data import LossOptions, TextData
from glassworks.config.experiment import Experiment, Start
from glassworks.config.needs import Need
from glassworks.config.packing import Packing
from glassworks.models.settings.adapter import Adapter
from glassworks.models.settings.text_decoder import TextDecoder


class PackedData(TextData[LossOptions]):
    """Training data of a language model."""

    packing: Literal["documents", "stream"] = "documents"
    """Packing of texts and messages into rows of max_tokens. "documents" packs whole ones, with separate attention and positions. "stream" concatenates
    texts and cuts at every row end.
    """
    documents_per_row: Annotated[int | None, Field(ge=1, exclude_if=lambda most: most is None)] = None
    """Most texts, conversations or message trees in a row; null for no limit."""

    @model_validator(mode="after")
    def _documents_only(self) -> "PackedData":
        if self.documents_per_row is not None and self.packing == "stream":
            raise ValueError("documents_per_row: a stream has no documents; remove it, or set packing: documents")
        return self

    def rows(self, row_tokens: int) -> Packing:
        """The settings of the stage `pack` for rows of up to `row_tokens` inputs."""
        return Packing(row_tokens=row_tokens, packing=self.packing, documents_per_row=self.documents_per_row)


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

    scored_by: ClassVar[str] = "language"
    packed_by: ClassVar[tuple[str, ...]] = ("data", "model.max_tokens")

    task: Literal["language_modelling"]
    """The objective."""
    data: PackedData
    """Training data."""
    model: Model = Model()
    """The network."""

    def packing(self) -> Packing:
        return self.data.rows(self.model.max_tokens)

    def model_needs(self) -> dict[str, Need]:
        return self.start_needs() if self.model.adapter else {}
