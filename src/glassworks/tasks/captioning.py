"""Image captioning: the next token of a caption, given the image and the tokens before.

A sequence is BOS, the caption, EOS. Labels are the inputs shifted by one; padding is masked out and EOS is not, so the model learns where a caption ends.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from glassworks.config.model import Captioner as ModelConfig
from glassworks.data.reading.captions import read_captions
from glassworks.data.reading.dataset import Sample, ShardDataset
from glassworks.data.reading.images import EXTENSIONS, decode_image, normalise, resize
from glassworks.data.reading.text import TextTokenizer
from glassworks.errors import DataError
from glassworks.models.captioner import Captioner

IGNORED = -100
Begin = Callable[[], Captioner]


@dataclass(frozen=True)
class Example:
    """One sample, decoded."""

    key: str
    image: Tensor
    """uint8 [3, I, I]"""
    captions: list[str]
    labels: dict[str, Any]
    ids: list[int]
    """The caption chosen for this pass, between BOS and EOS."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch."""

    keys: list[str]
    images: Tensor
    """uint8 [B, 3, I, I]"""
    inputs: Tensor
    """[B, T] token ids, BOS first."""
    targets: Tensor
    """[B, T] the next token of each, -100 where there is none."""


class CaptioningTask:
    """What training and evaluation need to know about captioning."""

    metrics = ("loss", "accuracy")
    """Per target token."""

    def __init__(
        self, model: ModelConfig, tokenizer: TextTokenizer, one_length: bool = False, begin: Begin | None = None
    ) -> None:
        """`one_length` pads every batch to the longest caption there can be: compiled models want one shape.

        `begin` puts published or trained weights into the parts of a fresh network that have some.
        """
        self.model, self.tokenizer, self.one_length, self.begin = model, tokenizer, one_length, begin

    def build(self) -> Captioner:
        """The network as it is before the first step: fresh weights, drawn from torch's generator, and those it begins with."""
        return self.begin() if self.begin else Captioner(self.model, self.tokenizer.size)

    def arrange(self, dataset: ShardDataset, folder: Path | None = None) -> ShardDataset:
        """The samples of a split as they are."""
        return dataset

    def example(self, sample: Sample, seed: int) -> Example:
        """Decode a sample and choose one of its captions; `seed` (of this sample in this epoch) is all the choice depends on."""
        extension = next((name for name in EXTENSIONS if name in sample.members), None)
        if extension is None:
            raise DataError(f"{sample.where}: no image among its members {sorted(sample.members)}")
        image = resize(decode_image(sample.members[extension], sample.where), self.model.vision.image_size)
        captions = captions_of(sample)
        labels = sample.json().get("labels", {}) if "json" in sample.members else {}
        ids = self.tokenizer.encode(captions[seed % len(captions)], self.model.caption_tokens)
        return Example(sample.key, image, captions, labels, ids)

    def collate(self, examples: list[Example]) -> Batch:
        """Pad to the longest caption of the micro-batch, or to one length."""
        longest = self.model.caption_tokens if self.one_length else max(len(example.ids) for example in examples)
        length = longest - 1
        inputs = torch.full((len(examples), length), self.tokenizer.pad)
        targets = torch.full((len(examples), length), IGNORED)
        for row, example in enumerate(examples):
            ids = torch.tensor(example.ids)
            inputs[row, : len(ids) - 1], targets[row, : len(ids) - 1] = ids[:-1], ids[1:]
        return Batch(
            [example.key for example in examples], torch.stack([example.image for example in examples]), inputs, targets
        )

    def loss(self, model: Captioner, batch: Batch) -> tuple[Tensor, int]:
        """The *sum* of the losses of all target tokens, and their number; kept apart so that a global batch is weighted by token."""
        losses, count = self.caption_losses(model, batch)
        return losses.sum(), count

    def validate(self, model: Captioner, batch: Batch) -> dict[str, tuple[float, int]]:
        """Loss and accuracy of the next token, summed over target tokens."""
        logits = model(normalise(batch.images), batch.inputs)
        losses = F.cross_entropy(
            logits.flatten(0, 1).float(), batch.targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        count = int((batch.targets != IGNORED).sum())
        right = int((logits.argmax(-1) == batch.targets).sum())
        return {"loss": (losses.item(), count), "accuracy": (right, count)}

    def caption_losses(self, model: Captioner, batch: Batch) -> tuple[Tensor, int]:
        """The loss of every target token [B, T] (0 at padding), and the number of target tokens."""
        logits = model(normalise(batch.images), batch.inputs)  # [B, T, V]
        losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED, reduction="none")
        return losses.view_as(batch.targets), int((batch.targets != IGNORED).sum())


def captions_of(sample: Sample) -> list[str]:
    """The captions of a sample; a `DataError` names a sample without any."""
    captions = read_captions(sample.members, sample.where)
    if not captions:
        raise DataError(f"{sample.where}: no caption in its json or txt member")
    return captions
