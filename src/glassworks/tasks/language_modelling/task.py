"""Language modelling: the next token of a text, given the previous tokens.

A row holds packed texts. Targets are the inputs shifted by one; EOS is a target like any token. Loss sums and weights stay separate, so a token has
the same weight in any micro-batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from glassworks.config.continuation import inherit_shape
from glassworks.config.data import LossOptions
from glassworks.data.reading.packing import PackedTexts, Packing, Row
from glassworks.data.reading.rows import Samples
from glassworks.data.reading.text import TextTokenizer, check_vocabulary
from glassworks.data.reading.tokens import tokenize
from glassworks.models import saving
from glassworks.models.language_model import LanguageModel
from glassworks.models.losses import (
    IGNORED,
    LinearLoss,
    count_targets,
    linear_metrics,
    loss_weights,
    per_target,
)
from glassworks.models.pretrained.begin_language_model import begin_language_model
from glassworks.models.pretrained.language_models import load_language_model, read_decoder
from glassworks.models.saving import Matches
from glassworks.models.settings.adapter import Adapter
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


@dataclass(frozen=True)
class Begin:
    """Initial weights that are not random."""

    base: Path
    """The artefact with the weights, in our layout or that of transformers."""
    vocabulary: int
    """Token embeddings of the base."""
    adapter: Adapter | None = None
    """The adapter to train."""
    continued: Path | None = None
    """The artefact of the adapter to continue; None for a new one."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Precision of the base."""

    def __call__(self, model: LanguageModel, seed: int) -> Matches:
        return begin_language_model(model, self.base, seed, self.adapter, self.continued, saving.DTYPES[self.dtype])


class LanguageModellingTask:
    """Language modelling as a `Task[LanguageModel, Row, Batch, Row, LossOptions]`."""

    passes = 1

    def __init__(
        self,
        model: ModelConfig,
        tokenizer: TextTokenizer,
        packing: Packing = "documents",
        z_loss: float = 0.0,
        begin: Begin | None = None,
    ) -> None:
        """`z_loss` is the weight of the z-loss. `begin` sets the initial weights; None keeps random ones."""
        self.model, self.tokenizer, self.packing, self.z_loss, self.begin = model, tokenizer, packing, z_loss, begin
        self.metrics = ("loss", "accuracy", *(["z_loss"] if z_loss else []))
        """Per target token. The loss is the cross-entropy alone."""

    def build(self) -> LanguageModel:
        """The model with random weights from torch's generator, or on the meta device if `start` sets all weights."""
        if self.begin is None:
            return LanguageModel(self.model, self.tokenizer.size)
        with saving.without_weights():
            return LanguageModel(self.model, self.begin.vocabulary)

    def start(self, model: LanguageModel, seed: int) -> Matches | None:
        """Set the initial weights of a built model, and attach the adapter that is trained."""
        return self.begin(model, seed) if self.begin else None

    def save(self, model: LanguageModel, folder: Path) -> None:
        """Write the model and its tokenizer, so that they can be used without their project."""
        if self.begin is None or self.begin.adapter is None:
            model.save(folder)
        else:
            model.save_adapter(folder, self.begin.base, self.begin.dtype)
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
    model, tokenizer = experiment.model, TextTokenizer(inputs["tokenizer"])
    options = experiment.data.packing, experiment.training.z_loss
    if not model.inherits:
        return LanguageModellingTask(model.plain(ModelConfig), tokenizer, *options)
    weights, start = inputs.get("weights"), inputs.get("start")
    base, first = weights or start, start or weights
    assert base is not None and first is not None
    saved, vocabulary = read_decoder(first)
    check_vocabulary(tokenizer, vocabulary, first)
    continued = start if weights is not None else None
    begin = Begin(base, vocabulary, model.adapter, continued, model.base_dtype)
    return LanguageModellingTask(inherit_shape(model, saved, first.name), tokenizer, *options, begin)


def load(inputs: Mapping[str, Path], data: Mapping[str, object]) -> tuple[LanguageModellingTask, LanguageModel]:
    """The task of a trained language model, and the model in eval mode. `data` is the section `data` of its experiment."""
    model = load_language_model(inputs["model"], inputs.get("weights", inputs.get("start"))).eval()
    packing = cast(Packing, data["packing"])
    return LanguageModellingTask(model.config, TextTokenizer(inputs["tokenizer"]), packing), model
