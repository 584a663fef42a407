"""Language modelling: the next token of a text, given the previous tokens.

A row holds packed texts, conversations and message trees. Targets are the inputs shifted by one; EOS is a target like any token. Loss sums and weights stay
separate, so a token has the same weight in any micro-batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from glassworks.config.data import LossOptions
from glassworks.config.experiment import data_of
from glassworks.config.packing import Packing
from glassworks.data.reading.packing import PackedRows, Row, arrange
from glassworks.data.reading.rows import Samples
from glassworks.data.reading.text import TextTokenizer
from glassworks.models.attention import document_positions
from glassworks.models.language_model import LanguageModel
from glassworks.models.losses import IGNORED, count_targets, loss_weights, next_token_losses, next_token_metrics
from glassworks.models.settings.text_decoder import TextDecoder as ModelConfig
from glassworks.tasks.language_modelling.settings import LanguageModelling, PackedData
from glassworks.training.task import Loss, Task


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B rows with T inputs each."""

    keys: list[str]
    inputs: Tensor
    """[B, T] token ids."""
    targets: Tensor
    """[B, T] the next token of each input, -100 at padding."""
    documents: Tensor | None
    """[B, T] the index of the document in its row, -1 at padding; None when rows are cut from one stream."""
    loss_weights: Tensor | None = None
    """[B] factor of the training loss of each row; None for 1."""
    token_weights: Tensor | None = None
    """float32 [B, T] weight of each target; None if all weights are 0 (no target) or 1."""
    branches: Tensor | None = None
    """[B, T] the branch of its message tree, 0 in the context; None without message trees."""
    positions: Tensor | None = None
    """[B, T] the position in the document; None with `branches`."""

    @property
    def layout(self) -> tuple[Tensor | None, ...]:
        """The arguments of the model after the inputs."""
        return self.documents, self.branches, self.positions


class LanguageModellingTask:
    """Language modelling as a `Task[LanguageModel, Row, Batch, Row, LossOptions]`."""

    metrics = ("loss", "accuracy")
    """Per target token."""
    passes = 1

    def __init__(
        self,
        model: ModelConfig,
        tokenizer: TextTokenizer,
        packing: Packing | None = None,
        base: Path | None = None,
    ) -> None:
        """`base` is the artefact whose adapter is trained; None trains a whole model. By default rows of `max_tokens` hold whole documents."""
        self.model, self.tokenizer, self.base = model, tokenizer, base
        self.packing = packing or Packing(row_tokens=model.max_tokens)

    def build(self) -> LanguageModel:
        """The model with random weights from torch's generator."""
        return LanguageModel(self.model, self.tokenizer.size)

    def save(self, model: LanguageModel, folder: Path) -> None:
        """Write the model and its tokenizer, so that they can be used without their project."""
        if self.base is None:
            model.save(folder)
        else:
            model.save_adapter(folder, self.base)
        self.tokenizer.save(folder)

    def arrange(self, dataset: Samples, folder: Path | None = None) -> PackedRows:
        """The documents of a split in packed rows. `folder` holds their tokens and the plan."""
        return arrange(dataset, self.tokenizer, self.packing, folder)

    def example(self, row: Row, part: LossOptions, seed: int) -> Row:
        """The row with the loss weight of its data set: nothing is random."""
        return replace(row, loss_weight=part.loss_weight)

    def collate(self, rows: list[Row]) -> Batch:
        """The rows padded to max_tokens: every batch has one shape."""
        shape = (len(rows), self.model.max_tokens)
        inputs, targets = torch.full(shape, self.tokenizer.pad), torch.full(shape, IGNORED)
        documents, weights = torch.full(shape, -1), torch.ones(shape)
        for index, row in enumerate(rows):
            here = (index, slice(len(row.inputs)))
            inputs[here], targets[here] = torch.from_numpy(row.inputs), torch.from_numpy(row.targets)
            documents[here] = torch.from_numpy(row.documents)
            if row.weights is not None:
                weights[here] = torch.from_numpy(row.weights)
        targets[weights == 0] = IGNORED
        branches = positions = None
        if any(row.branches is not None for row in rows):
            branches, positions = torch.zeros_like(documents), document_positions(documents)
            for index, row in enumerate(rows):
                if row.branches is not None and row.positions is not None:
                    here = (index, slice(len(row.inputs)))
                    branches[here], positions[here] = torch.from_numpy(row.branches), torch.from_numpy(row.positions)
        return Batch(
            [row.key for row in rows],
            inputs,
            targets,
            None if self.packing.packing == "stream" else documents,
            loss_weights([row.loss_weight for row in rows]),
            weights if ((weights != 0) & (weights != 1)).any() else None,
            branches,
            positions,
        )

    def loss(self, model: LanguageModel, batch: Batch, carry: tuple[Tensor, ...] = ()) -> Loss:
        """The loss of all target tokens, and the sum of their weights."""
        logits = model(batch.inputs, *batch.layout)  # [B, T, V]
        weight: float = count_targets(batch.targets)
        if batch.loss_weights is None and batch.token_weights is None:
            return Loss(next_token_losses(logits, batch.targets, "sum"), weight)
        losses = next_token_losses(logits, batch.targets)
        if batch.token_weights is not None:
            losses = losses * batch.token_weights
            weight = float(batch.token_weights[batch.targets != IGNORED].sum(dtype=torch.float64))
        if batch.loss_weights is not None:
            losses = losses * batch.loss_weights[:, None]
        return Loss(losses.sum(), weight)

    def validate(self, model: LanguageModel, batch: Batch) -> dict[str, tuple[float, int]]:
        """Loss and accuracy of the next token, summed over target tokens, without their weights."""
        return next_token_metrics(model(batch.inputs, *batch.layout), batch.targets)


def make(
    experiment: LanguageModelling, inputs: Mapping[str, Path], fingerprint: dict[str, object]
) -> Task[LanguageModel, Row, Batch, Row, LossOptions]:
    """The task of an experiment, given the directories of its inputs."""
    base = inputs["start"] if experiment.model.adapter else None
    shape, tokenizer = experiment.model.plain(ModelConfig), TextTokenizer(inputs["tokenizer"])
    return LanguageModellingTask(shape, tokenizer, experiment.packing(), base)


def load(inputs: Mapping[str, Path], data: Mapping[str, object]) -> tuple[LanguageModellingTask, LanguageModel]:
    """The task of a trained language model, and the model in eval mode. `data` is the section `data` of its experiment."""
    model = LanguageModel.load(inputs["model"], inputs.get("start")).eval()
    packing = cast(PackedData, data_of("language_modelling", dict(data))).rows(model.config.max_tokens)
    return LanguageModellingTask(model.config, TextTokenizer(inputs["tokenizer"]), packing), model
