"""Image captioning: the next token of a caption, given the image and the previous tokens.

A sequence is BOS, the caption, EOS. Targets are the inputs shifted by one. Padding is masked out. EOS is a target, so the model learns to stop.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from glassworks.config.continuation import inherit_shape
from glassworks.config.data import LossOptions
from glassworks.data.reading.captions import captions_of, labels_of
from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.images import image_of, normalise, stack_images
from glassworks.data.reading.rows import Samples
from glassworks.data.reading.text import TextTokenizer, check_vocabulary
from glassworks.models import saving
from glassworks.models.captioner import KIND, Captioner
from glassworks.models.losses import (
    IGNORED,
    LinearLoss,
    count_targets,
    linear_metrics,
    loss_weights,
    per_target,
)
from glassworks.models.settings.captioner import Captioner as ModelConfig
from glassworks.tasks.captioning.settings import Captioning
from glassworks.training.objective import to_device
from glassworks.training.task import Loss, Task

Begin = Callable[[], Captioner]
COUNTED = 20_000
"""Images whose captions are measured before training."""


@dataclass(frozen=True)
class Example:
    """One decoded sample."""

    key: str
    image: Tensor
    """uint8 [3, I, I]"""
    captions: list[str]
    labels: dict[str, object]
    ids: list[int]
    """The caption drawn for this pass, between BOS and EOS."""
    loss_weight: float = 1.0
    """Factor of the training loss of every token."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch."""

    keys: list[str]
    images: Tensor
    """uint8 [B, 3, I, I]"""
    inputs: Tensor
    """[B, T] token ids, BOS first."""
    targets: Tensor
    """[B, T] the next token of each input, -100 at padding."""
    loss_weights: Tensor | None = None
    """[B] factor of the training loss of each row; None for 1."""


class CaptioningTask:
    """Captioning as a `Task[Captioner, Example, Batch, Sample, LossOptions]`."""

    metrics = ("loss", "accuracy")
    """Per target token."""
    passes = 1

    def __init__(
        self, model: ModelConfig, tokenizer: TextTokenizer, one_length: bool = False, begin: Begin | None = None
    ) -> None:
        """`one_length` pads every batch to the maximum caption length, since compiled models need a static shape.

        `begin` returns the initial model of an experiment that starts from published or trained weights.
        """
        self.model, self.tokenizer, self.one_length, self.begin = model, tokenizer, one_length, begin

    def build(self) -> Captioner:
        """The initial model: random weights from torch's generator, and pretrained weights if configured."""
        return self.begin() if self.begin else Captioner(self.model, self.tokenizer.size)

    def save(self, model: Captioner, folder: Path) -> None:
        """Write the model and its tokenizer, so that they can be used without their project."""
        model.save(folder)
        self.tokenizer.save(folder)

    def arrange(self, dataset: Samples, folder: Path | None = None) -> Samples:
        """The samples themselves: one sample a row."""
        return dataset

    def count_cut(self, dataset: Samples) -> tuple[int, int]:
        """The numbers of captions, and of those that are longer than `max_tokens` and lose their end, in a sample of at most `COUNTED` images."""
        captions, stride = [], max(1, len(dataset) // COUNTED)
        for index in range(0, len(dataset), stride):
            captions += captions_of(dataset[index])
        limit = self.model.caption_tokens
        return len(captions), sum(len(ids) > limit for ids in self.tokenizer.encode_all(captions))

    def example(self, sample: Sample, part: LossOptions, seed: int) -> Example:
        """A decoded sample with one of its captions, chosen by `seed` (of this sample in this epoch) alone."""
        image = image_of(sample, self.model.vision.image_size)
        captions = captions_of(sample)
        labels = labels_of(sample)
        ids = self.tokenizer.encode(captions[seed % len(captions)], self.model.caption_tokens)
        return Example(sample.key, image, captions, labels, ids, part.loss_weight)

    def collate(self, examples: list[Example]) -> Batch:
        """The examples padded to the longest caption of the micro-batch, or to the maximum length."""
        longest = self.model.caption_tokens if self.one_length else max(len(example.ids) for example in examples)
        length = longest - 1
        inputs = torch.full((len(examples), length), self.tokenizer.pad)
        targets = torch.full((len(examples), length), IGNORED)
        for row, example in enumerate(examples):
            ids = torch.tensor(example.ids)
            inputs[row, : len(ids) - 1], targets[row, : len(ids) - 1] = ids[:-1], ids[1:]
        return Batch(
            [example.key for example in examples],
            stack_images([example.image for example in examples]),
            inputs,
            targets,
            loss_weights([example.loss_weight for example in examples]),
        )

    def loss(self, model: Captioner, batch: Batch, carry: tuple[Tensor, ...] = ()) -> Loss:
        """The loss of all target tokens: a global batch is weighted by token."""
        return Loss(self.caption_losses(model, batch).total, count_targets(batch.targets))

    def validate(self, model: Captioner, batch: Batch) -> dict[str, tuple[float, int]]:
        """Loss and accuracy of the next token, summed over target tokens."""
        return linear_metrics(self.caption_losses(model, replace(batch, loss_weights=None)), batch.targets)

    @torch.inference_mode()
    def reference_loss(self, model: Captioner, example: Example, device: torch.device) -> tuple[float, int]:
        """Sum of the losses of the tokens of all references of one image, and their number; the references share the image."""
        batch = self.collate(
            [
                replace(
                    example,
                    captions=[caption],
                    labels={},
                    ids=self.tokenizer.encode(caption, self.model.caption_tokens),
                )
                for caption in example.captions
            ]
        )
        total = self.caption_losses(model, to_device(replace(batch, loss_weights=None), device)).total
        return total.item(), count_targets(batch.targets)

    def caption_losses(self, model: Captioner, batch: Batch) -> LinearLoss:
        """The weighted loss of all target tokens."""
        weights = per_target(batch.loss_weights, batch.targets)
        found: LinearLoss = model(normalise(batch.images), batch.inputs, batch.targets, weights)
        return found


def make(
    experiment: Captioning, inputs: Mapping[str, Path], fingerprint: dict[str, object]
) -> Task[Captioner, Example, Batch, Sample, LossOptions]:
    """The task of an experiment, given the directories of its inputs. Adds the version of timm to `fingerprint`."""
    config, tokenizer = experiment.model.plain(ModelConfig), TextTokenizer(inputs["tokenizer"])
    if "start" in inputs:
        saved, _ = saving.read_settings(inputs["start"], KIND, ModelConfig)
        config = inherit_shape(experiment.model, saved, inputs["start"].name)
    language_model, backbone = inputs.get("language_model"), inputs.get("backbone.weights")
    one_length = experiment.training.compile
    if config.backbone is not None:
        fingerprint["timm"] = version("timm")
    if language_model is None and backbone is None:
        return CaptioningTask(config, tokenizer, one_length)
    from glassworks.models.pretrained.begin_captioner import begin_captioner
    from glassworks.models.pretrained.language_models import read_plain_decoder

    vocabulary = tokenizer.size
    if language_model is not None:
        decoder, vocabulary = read_plain_decoder(language_model)
        check_vocabulary(tokenizer, vocabulary, language_model)
        config = config.model_copy(update={"decoder": decoder, "language_model": None})
    begin = partial(begin_captioner, config, vocabulary, language_model, backbone)
    return CaptioningTask(config, tokenizer, one_length, begin)


def load(inputs: Mapping[str, Path], data: Mapping[str, object]) -> tuple[CaptioningTask, Captioner]:
    """The task of a trained captioner, and the captioner in eval mode."""
    model = Captioner.load(inputs["model"]).eval()
    return CaptioningTask(model.config, TextTokenizer(inputs["tokenizer"])), model
