"""Alignment: features of frozen encoders, trained heads, and a contrastive loss of pairs of modalities over the global batch.

Features are stored by the stage `features`, or computed in the training step. Both give the same bits. A sample may lack modalities: a pair counts the
samples that have both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from glassworks.config.data import Options
from glassworks.data.reading.features import (
    PRESENT,
    FeatureRow,
    FeatureRows,
    FeatureTable,
    JoinedFeatures,
    ListedShards,
    covering,
)
from glassworks.encoders.protocol import Reading, stack
from glassworks.encoders.tower import Tower, identity, load_tower
from glassworks.errors import ArtifactError
from glassworks.models.alignment import Alignment, head_of, prefix
from glassworks.models.begin_alignment import begin_alignment
from glassworks.models.contrastive import equal_rows, neighbourhood_loss
from glassworks.models.saving import Matches
from glassworks.models.settings.alignment import Alignment as Heads
from glassworks.tasks.alignment.settings import Alignment as Experiment
from glassworks.tasks.alignment.settings import features_role, weights_role
from glassworks.training.task import Loss

EQUAL = "#equal"
"""The entry of the embeddings that holds the features of the tower `model.equal`."""
ORIGINAL = "#original."
"""The prefix of the entries of the embeddings that hold the features of a modality, for the loss between neighbours."""
DRAWS = 1 << 24
"""Values of the draw among the texts of a sample."""


@dataclass(frozen=True)
class Example:
    """One sample."""

    key: str
    features: dict[str, dict[str, Tensor]]
    """Stored features [C], or [T, C] with their mask [T], by modality; and whether the sample has the modality."""
    readings: dict[str, Reading | None]
    """The decoded sample for encoders in the loop, by modality; None if it lacks the modality."""
    draw: float
    """Chooses one of several texts: 0 <= draw < 1."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B samples."""

    keys: list[str]
    features: dict[str, dict[str, Tensor]]
    """`features` [B, C], or [B, T, C] with `mask` [B, T], and `present` [B], by modality. Those of encoders in the loop are added by the first of the
    two passes, and used again by the second."""
    readings: dict[str, Reading]
    """The input of encoders in the loop, by modality, of the samples that have it."""
    present: dict[str, Tensor]
    """bool [B]: the samples with an input of encoders in the loop, by modality."""
    draws: Tensor
    """float32 [B]."""


class AlignmentTask:
    """Alignment as a coupled `Task[Alignment, Example, Batch, FeatureRow]`."""

    metrics = ("loss", "accuracy")
    """The loss within a micro-batch, and the share of samples that are closest to their partner there."""
    passes = 1

    def __init__(
        self,
        config: Heads,
        towers: Mapping[str, dict[str, object]],
        stored: Mapping[str, Sequence[FeatureTable]],
        in_loop: Mapping[str, Tower],
        begin: Path | None = None,
        mixup: float = 0.0,
    ) -> None:
        """`towers` describes the features of each modality. They are stored for some or all data sets, or computed `in_loop`. `begin` is the artefact of
        an alignment to continue. `mixup` is the parameter of the weights of mixed samples.
        """
        self.config, self.towers, self.stored, self.in_loop, self.begin = config, towers, stored, in_loop, begin
        self.mixup = mixup
        self.tokens = [name for name, tower in towers.items() if "tokens" in tower]
        """The modalities whose heads read tokens."""

    def build(self) -> Alignment:
        """Heads with random weights from torch's generator."""
        return Alignment(self.config, self.towers)

    def start(self, model: Alignment, seed: int) -> Matches | None:
        """Continue the heads of another alignment; those of further towers stay as built."""
        return begin_alignment(model, self.begin) if self.begin else None

    def save(self, model: Alignment, folder: Path) -> None:
        """Write the heads. The frozen encoders are not part of them."""
        model.save(folder)

    def arrange(self, dataset: ListedShards, folder: Path | None = None) -> JoinedFeatures:
        """The samples with their stored features. Without an encoder in the loop, no sample is read."""
        rows = {name: FeatureRows(covering(tables, dataset, name), dataset) for name, tables in self.stored.items()}
        return JoinedFeatures(dataset, rows, with_samples=bool(self.in_loop))

    def example(self, row: FeatureRow, part: Options, seed: int) -> Example:
        """The stored features of a sample, and its decoded inputs of encoders in the loop."""
        readings = {name: tower.read(row.sample) for name, tower in self.in_loop.items() if row.sample is not None}
        return Example(row.key, row.features, readings, seed % DRAWS / DRAWS)

    def collate(self, examples: list[Example]) -> Batch:
        """The examples as one batch."""
        first = examples[0]
        found = {name: [example.readings[name] for example in examples] for name in first.readings}
        decoded = {name: [reading for reading in some if reading is not None] for name, some in found.items()}
        return Batch(
            [example.key for example in examples],
            {name: _stacked([example.features[name] for example in examples]) for name in first.features},
            {name: stack(some) if some else {} for name, some in decoded.items()},
            {name: torch.tensor([reading is not None for reading in some]) for name, some in found.items()},
            torch.tensor([example.draw for example in examples]),
        )

    def inputs(self, batch: Batch, drawn: bool = False) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The features [B, C] of each modality, or the tokens [B, T, C] that a perceiver reads, and whether each sample has it [B].

        Of several texts it takes the first, or the one that is `drawn`.
        """
        for name, tower in self.in_loop.items():
            if name not in batch.features:
                found = tower.spread(batch.readings[name], batch.present[name])
                batch.features[name] = {**found, PRESENT: batch.present[name]}
        features = {name: batch.features[name] for name in self.towers}
        draws = batch.draws if drawn else None
        values = {
            name: some["features"] if name in self.tokens else _chosen(some, draws) for name, some in features.items()
        }
        return values, {name: some[PRESENT] for name, some in features.items()}

    def pooled(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """As `inputs`, with the mean [B, C] of the tokens that a perceiver reads."""
        values, present = self.inputs(batch)
        return self._without_tokens(values, batch), present

    def _without_tokens(self, values: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        means = {name: _mean(values[name], batch.features[name]["mask"]) for name in self.tokens}
        return {**values, **means}

    def embed(self, model: Alignment, batch: Batch) -> dict[str, Tensor]:
        """Unit vectors [B, D] by modality, zero where a sample lacks it; in training also the features that tell equal samples, as `EQUAL`, and those
        that have the neighbours of `model.structure`, with the prefix `ORIGINAL`.
        """
        values, present = self.inputs(batch, drawn=model.training)
        if model.training and self.mixup:
            values = mixed(values, present, self.mixup)
        vectors = model(values, present, {name: batch.features[name]["mask"] for name in self.tokens})
        if model.training and self.config.equal is not None:
            vectors[EQUAL] = values[self.config.equal].float().flatten(1)
        if model.training and self.config.structure:
            originals = self._without_tokens(values, batch)
            vectors |= {ORIGINAL + name: value.float() for name, value in originals.items()}
        return vectors

    def coupled_loss(self, model: Alignment, embeddings: dict[str, Tensor]) -> Loss:
        """The mean over the trained pairs of modalities of their mean losses, over the samples that have both.

        The weight is the number of samples, or 0 if none has a pair. Of several pairs and widths the parts are logged. In training, `model.structure` times
        the loss between neighbours is added.
        """
        count = len(next(iter(embeddings.values())))
        present = {name: values.any(1) for name, values in embeddings.items()}
        equal = (
            equal_rows(embeddings[EQUAL]) & (present[EQUAL] & present[EQUAL][:, None]) if EQUAL in embeddings else None
        )
        widths = self.config.prefixes
        zero = torch.zeros((), device=next(iter(present.values())).device)
        by_pair: dict[str, tuple[Tensor, float]] = {}
        means: list[Tensor] = []
        by_width: dict[int, list[Tensor]] = {width: [] for width in widths}
        for left, right in model.pairs:
            both = present[left] & present[right]
            pairs = int(both.sum())
            if not pairs:
                by_pair[f"{left}_{right}"] = (zero, 0.0)
                continue
            vectors = [embeddings[name][both] for name in (left, right)]
            same = equal[both][:, both] if equal is not None else None
            losses = [
                model.loss(prefix(vectors[0], width), prefix(vectors[1], width), same) / pairs for width in widths
            ]
            for width, loss in zip(widths, losses, strict=True):
                by_width[width].append(loss.detach())
            by_pair[f"{left}_{right}"] = (losses[0].detach() * pairs, pairs)
            means.append(sum(weight * loss for weight, loss in zip(widths.values(), losses, strict=True)) + zero)
        weight = count if means else 0
        total = (
            torch.stack(means).mean() * weight
            if means
            else sum(values.sum() for values in embeddings.values()) * 0 + zero
        )
        parts = by_pair if len(by_pair) > 1 else {}
        if len(widths) > 1:
            parts |= {
                f"width_{width}": (torch.stack(some).mean() * weight if some else zero, weight)
                for width, some in by_width.items()
            }
        if any(name.startswith(ORIGINAL) for name in embeddings):
            kept = self._neighbourhoods(embeddings, present) * weight
            total = total + self.config.structure * kept
            parts = {**parts, "structure": (kept.detach(), weight)}
        return Loss(total, weight, parts)

    def _neighbourhoods(self, embeddings: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """The sum over the modalities of the mean loss between the neighbours of samples by features and by vectors."""
        found = []
        for name in self.towers:
            features, vectors, own = embeddings[ORIGINAL + name], embeddings[name], present[name]
            found.append(neighbourhood_loss(features[own], vectors[own]) / own.sum().clamp(min=1))
        return torch.stack(found).sum()

    def loss(self, model: Alignment, batch: Batch, carry: tuple[Tensor, ...] = ()) -> Loss:
        """The loss within a micro-batch."""
        return self.coupled_loss(model, self.embed(model, batch))

    def validate(self, model: Alignment, batch: Batch) -> dict[str, tuple[float, float]]:
        """Loss and accuracy within a micro-batch, over both directions of the trained pairs."""
        embeddings = self.embed(model, batch)
        loss = self.coupled_loss(model, embeddings)
        hits = queries = 0
        for pair in model.pairs:
            both = embeddings[pair[0]].any(1) & embeddings[pair[1]].any(1)
            similarities = embeddings[pair[0]][both] @ embeddings[pair[1]][both].T
            own = torch.arange(len(similarities), device=similarities.device)
            if len(own):
                hits += int((similarities.argmax(1) == own).sum() + (similarities.argmax(0) == own).sum())
                queries += 2 * len(own)
        return {"loss": (loss.total.item(), loss.weight), "accuracy": (hits, queries)}


def mixed(values: dict[str, Tensor], present: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Features [B, C] of each modality, mixed with those of another sample with a weight from Beta(alpha, alpha), which is the same in all modalities.

    A sample is mixed only with one that has the same modalities.
    """
    count = len(next(iter(values.values())))
    others, weights = torch.randperm(count), torch.distributions.Beta(alpha, alpha).sample((count,))
    same = torch.stack([some == some[others] for some in present.values()]).all(0)
    weight = torch.where(same, weights.to(same.device), 1.0)[:, None]
    return {name: weight * some.float() + (1 - weight) * some[others].float() for name, some in values.items()}


def _mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """The mean [B, C] of tokens [B, T, C] without those at which `mask` [B, T] is False; 0 without any."""
    weights = mask[..., None].float()
    return (tokens.float() * weights).sum(1) / weights.sum(1).clamp(min=1)


def _stacked(features: Sequence[dict[str, Tensor]]) -> Reading:
    """Stored features of B samples. A file in which all samples have the modality lacks `PRESENT`."""
    found = {name: torch.stack([one[name] for one in features]) for name in features[0] if name != PRESENT}
    return {**found, PRESENT: torch.stack([one.get(PRESENT, torch.tensor(True)) for one in features])}


def _chosen(features: Reading, draws: Tensor | None) -> Tensor:
    """[B, C]: the features, or of several vectors [B, T, C] the first, or the one that `draws` [B] choose among those of the mask."""
    values = features["features"]
    if "mask" not in features:
        return values
    if draws is None:
        return values[:, 0]
    place = (draws * features["mask"].sum(1)).long()  # the masked ones are last
    return values[torch.arange(len(values), device=values.device), place]


def make(experiment: Experiment, inputs: Mapping[str, Path], fingerprint: dict[str, object]) -> AlignmentTask:
    """The task of an experiment, given the directories of its inputs.

    Raises `ArtifactError` for features of another encoder than the experiment names.
    """
    towers: dict[str, dict[str, object]] = {}
    stored: dict[str, list[FeatureTable]] = {}
    in_loop: dict[str, Tower] = {}
    for name, tower in experiment.model.towers.items():
        if tower.features == "stored":
            stored[name] = _tables(inputs, name)
            for table in stored[name]:
                if table.encoder != tower.encoder:
                    raise ArtifactError(
                        f"{table.directory}: features of the encoder {table.encoder!r}, but model.towers.{name}.encoder "
                        f"is {tower.encoder!r}; make features-{tower.encoder}-{table.dataset}"
                    )
            found, width = stored[name][0].identity, stored[name][0].width
        else:
            settings, weights = experiment.encoders[tower.encoder], inputs[weights_role(name)]
            in_loop[name] = load_tower(tower.encoder, settings, weights)
            found, width = identity(settings, weights), in_loop[name].width
            fingerprint["timm"], fingerprint["transformers"] = version("timm"), version("transformers")
        towers[name] = {"encoder": tower.encoder, "width": width, **found}
        if tower.head is not None:
            towers[name]["head"] = tower.head
        if head_of(towers[name], experiment.model) == "perceiver":
            towers[name]["tokens"] = in_loop[name].encoder.tokens if name in in_loop else stored[name][0].tokens
    return AlignmentTask(
        experiment.model.plain(Heads), towers, stored, in_loop, inputs.get("start"), experiment.training.mixup
    )


def load(inputs: Mapping[str, Path], data: Mapping[str, object]) -> tuple[AlignmentTask, Alignment]:
    """The task of trained heads, which reads the stored features of some or all towers, and the heads in eval mode.

    Raises `ArtifactError` for features of another encoder than the heads were trained on.
    """
    model = Alignment.load(inputs["model"]).eval()
    stored = {name: tables for name in model.towers if (tables := _tables(inputs, name))}
    towers = {name: model.towers[name] for name in stored}
    for name, tower in towers.items():
        for table in stored[name]:
            if table.identity != {key: tower[key] for key in table.identity}:
                raise ArtifactError(
                    f"{table.directory}: features of the encoder {table.encoder!r} as it is now, but the head {name!r} was "
                    f"trained on others of {tower['encoder']!r}; train it again"
                )
    return AlignmentTask(model.config, towers, stored, {}), model


def _tables(inputs: Mapping[str, Path], tower: str) -> list[FeatureTable]:
    role = features_role(tower)
    return [FeatureTable(folder) for name, folder in inputs.items() if name == role or name.startswith(f"{role}.")]
