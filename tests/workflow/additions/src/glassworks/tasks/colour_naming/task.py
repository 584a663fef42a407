"""Naming colours: a class for each image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from glassworks.tasks.colour_naming.settings import Classifier as Config
from glassworks.tasks.colour_naming.settings import ColourNaming
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.config.data import Options
from glassworks.data.reading.dataset import Sample, ShardDataset
from glassworks.encoders.protocol import Encoder, Reading, load_encoder, stack
from glassworks.models import saving
from glassworks.training.task import Loss


@dataclass(frozen=True)
class Example:
    """One sample, read."""

    key: str
    reading: Reading
    target: int


@dataclass(frozen=True)
class Batch:
    """A micro-batch."""

    keys: list[str]
    features: Tensor
    """[B, C]"""
    targets: Tensor
    """[B]"""


class Classifier(nn.Module):
    """Features [B, C] to logits [B, classes]."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features)


class ColourNamingTask:
    """Reads samples, and trains the classifier on the features of the frozen encoder."""

    metrics = ("loss", "accuracy")
    """Per image."""
    passes = 1

    def __init__(self, config: Config, encoder: Encoder) -> None:
        self.config, self.encoder = config, encoder

    def build(self) -> Classifier:
        """The classifier with fresh weights."""
        return Classifier(self.encoder.width, len(self.config.names))

    def save(self, model: Classifier, folder: Path) -> None:
        """Write the classifier."""
        saving.save(model, folder, self.config.model_dump(mode="json"))

    def arrange(self, dataset: ShardDataset, folder: Path | None = None) -> ShardDataset:
        """The samples of a split as they are."""
        return dataset

    def example(self, sample: Sample, part: Options, seed: int) -> Example:
        """Decode a sample."""
        target = self.config.names.index(sample.json()["labels"]["colour"])
        return Example(sample.key, self.encoder.read(sample), target)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Encode the micro-batch."""
        values, _ = self.encoder.encode(stack([example.reading for example in examples]))
        targets = torch.tensor([example.target for example in examples])
        return Batch([example.key for example in examples], values[:, 0], targets)

    def loss(self, model: Classifier, batch: Batch, carry: tuple[Tensor, ...] = ()) -> Loss:
        """The sum of the losses, and the number of images."""
        return Loss(F.cross_entropy(model(batch.features), batch.targets, reduction="sum"), len(batch.targets))

    def validate(self, model: Classifier, batch: Batch) -> dict[str, tuple[float, int]]:
        """Loss and accuracy, summed over images."""
        loss = self.loss(model, batch)
        right = int((model(batch.features).argmax(1) == batch.targets).sum())
        return {"loss": (loss.total.item(), loss.weight), "accuracy": (right, loss.weight)}


def make(experiment: ColourNaming, inputs: Mapping[str, Path], fingerprint: dict[str, Any]) -> ColourNamingTask:
    """The task of an experiment."""
    encoder = load_encoder(experiment.model.encoder, inputs["model.encoder.weights"])
    return ColourNamingTask(experiment.model, encoder)


def load(inputs: Mapping[str, Path], data: dict[str, Any]) -> tuple[ColourNamingTask, Classifier]:
    """A trained classifier, and the task that reads samples for it."""
    config = Config.model_validate(saving.read_config(inputs["model"], "a saved classifier"))
    task = ColourNamingTask(config, load_encoder(config.encoder, inputs["model.encoder.weights"]))
    model = task.build()
    saving.assign(model, saving.read_tensors(inputs["model"] / saving.WEIGHTS), inputs["model"])
    return task, model.eval()
