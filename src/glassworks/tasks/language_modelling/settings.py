"""experiments/NAME.yaml of the task `language_modelling`."""

from typing import ClassVar, Literal

from glassworks.config.data import TextData
from glassworks.config.experiment import Experiment
from glassworks.models.settings.text_decoder import TextDecoder


class PackedData(TextData):
    """Training data of a language model."""

    packing: Literal["documents", "stream"] = "documents"
    """How texts fill rows of max_tokens: whole texts that do not see each other, with positions of their own; or one stream, cut wherever a row ends."""


class LanguageModelling(Experiment):
    """A language model."""

    scored_by: ClassVar[str] = "language"

    task: Literal["language_modelling"]
    """The objective."""
    data: PackedData
    """Training data."""
    model: TextDecoder = TextDecoder()
    """The network."""
