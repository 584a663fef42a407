"""Language modelling: the next token of a text, given the previous tokens.

A row holds packed texts, conversations and message trees. Targets are the inputs shifted by one; EOS is a target like any token. Loss sums and weights stay
separate, so a token has the same weight in any micro-batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from glassworks.config.continuation import inherit_shape
from glassworks.config.data import LossOptions
from glassworks.config.experiment import data_of
from glassworks.config.packing import Packing
from glassworks.data.reading.extended import ExtendedTokenizer, open_tokenizer_of
from glassworks.data.reading.packing import PackedRows, Row, arrange
from glassworks.data.reading.rows import Samples
from glassworks.data.reading.text import TextTokenizer, check_vocabulary
from glassworks.models import new_tokens, saving
from glassworks.models.attention import document_positions
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
from glassworks.models.quantisation import Quantisation
from glassworks.models.saving import Matches
from glassworks.models.settings.adapter import Adapter
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
    seeds: tuple[int, ...] = ()
    """[B] of the noise on the embeddings; empty without noise."""
    noise: Tensor | None = None
    """float32 [B, T] the largest noise on the embedding of each token, 0 at padding; None without noise."""

    @property
    def layout(self) -> tuple[Tensor | None, ...]:
        """The arguments of the model after the inputs."""
        return self.documents, self.branches, self.positions


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
    quantisation: Quantisation | None = None
    """Precision of its linear layers, if it is another."""
    new_tokens: tuple[int, int] | None = None
    """The first id and the number of tokens whose rows are trained beside the adapter."""

    def __call__(self, model: LanguageModel, seed: int) -> Matches:
        held = saving.DTYPES[self.dtype], self.quantisation
        matches = begin_language_model(model, self.base, seed, self.adapter, self.continued, *held)
        if self.new_tokens is None:
            return matches
        return matches._replace(new=[*matches.new, *new_tokens.attach(model, *self.new_tokens)])


class LanguageModellingTask:
    """Language modelling as a `Task[LanguageModel, Row, Batch, Row, LossOptions]`."""

    passes = 1

    def __init__(
        self,
        model: ModelConfig,
        tokenizer: TextTokenizer,
        packing: Packing | None = None,
        z_loss: float = 0.0,
        begin: Begin | None = None,
        neftune: float = 0.0,
    ) -> None:
        """By default rows of `max_tokens` hold whole documents. `z_loss` is the weight of the z-loss. `begin` sets the initial weights; None keeps
        random ones. `neftune` is the alpha of the noise on the embeddings.
        """
        self.model, self.tokenizer, self.z_loss, self.begin = model, tokenizer, z_loss, begin
        self.neftune = neftune
        self.packing = packing or Packing(row_tokens=model.max_tokens)
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
            model.save_adapter(folder, self.begin.base, self.begin.dtype, self.begin.quantisation)
        self.tokenizer.save(folder)

    def arrange(self, dataset: Samples, folder: Path | None = None) -> PackedRows:
        """The documents of a split in packed rows. `folder` holds their tokens and the plan."""
        return arrange(dataset, self.tokenizer, self.packing, folder)

    def example(self, row: Row, part: LossOptions, seed: int) -> Row:
        """The row with the loss weight of its data set, and the seed of its noise."""
        return replace(row, loss_weight=part.loss_weight, seed=seed)

    def collate(self, rows: list[Row]) -> Batch:
        """The rows padded to max_tokens: every batch has one shape."""
        batch = collate(rows, self.model.max_tokens, self.tokenizer.pad, self.packing.packing == "stream")
        if not self.neftune:
            return batch
        noise = torch.zeros(batch.inputs.shape)
        for index, row in enumerate(rows):
            scale = self.neftune * (self._document_lengths(row) * self.model.width) ** -0.5
            noise[index, : len(row.inputs)] = scale
        return replace(batch, seeds=tuple(row.seed for row in rows), noise=noise)

    def _document_lengths(self, row: Row) -> Tensor:
        """float32 [T]: the number of inputs in the document of every token; a stream is one document."""
        documents = torch.from_numpy(row.documents)
        lengths = documents.bincount() if self.packing.packing == "documents" else torch.tensor([len(documents)])
        return lengths.float()[documents if self.packing.packing == "documents" else torch.zeros_like(documents)]

    def loss(self, model: LanguageModel, batch: Batch, carry: tuple[Tensor, ...] = ()) -> Loss:
        """The loss of all target tokens, and the sum of their weights."""
        weights, total = target_weights(batch)
        noise = None
        if batch.noise is not None and model.training:
            noise = batch.noise[..., None] * uniform_rows(batch.seeds, batch.inputs.shape[1], self.model.width).to(
                batch.noise.device
            )
        found: LinearLoss = model(
            batch.inputs, *batch.layout, targets=batch.targets, token_weights=weights, z_loss=self.z_loss, noise=noise
        )
        return token_loss(found, total, self.z_loss)

    def validate(self, model: LanguageModel, batch: Batch) -> dict[str, tuple[float, int]]:
        """Cross-entropy, accuracy and z-loss of the next token, summed over target tokens, without their weights."""
        found = model(batch.inputs, *batch.layout, targets=batch.targets, z_loss=self.z_loss)
        return token_metrics(found, batch.targets, self.z_loss)


def collate(rows: Sequence[Row], length: int, pad: int, stream: bool = False) -> Batch:
    """The rows padded to `length`. `stream` leaves the documents out."""
    shape = (len(rows), length)
    inputs, targets = torch.full(shape, pad), torch.full(shape, IGNORED)
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
        None if stream else documents,
        loss_weights([row.loss_weight for row in rows]),
        weights if ((weights != 0) & (weights != 1)).any() else None,
        branches,
        positions,
    )


def target_weights(batch: Batch) -> tuple[Tensor | None, float]:
    """The factor of the loss of each target [B, T], None for 1, and the sum of the weights of all targets."""
    weights = per_target(batch.loss_weights, batch.targets)
    if batch.token_weights is None:
        return weights, count_targets(batch.targets)
    total = float(batch.token_weights[batch.targets != IGNORED].cpu().sum(dtype=torch.float64))
    return batch.token_weights if weights is None else weights * batch.token_weights, total


def token_loss(found: LinearLoss, total: float, z_loss: float) -> Loss:
    """The loss of targets with the sum `total` of their weights, and its terms with a `z_loss`."""
    if not z_loss:
        return Loss(found.total, total)
    entropy = found.total.detach() - found.z_term
    return Loss(found.total, total, {"cross_entropy": (entropy, total), "z_loss": (found.z_term, total)})


def token_metrics(found: LinearLoss, targets: Tensor, z_loss: float) -> dict[str, tuple[float, int]]:
    """Cross-entropy and accuracy of the targets, and the z-loss with a `z_loss`."""
    metrics = linear_metrics(found, targets)
    if z_loss:
        metrics["z_loss"] = (found.z_term.item(), metrics["loss"][1])
    return metrics


def uniform_rows(seeds: Sequence[int], tokens: int, width: int) -> Tensor:
    """float32 [B, T, C] uniform in ±1 on the CPU. A row depends on its own seed alone, so neither on the micro-batch nor on the worker."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack([torch.empty(tokens, width).uniform_(-1, 1, generator=one) for one in generators])


def make(
    experiment: LanguageModelling, inputs: Mapping[str, Path], fingerprint: dict[str, object]
) -> Task[LanguageModel, Row, Batch, Row, LossOptions]:
    """The task of an experiment, given the directories of its inputs."""
    return LanguageModellingTask(*parts(experiment, inputs))


def parts(
    experiment: LanguageModelling, inputs: Mapping[str, Path]
) -> tuple[ModelConfig, TextTokenizer, Packing, float, Begin | None, float]:
    """The arguments of the task of an experiment."""
    model, packing, training = experiment.model, experiment.packing(), experiment.training
    tokenizer = open_tokenizer_of(inputs["tokenizer"], packing)
    if not model.inherits:
        return model.plain(ModelConfig), tokenizer, packing, training.z_loss, None, training.neftune
    weights, start = inputs.get("weights"), inputs.get("start")
    base, first = weights or start, start or weights
    assert base is not None and first is not None
    saved, vocabulary = read_decoder(first)
    new = (tokenizer.first, tokenizer.size - tokenizer.first) if isinstance(tokenizer, ExtendedTokenizer) else None
    check_vocabulary(tokenizer if new is None else TextTokenizer(inputs["tokenizer"]), vocabulary, first)
    continued = start if weights is not None else None
    begin = Begin(base, vocabulary, model.adapter, continued, *experiment.base_precision, new)
    return inherit_shape(model, saved, first.name), tokenizer, packing, training.z_loss, begin, training.neftune


def load(inputs: Mapping[str, Path], data: Mapping[str, object]) -> tuple[LanguageModellingTask, LanguageModel]:
    """The task of a trained language model, and the model in eval mode. `data` is the section `data` of its experiment."""
    model = load_language_model(inputs["model"], inputs.get("weights", inputs.get("start"))).eval()
    packing = cast(PackedData, data_of("language_modelling", dict(data))).rows(model.config.max_tokens)
    return LanguageModellingTask(model.config, TextTokenizer(inputs["tokenizer"]), packing), model
