"""Alignment: features of two frozen encoders, trained heads, and the symmetric InfoNCE loss over the global batch.

Features are stored by the stage `features`, or computed in the training step. Both give the same bits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from glassworks.config.data import Options
from glassworks.data.reading.features import (
    FeatureRow,
    FeatureRows,
    FeatureTable,
    JoinedFeatures,
    ListedShards,
    covering,
)
from glassworks.encoders.protocol import Reading, stack
from glassworks.encoders.tower import Tower, identity, load_tower
from glassworks.errors import ArtifactError, ConfigError
from glassworks.models.alignment import Alignment
from glassworks.models.losses import info_nce
from glassworks.models.settings.alignment import Alignment as Heads
from glassworks.tasks.alignment.settings import Alignment as Experiment
from glassworks.tasks.alignment.settings import features_role, weights_role
from glassworks.training.task import Loss


@dataclass(frozen=True)
class Example:
    """One sample."""

    key: str
    features: dict[str, Tensor]
    """Stored features [C], by modality."""
    readings: dict[str, Reading]
    """The decoded sample for encoders in the loop, by modality."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch."""

    keys: list[str]
    features: dict[str, Tensor]
    """[B, C] by modality. Those of encoders in the loop are added by the first of the two passes, and used again by the second."""
    readings: dict[str, Reading]
    """The input of encoders in the loop, by modality."""


class AlignmentTask:
    """Alignment as a coupled `Task[Alignment, Example, Batch, FeatureRow]`."""

    metrics = ("loss", "accuracy")
    """Per sample: the loss within a micro-batch, and the share of samples that are closest to their partner there."""
    passes = 1

    def __init__(
        self,
        config: Heads,
        towers: Mapping[str, dict[str, object]],
        stored: Mapping[str, Sequence[FeatureTable]],
        in_loop: Mapping[str, Tower],
    ) -> None:
        """`towers` describes the features of each modality. They are stored for some or all data sets, or computed `in_loop`."""
        self.config, self.towers, self.stored, self.in_loop = config, towers, stored, in_loop

    def build(self) -> Alignment:
        """Heads with random weights from torch's generator."""
        return Alignment(self.config, self.towers)

    def save(self, model: Alignment, folder: Path) -> None:
        """Write the heads. The frozen encoders are not part of them."""
        model.save(folder)

    def arrange(self, dataset: ListedShards, folder: Path | None = None) -> JoinedFeatures:
        """The samples with their stored features. Without an encoder in the loop, no sample is read."""
        rows = {name: FeatureRows(covering(tables, dataset, name), dataset) for name, tables in self.stored.items()}
        return JoinedFeatures(dataset, rows, with_samples=bool(self.in_loop))

    def example(self, row: FeatureRow, part: Options, seed: int) -> Example:
        """The stored features of a sample, and its decoded inputs of encoders in the loop."""
        features = {name: tensors["features"] for name, tensors in row.features.items()}
        readings = {name: tower.read(row.sample) for name, tower in self.in_loop.items() if row.sample is not None}
        return Example(row.key, features, readings)

    def collate(self, examples: list[Example]) -> Batch:
        """The examples as one batch."""
        first = examples[0]
        return Batch(
            [example.key for example in examples],
            {name: torch.stack([example.features[name] for example in examples]) for name in first.features},
            {name: stack([example.readings[name] for example in examples]) for name in first.readings},
        )

    def embed(self, model: Alignment, batch: Batch) -> dict[str, Tensor]:
        """Unit vectors [B, D] by modality."""
        for name, tower in self.in_loop.items():
            if name not in batch.features:
                batch.features[name] = tower.features(batch.readings[name])["features"]
        return model({name: batch.features[name] for name in self.towers})

    def coupled_loss(self, model: Alignment, embeddings: dict[str, Tensor]) -> Loss:
        """The mean InfoNCE loss of all pairs of modalities, summed over samples."""
        pairs = list(combinations(embeddings.values(), 2))
        total = torch.stack([info_nce(left, right, model.scale()) for left, right in pairs]).sum() / len(pairs)
        return Loss(total, len(pairs[0][0]))

    def loss(self, model: Alignment, batch: Batch, carry: tuple[Tensor, ...] = ()) -> Loss:
        """The loss within a micro-batch."""
        return self.coupled_loss(model, self.embed(model, batch))

    def validate(self, model: Alignment, batch: Batch) -> dict[str, tuple[float, int]]:
        """Loss and accuracy within a micro-batch, over both directions."""
        embeddings = self.embed(model, batch)
        count = len(batch.keys)
        pairs = [pair for one, other in combinations(embeddings.values(), 2) for pair in ((one, other), (other, one))]
        own = torch.arange(count, device=pairs[0][0].device)
        hits = sum(int(((left @ right.T).argmax(1) == own).sum()) for left, right in pairs)
        return {
            "loss": (self.coupled_loss(model, embeddings).total.item(), count),
            "accuracy": (hits / len(pairs), count),
        }


def make(experiment: Experiment, inputs: Mapping[str, Path], fingerprint: dict[str, object]) -> AlignmentTask:
    """The task of an experiment, given the directories of its inputs.

    Raises `ArtifactError` for features of another encoder than the experiment names, and `ConfigError` for an encoder without pooling.
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
        if found["settings"]["pooling"] == "none":
            raise ConfigError(f"encoders.{tower.encoder}.pooling: a head reads one vector per sample; set it to mean")
        towers[name] = {"encoder": tower.encoder, "width": width, **found}
    return AlignmentTask(
        Heads(**{field: getattr(experiment.model, field) for field in Heads.model_fields}), towers, stored, in_loop
    )


def load(inputs: Mapping[str, Path], data: Mapping[str, object]) -> tuple[AlignmentTask, Alignment]:
    """The task of trained heads, which reads stored features, and the heads in eval mode.

    Raises `ArtifactError` for features of another encoder than the heads were trained on.
    """
    model = Alignment.load(inputs["model"]).eval()
    stored = {name: _tables(inputs, name) for name in model.towers}
    for name, tower in model.towers.items():
        for table in stored[name]:
            if table.identity != {key: tower[key] for key in table.identity}:
                raise ArtifactError(
                    f"{table.directory}: features of the encoder {table.encoder!r} as it is now, but the head {name!r} was "
                    f"trained on others of {tower['encoder']!r}; train it again"
                )
    return AlignmentTask(model.config, model.towers, stored, {}), model


def _tables(inputs: Mapping[str, Path], tower: str) -> list[FeatureTable]:
    role = features_role(tower)
    return [FeatureTable(folder) for name, folder in inputs.items() if name == role or name.startswith(f"{role}.")]
