"""Language modelling: the next token of a text, given the previous tokens.

A row holds packed texts. Targets are the inputs shifted by one; EOS is a target like any token. Loss sums and weights stay separate, so a token has
the same weight in any micro-batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from glassworks.config.data import LossOptions
from glassworks.data.reading.packing import PackedTexts, Packing, Row
from glassworks.data.reading.rows import Samples
from glassworks.data.reading.text import TextTokenizer
from glassworks.data.reading.tokens import tokenize
from glassworks.models.language_model import LanguageModel
from glassworks.models.losses import (
    IGNORED,
    LinearLoss,
    count_targets,
    linear_metrics,
    loss_weights,
    per_target,
)
from glassworks.models.settings.text_decoder import TextDecoder as ModelConfig
from glassworks.tasks.language_modelling.settings import LanguageModelling
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
    """[B, T] the index of the text in its row, -1 at padding; None when rows are cut from one stream."""
    loss_weights: Tensor | None = None
    """[B] factor of the training loss of each row; None for 1."""


class LanguageModellingTask:
    """Language modelling as a `Task[LanguageModel, Row, Batch, Row, LossOptions]`."""

    passes = 1

    def __init__(
        self,
        model: ModelConfig,
        tokenizer: TextTokenizer,
        packing: Packing = "documents",
        base: Path | None = None,
        z_loss: float = 0.0,
    ) -> None:
        """`base` is the artefact whose adapter is trained; None trains a whole model. `z_loss` is the weight of the z-loss."""
        self.model, self.tokenizer, self.packing, self.base, self.z_loss = model, tokenizer, packing, base, z_loss
        self.metrics = ("loss", "accuracy", *(["z_loss"] if z_loss else []))
        """Per target token. The loss is the cross-entropy alone."""

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

    def arrange(self, dataset: Samples, folder: Path | None = None) -> PackedTexts:
        """The texts of a split as packed rows. `folder` caches their tokens and the plan."""
        tokens = tokenize(dataset, self.tokenizer, folder)
        return PackedTexts(dataset, tokens, self.model.max_tokens, self.packing, folder and folder / "plan")

    def example(self, row: Row, part: LossOptions, seed: int) -> Row:
        """The row with the loss weight of its data set: nothing is random."""
        return replace(row, loss_weight=part.loss_weight)

    def collate(self, rows: list[Row]) -> Batch:
        """The rows padded to max_tokens: every batch has one shape."""
        shape = (len(rows), self.model.max_tokens)
        inputs, targets = torch.full(shape, self.tokenizer.pad), torch.full(shape, IGNORED)
        documents = torch.full(shape, -1) if self.packing == "documents" else None
        for index, row in enumerate(rows):
            inputs[index, : len(row.inputs)] = torch.from_numpy(row.inputs)
            targets[index, : len(row.inputs)] = torch.from_numpy(row.targets)
            if documents is not None:
                documents[index, : len(row.inputs)] = torch.from_numpy(row.documents)
        weights = loss_weights([row.loss_weight for row in rows])
        return Batch([row.key for row in rows], inputs, targets, documents, weights)

    def loss(self, model: LanguageModel, batch: Batch, carry: tuple[Tensor, ...] = ()) -> Loss:
        """The loss of all target tokens."""
        found: LinearLoss = model(
            batch.inputs,
            batch.documents,
            targets=batch.targets,
            token_weights=per_target(batch.loss_weights, batch.targets),
            z_loss=self.z_loss,
        )
        count = count_targets(batch.targets)
        if not self.z_loss:
            return Loss(found.total, count)
        entropy = found.total.detach() - found.z_term
        return Loss(found.total, count, {"cross_entropy": (entropy, count), "z_loss": (found.z_term, count)})

    def validate(self, model: LanguageModel, batch: Batch) -> dict[str, tuple[float, int]]:
        """Cross-entropy, accuracy and z-loss of the next token, summed over target tokens."""
        found = model(batch.inputs, batch.documents, targets=batch.targets, z_loss=self.z_loss)
        metrics = linear_metrics(found, batch.targets)
        if self.z_loss:
            metrics["z_loss"] = (found.z_term.item(), metrics["loss"][1])
        return metrics


def make(
    experiment: LanguageModelling, inputs: Mapping[str, Path], fingerprint: dict[str, object]
) -> Task[LanguageModel, Row, Batch, Row, LossOptions]:
    """The task of an experiment, given the directories of its inputs."""
    base = inputs["start"] if experiment.model.adapter else None
    shape, tokenizer = experiment.model.plain(ModelConfig), TextTokenizer(inputs["tokenizer"])
    return LanguageModellingTask(shape, tokenizer, experiment.data.packing, base, experiment.training.z_loss)


def load(inputs: Mapping[str, Path], data: Mapping[str, object]) -> tuple[LanguageModellingTask, LanguageModel]:
    """The task of a trained language model, and the model in eval mode. `data` is the section `data` of its experiment."""
    model = LanguageModel.load(inputs["model"], inputs.get("start")).eval()
    packing = cast(Packing, data["packing"])
    return LanguageModellingTask(model.config, TextTokenizer(inputs["tokenizer"]), packing), model
