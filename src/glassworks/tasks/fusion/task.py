"""Texts from fused modalities: the next token of a text, given the features of an image, speech or text and the previous tokens.

The features of frozen encoders are stored. A text is BOS, the first caption of the sample, EOS. Only its tokens are targets, EOS included. A sample may
lack modalities, and training hides some of them by chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from glassworks.config.data import LossOptions
from glassworks.data.reading.captions import captions_of
from glassworks.data.reading.features import (
    PRESENT,
    FeatureRow,
    FeatureRows,
    FeatureTable,
    JoinedFeatures,
    ListedShards,
    covering,
    stack_features,
)
from glassworks.data.reading.text import TextTokenizer, check_vocabulary
from glassworks.errors import ArtifactError, ConfigError
from glassworks.models import adapters, saving
from glassworks.models.fused_decoder import FusedDecoder, Rows, TowerFeatures, place
from glassworks.models.fusion import Modality, prefix_mask, token_mask
from glassworks.models.losses import IGNORED, LinearLoss, count_targets, loss_weights
from glassworks.models.pretrained.fused_decoder import begin_fused_decoder, load_fused_decoder
from glassworks.models.pretrained.language_models import read_decoder
from glassworks.models.quantisation import Quantisation
from glassworks.models.saving import Matches
from glassworks.models.settings.adapter import Adapter
from glassworks.models.settings.fusion import FusedDecoder as Shape
from glassworks.models.settings.fusion import Input
from glassworks.models.text_decoder import TextDecoder
from glassworks.tasks.fusion.settings import Fusion, features_role
from glassworks.tasks.language_modelling.task import token_loss, token_metrics
from glassworks.training.task import Loss


@dataclass(frozen=True)
class Example:
    """One sample."""

    key: str
    features: dict[str, dict[str, Tensor]]
    """Stored features [C], or [T, C] with their mask [T], by modality; and whether the sample has the modality."""
    ids: list[int]
    """BOS, the text, EOS."""
    draws: Tensor
    """float32 [modalities]: uniform, for hiding modalities."""
    loss_weight: float = 1.0
    """Factor of the training loss of every token."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B samples with texts of T inputs each."""

    keys: list[str]
    features: dict[str, dict[str, Tensor]]
    """`features` [B, C], or [B, T, C] with `mask` [B, T], and `present` [B], by modality."""
    inputs: Tensor
    """[B, T] token ids, BOS first."""
    targets: Tensor
    """[B, T] the next token of each input, -100 at padding."""
    draws: Tensor
    """float32 [B, modalities]."""
    loss_weights: Tensor | None = None
    """[B] factor of the training loss of each row; None for 1."""


@dataclass(frozen=True)
class Begin:
    """The language model that the decoder begins with."""

    base: Path
    """The artefact with the weights, in our layout or that of transformers."""
    adapter: Adapter | None
    """The adapter to train; None trains all weights."""
    dtype: str = "fp32"
    """Precision of the base."""
    quantisation: Quantisation | None = None
    """Precision of its linear layers, if it is another."""


class FusionTask:
    """Fused decoding as a `Task[FusedDecoder, Example, Batch, FeatureRow, LossOptions]`."""

    passes = 1

    def __init__(
        self,
        shape: Shape,
        vocabulary: int,
        tokenizer: TextTokenizer,
        towers: Mapping[str, TowerFeatures],
        stored: Mapping[str, Sequence[FeatureTable]],
        begin: Begin | None = None,
        modality_dropout: float = 0.0,
        z_loss: float = 0.0,
        ctc: Mapping[str, float] | None = None,
    ) -> None:
        """`towers` describes the features of each modality, and `stored` has them. `begin` is the language model of the decoder; None draws a new one.

        `ctc` has the weight of the CTC loss of some modalities.
        """
        self.shape, self.vocabulary, self.tokenizer = shape, vocabulary, tokenizer
        self.towers, self.stored, self.begin = dict(sorted(towers.items())), stored, begin
        self.modality_dropout, self.z_loss, self.ctc = modality_dropout, z_loss, dict(ctc or {})
        self.inputs = {name: Input(**tower["input"]) for name, tower in self.towers.items()}
        self.metrics = ("loss", "accuracy", *(["z_loss"] if z_loss else []))
        """Per target token. The loss is the cross-entropy alone."""

    def build(self) -> FusedDecoder:
        """The model with random weights from torch's generator; a decoder that `start` fills is on the meta device."""
        if self.begin is None:
            return FusedDecoder(self.shape, self.vocabulary, self.towers)
        with saving.without_weights():
            decoder = TextDecoder(self.shape.text, self.vocabulary)
        return FusedDecoder(self.shape, self.vocabulary, self.towers, decoder)

    def start(self, model: FusedDecoder, seed: int) -> Matches | None:
        """Begin with the language model, and attach the adapter that is trained."""
        if self.begin is None:
            return None
        begin = self.begin
        return begin_fused_decoder(model, begin.base, seed, begin.adapter, begin.dtype, begin.quantisation)

    def save(self, model: FusedDecoder, folder: Path) -> None:
        """Write the model and its tokenizer. The frozen encoders are no part of them, nor is the base of an adapter."""
        begin = self.begin
        if begin is None or begin.adapter is None:
            model.save(folder)
        else:
            model.save(folder, adapters.base_record(begin.base, begin.dtype, begin.quantisation))
        self.tokenizer.save(folder)

    def arrange(self, dataset: ListedShards, folder: Path | None = None) -> JoinedFeatures:
        """The samples with their stored features."""
        rows = {name: FeatureRows(covering(tables, dataset, name), dataset) for name, tables in self.stored.items()}
        return JoinedFeatures(dataset, rows, with_samples=True)

    def example(self, row: FeatureRow, part: LossOptions, seed: int) -> Example:
        """The features and the first text of a sample. The draws derive from `seed`."""
        assert row.sample is not None
        ids = self.tokenizer.encode(captions_of(row.sample)[0], self.shape.text_tokens)
        draws = torch.rand(len(self.towers), generator=torch.Generator().manual_seed(seed))
        return Example(row.key, row.features, ids, draws, part.loss_weight)

    def collate(self, examples: list[Example]) -> Batch:
        """The examples padded to the longest text of the micro-batch."""
        length = max(len(example.ids) for example in examples) - 1
        inputs = torch.full((len(examples), length), self.tokenizer.pad)
        targets = torch.full((len(examples), length), IGNORED)
        for row, example in enumerate(examples):
            ids = torch.tensor(example.ids)
            inputs[row, : len(ids) - 1], targets[row, : len(ids) - 1] = ids[:-1], ids[1:]
        return Batch(
            [example.key for example in examples],
            {name: stack_features([example.features[name] for example in examples]) for name in self.towers},
            inputs,
            targets,
            torch.stack([example.draws for example in examples]),
            loss_weights([example.loss_weight for example in examples]),
        )

    def loss(self, model: FusedDecoder, batch: Batch, carry: tuple[Tensor, ...] = ()) -> Loss:
        """The loss of all target tokens, and the CTC losses of modalities: a global batch is weighted by target token."""
        features: Mapping[str, Modality] = batch.features
        if model.training and self.modality_dropout:
            features = without_some(features, batch.draws, self.modality_dropout)
        count = count_targets(batch.targets)
        found = token_loss(self._found(model, batch, features, batch.loss_weights), count, self.z_loss)
        if not self.ctc:
            return found
        texts = [
            [token for token in row if token not in (IGNORED, self.tokenizer.eos)] for row in batch.targets.tolist()
        ]
        parts = {**(found.parts or {"text": (found.total.detach(), count)})}
        total = found.total
        for name, weight in self.ctc.items():
            term = weight * model.read_off(name, features[name], texts, self.tokenizer.pad, batch.loss_weights)
            parts[f"ctc_{name}"] = (term.detach(), count)
            total = total + term
        return Loss(total, count, parts)

    def validate(self, model: FusedDecoder, batch: Batch) -> dict[str, tuple[float, int]]:
        """Cross-entropy, accuracy and z-loss of the next token given all modalities, summed over target tokens."""
        return token_metrics(self._found(model, batch, batch.features, None), batch.targets, self.z_loss)

    def rows(self, features: Mapping[str, Modality], inputs: Tensor, targets: Tensor) -> Rows:
        """The texts behind the tokens of their modalities."""
        masks = {name: token_mask(features[name], self.inputs[name]) for name in self.towers}
        return place(prefix_mask(self.shape.fusion, masks), inputs, targets, self.tokenizer.pad)

    def _found(
        self, model: FusedDecoder, batch: Batch, features: Mapping[str, Modality], weights: Tensor | None
    ) -> LinearLoss:
        rows = self.rows(features, batch.inputs, batch.targets)
        per_target = None if weights is None else weights[:, None].expand_as(rows.targets)
        found: LinearLoss = model(rows, features, per_target, self.z_loss)
        return found


def without_some(features: Mapping[str, Modality], draws: Tensor, share: float) -> dict[str, Modality]:
    """The features with each modality hidden where its draw in `draws` [B, modalities] is below `share`.

    If this hides all modalities that a sample has, the one with the largest draw is left.
    """
    present = torch.stack([modality[PRESENT] for modality in features.values()], 1)  # [B, modalities]
    largest = draws.masked_fill(~present, -1.0).argmax(1)
    kept = present & ((draws >= share) | (torch.arange(draws.shape[1], device=draws.device) == largest[:, None]))
    return {name: {**modality, PRESENT: kept[:, index]} for index, (name, modality) in enumerate(features.items())}


def make(experiment: Fusion, inputs: Mapping[str, Path], fingerprint: dict[str, object]) -> FusionTask:
    """The task of an experiment, given the directories of its inputs.

    Raises `ArtifactError` for features of another encoder than the experiment names, and `ConfigError` for more tokens than the decoder has positions.
    """
    model, training, tokenizer = experiment.model, experiment.training, TextTokenizer(inputs["tokenizer"])
    shape, vocabulary, begin = model.plain(Shape), tokenizer.size, None
    if base := inputs.get("base"):
        decoder, vocabulary = read_decoder(base)
        check_vocabulary(tokenizer, vocabulary, base)
        shape = shape.model_copy(update={"decoder": decoder, "language_model": None})
        begin = Begin(base, model.adapter, *experiment.base_precision)
    towers: dict[str, TowerFeatures] = {}
    stored: dict[str, list[FeatureTable]] = {}
    tokens = 0
    for name, tower in model.towers.items():
        stored[name] = _tables(inputs, name)
        for table in stored[name]:
            if table.encoder != tower.encoder:
                raise ArtifactError(
                    f"{table.directory}: features of the encoder {table.encoder!r}, but model.towers.{name}.encoder "
                    f"is {tower.encoder!r}; make features-{tower.encoder}-{table.dataset}"
                )
        table = stored[name][0]
        towers[name] = describe(table, tower.plain)
        tokens += tower.tokens if table.tokens is None else -(-table.tokens // tower.stack)
    _check_room(shape, tokens)
    return FusionTask(
        shape, vocabulary, tokenizer, towers, stored, begin, training.modality_dropout, training.z_loss, training.ctc
    )


def load(inputs: Mapping[str, Path], data: Mapping[str, object]) -> tuple[FusionTask, FusedDecoder]:
    """The task of a trained model and the model in eval mode.

    Raises `ArtifactError` for features of another encoder than the model was trained on.
    """
    model = load_fused_decoder(inputs["model"], inputs.get("base")).eval()
    stored = {name: _tables(inputs, name) for name in model.towers}
    for name, tower in model.towers.items():
        for table in stored[name]:
            if not table.identity.items() <= tower.items():
                raise ArtifactError(
                    f"{table.directory}: features of the encoder {table.encoder!r} as it is now, but the model was trained on "
                    f"others of {tower['encoder']!r} as {name!r}; train it again"
                )
    tokenizer = TextTokenizer(inputs["tokenizer"])
    return FusionTask(model.config, model.vocabulary, tokenizer, model.towers, stored), model


def describe(table: FeatureTable, shape: Input) -> TowerFeatures:
    """The description of stored features that is saved with a model."""
    identity = table.identity
    return {
        "encoder": table.encoder,
        "width": table.width,
        "input": shape.model_dump(mode="json"),
        "settings": identity["settings"],
        "weights": identity["weights"],
    }


def _check_room(shape: Shape, tokens: int) -> None:
    """Raise `ConfigError` if the decoder has no positions for all modalities and the longest text."""
    before = {"concatenation": tokens, "cross_attention": shape.fusion.queries, "gated": 0}[shape.fusion.kind]
    if before + shape.text_tokens > shape.text.max_tokens:
        raise ConfigError(
            f"model.max_tokens: {shape.text_tokens} tokens of a text and {before} tokens of its modalities exceed the {shape.text.max_tokens} "
            "positions of the decoder; lower it, or stack more tokens of a tower"
        )


def _tables(inputs: Mapping[str, Path], tower: str) -> list[FeatureTable]:
    role = features_role(tower)
    return [FeatureTable(folder) for name, folder in inputs.items() if name == role or name.startswith(f"{role}.")]
