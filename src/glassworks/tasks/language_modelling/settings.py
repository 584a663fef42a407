"""experiments/NAME.yaml of the task `language_modelling`."""

from typing import ClassVar, Literal

from glassworks.config.data import LossOptions, TextData
from glassworks.config.experiment import Experiment, Start
from glassworks.models.settings.text_decoder import TextDecoder


class PackedData(TextData[LossOptions]):
    """Training data of a language model."""

    packing: Literal["documents", "stream"] = "documents"
    """Packing of texts into rows of max_tokens. "documents" packs whole texts, with separate attention and positions. "stream" concatenates texts and
    cuts at every row end.
    """


class Model(TextDecoder, Start):
    """The network and its initial weights."""


class LanguageModelling(Experiment):
    """A language model."""

    scored_by: ClassVar[str] = "language"

    task: Literal["language_modelling"]
    """The objective."""
    data: PackedData
    """Training data."""
    model: Model = Model()
    """The network."""
