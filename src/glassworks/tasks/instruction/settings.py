"""experiments/NAME.yaml of the task `instruction`."""

from typing import ClassVar, Literal

from pydantic import model_validator

from glassworks.config.needs import Need
from glassworks.config.packing import Chat, Packing
from glassworks.tasks.language_modelling.settings import LanguageModelling, PackedData


class InstructionData(Chat, PackedData):
    """Conversations to train on. Samples without messages are texts, of which every token has a loss."""

    def rows(self, row_tokens: int) -> Packing:
        chat = Chat(**{name: getattr(self, name) for name in Chat.model_fields})
        return super().rows(row_tokens).model_copy(update={"chat": chat})


class Instruction(LanguageModelling):
    """Instruction tuning: a decoder trained on the answers of conversations, which its chat template renders."""

    scored_by: ClassVar[str | None] = "answers"
    continues: ClassVar[tuple[str, ...]] = ("language_modelling",)

    task: Literal["instruction"]  # type: ignore[assignment]  # language modelling under another name
    """The objective."""
    data: InstructionData
    """Training data."""

    def evaluation_needs(self, dataset: str) -> dict[str, Need]:
        return self._weights_needs() or self.start_needs()  # to compare the model with its base

    @model_validator(mode="after")
    def _starts_with_a_model(self) -> "Instruction":
        if not self.model.inherits:
            raise ValueError(
                "model: instruction tuning starts with a trained model; name published weights in `weights`, or an experiment in `from`"
            )
        if self.data.new_tokens and (self.model.adapter is None or (self.model.weights and self.model.from_)):
            raise ValueError(
                "data.new_tokens: their rows are trained beside a new adapter; set `model.adapter`, and continue no other adapter"
            )
        return self
