"""Instruction tuning: language modelling on the answers of conversations, which a chat template renders.

The template belongs to the model: it is saved beside the tokenizer, and the token that ends an answer ends a generated text.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from glassworks.config.data import LossOptions
from glassworks.config.experiment import data_of
from glassworks.config.packing import Packing
from glassworks.data.reading.chat import ChatTemplate
from glassworks.data.reading.packing import PackedRows, Row, arrange
from glassworks.data.reading.rows import Samples
from glassworks.data.reading.text import TextTokenizer
from glassworks.errors import ArtifactError
from glassworks.models.language_model import LanguageModel
from glassworks.models.pretrained.language_models import load_language_model
from glassworks.models.settings.text_decoder import TextDecoder as ModelConfig
from glassworks.tasks.instruction.settings import Instruction, InstructionData
from glassworks.tasks.language_modelling.task import Batch, Begin, LanguageModellingTask, parts
from glassworks.training.task import Task


class InstructionTask(LanguageModellingTask):
    """Instruction tuning as a `Task[LanguageModel, Row, Batch, Row, LossOptions]`."""

    def __init__(
        self,
        template: ChatTemplate,
        model: ModelConfig,
        tokenizer: TextTokenizer,
        packing: Packing,
        z_loss: float = 0.0,
        begin: Begin | None = None,
        neftune: float = 0.0,
    ) -> None:
        super().__init__(model, tokenizer, packing, z_loss, begin, neftune)
        self.template = template

    def arrange(self, dataset: Samples, folder: Path | None = None) -> PackedRows:
        """The conversations of a split in packed rows. `folder` holds their tokens and the plan."""
        return arrange(dataset, self.tokenizer, self.packing, folder, self.template.chat)

    def save(self, model: LanguageModel, folder: Path) -> None:
        """Write the model, its tokenizer and its chat template."""
        super().save(model, folder)
        self.template.save(folder)


def make(
    experiment: Instruction, inputs: Mapping[str, Path], fingerprint: dict[str, object]
) -> Task[LanguageModel, Row, Batch, Row, LossOptions]:
    """The task of an experiment, given the directories of its inputs. The packed rows hold the template that made them."""
    model, tokenizer, packing, z_loss, begin, neftune = parts(experiment, inputs)
    template = _template(inputs["pack"], tokenizer, packing)
    return InstructionTask(template, model, tokenizer, packing, z_loss, begin, neftune)


def load(inputs: Mapping[str, Path], data: Mapping[str, object]) -> tuple[InstructionTask, LanguageModel]:
    """The task of a trained model, with the tokenizer and the template of its folder, and the model in eval mode."""
    folder = inputs["model"]
    model = load_language_model(folder, inputs.get("weights", inputs.get("start"))).eval()
    packing = cast(InstructionData, data_of("instruction", dict(data))).rows(model.config.max_tokens)
    tokenizer = TextTokenizer(folder)
    return InstructionTask(_template(folder, tokenizer, packing), model.config, tokenizer, packing), model


def _template(folder: Path, tokenizer: TextTokenizer, packing: Packing) -> ChatTemplate:
    found = ChatTemplate.of(folder, tokenizer, packing.chat.supervise if packing.chat else "all")
    if found is None:
        raise ArtifactError(f"{folder}: no chat template there; make this artefact again")
    return found
