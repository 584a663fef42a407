"""Runs on small real shards, through the real loader: the captioner, a contrastive model, a language model, and an adapter of its quantised weights."""

import math
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.config.project import parse_experiment
from glassworks.data.reading.images import normalise
from glassworks.models.language_model import LanguageModel
from glassworks.models.losses import IGNORED
from glassworks.models.settings.adapter import Adapter
from glassworks.stages import train as stage
from glassworks.tasks.captioning.task import Batch, CaptioningTask
from glassworks.tasks.language_modelling.task import Begin, LanguageModellingTask
from glassworks.training.loop import Run
from glassworks.training.task import Loss

MODEL = {
    "encoder": {"image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "heads": 2, "dropout": 0.1},
    "decoder": {"width": 16, "depth": 2, "heads": 2, "max_tokens": 14, "dropout": 0.1},
}
LANGUAGE = {**MODEL["decoder"], "max_tokens": 24}
ADAPTED = {**LANGUAGE, "position": "rotary", "norm": "rms", "feed_forward": "swiglu", "biases": "qkv"}
"""A base with fused projections."""
STEPS = 6


class Bytes:
    """One token per ASCII letter."""

    pad, bos, eos, size = 0, 1, 2, 130

    def encode(self, text: str, max_tokens: int) -> list[int]:
        return [self.bos, *(byte + 3 for byte in text.encode("ascii")), self.eos][:max_tokens]

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text, len(text) + 2) for text in texts]


class Contrast(CaptioningTask):
    """Which caption belongs to which image of the global batch (CLIP's loss, Radford et al., 2021)."""

    metrics = ("loss",)

    def build(self) -> "ImagesAndTexts":
        return ImagesAndTexts(self.tokenizer.size)

    def embed(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        return model(normalise(batch.images), batch.targets)

    def coupled_loss(self, model: Any, embeddings: dict[str, Tensor]) -> Loss:
        logits = model.scale.exp() * embeddings["image"] @ embeddings["text"].T
        own = torch.arange(len(logits))
        both = F.cross_entropy(logits, own, reduction="sum") + F.cross_entropy(logits.T, own, reduction="sum")
        return Loss(both / 2, len(logits))

    def validate(self, model: Any, batch: Batch) -> dict[str, tuple[float, float]]:
        loss = self.coupled_loss(model, self.embed(model, batch))
        return {"loss": (loss.total.item(), loss.weight)}


class ImagesAndTexts(nn.Module):
    """Two convolutions for an image, the mean of its bytes for a caption."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, 2), nn.Conv2d(16, 16, 3, 2)
        self.image, self.tokens, self.text = nn.Linear(16, 8), nn.Embedding(vocabulary, 16), nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.tensor([math.log(10.0)]))

    def forward(self, images: Tensor, ids: Tensor) -> dict[str, Tensor]:
        pixels = F.dropout(F.gelu(self.second(F.gelu(self.first(images)))).mean((2, 3)), 0.1, self.training)
        real = (ids != IGNORED).unsqueeze(-1)
        letters = (self.tokens(ids.clamp_min(0)) * real).sum(1) / real.sum(1)
        return {
            "image": F.normalize(self.image(pixels), dim=-1),
            "text": F.normalize(self.text(letters), dim=-1),
        }


TASKS = {
    "captioner": CaptioningTask,
    "contrastive": Contrast,
    "mixture": CaptioningTask,
    "language": LanguageModellingTask,
    "adapter": LanguageModellingTask,
}
MIXTURE = [
    {"dataset": "pictures", "rate": 0.7},
    {"dataset": "more_pictures", "rate": 0.3, "options": {"loss_weight": 0.5}},
]
"""Both data sets have the same keys."""


def save_base(folder: Path) -> Path:
    """The weights under the adapter of the task `adapter`."""
    torch.manual_seed(0)
    experiment = parse_experiment(
        {
            "task": "language_modelling",
            "data": {"dataset": "pictures"},
            "model": ADAPTED,
            "training": {"steps": 1},
        },
        "base",
    )
    LanguageModel(experiment.model, Bytes.size).save(folder)
    return folder


def picture_run(
    folder: Path,
    shards: dict[str, Path],
    task: str,
    precision: str,
    loader_workers: int,
    killed_at: int | None,
    rank: int,
) -> Run:
    """A run over the shards of a data set, or a mixture of two; with `killed_at`, the worker `rank` kills itself after so many steps."""
    training = {
        "steps": STEPS,
        "batch_size": 16,
        "micro_batches": 8,
        "validate_every": 3,
        "precision": precision,
    }
    if task == "adapter":
        training["neftune"] = 5.0
    language = task in ("language", "adapter")
    settings = {
        "task": "language_modelling" if language else "captioning",
        "data": {"train": MIXTURE} if task == "mixture" else {"dataset": "pictures"},
        "model": ADAPTED if task == "adapter" else LANGUAGE if language else MODEL,
        "training": training,
        "optimization": {"warmup_steps": 2},
        "execution": {"checkpoint_every": 2, "loader_workers": loader_workers},
    }
    experiment = parse_experiment(settings, "experiment")
    objective = TASKS[task](experiment.model, Bytes())
    if task == "adapter":
        begin = Begin(shards["base"], Bytes.size, Adapter(kind="pissa", rank=2, dropout=0.1), quantisation="nf4")
        objective = LanguageModellingTask(experiment.model, Bytes(), begin=begin, neftune=experiment.training.neftune)
    parts, held_out = stage._read(experiment.data, objective, shards, folder)
    return Run(
        name=task,
        folder=folder,
        task=objective,
        batches=partial(stage._batches, parts, experiment, objective, 5),
        held_out=stage._held_out(held_out, experiment, objective, 5),
        seed=5,
        optimization=experiment.optimization,
        training=experiment.training,
        execution=experiment.execution,
        start=stage._start(objective, None, 5),
        after_step=partial(_die, killed_at, rank),
    )


def _die(killed_at: int | None, rank: int, step: int) -> None:
    if step == killed_at and rank == int(os.environ.get("RANK", rank)):
        os.kill(os.getpid(), signal.SIGKILL)
