"""Runs on small real shards, through the real loader: one for each kind of task, of model and of data."""

import json
import math
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.artifacts.digests import sha256_file, write_json
from glassworks.config.packing import Chat, Packing
from glassworks.config.project import parse_experiment
from glassworks.data.messages import parse_messages
from glassworks.data.reading.chat import ChatTemplate
from glassworks.data.reading.features import INDEX, KEYS, PRESENT, FeatureTable
from glassworks.data.reading.images import normalise
from glassworks.data.reading.text import TextTokenizer
from glassworks.data.records import Record
from glassworks.data.sidecars import INDEX as SHARDS
from glassworks.data.sidecars import read_sidecar
from glassworks.models.language_model import LanguageModel
from glassworks.models.losses import IGNORED
from glassworks.models.settings.adapter import Adapter
from glassworks.models.settings.alignment import Alignment
from glassworks.models.settings.fusion import FusedDecoder
from glassworks.stages import train as stage
from glassworks.tasks.alignment.task import AlignmentTask
from glassworks.tasks.captioning.task import Batch, CaptioningTask
from glassworks.tasks.fusion.task import FusionTask
from glassworks.tasks.instruction.task import InstructionTask
from glassworks.tasks.language_modelling.task import Begin, LanguageModellingTask
from glassworks.training.loop import Run
from glassworks.training.task import Loss

from ..data.chats import CHATML, make_tokenizer
from ..data.small_shards import make_shards

MODEL = {
    "encoder": {"image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "heads": 2, "dropout": 0.1},
    "decoder": {"width": 16, "depth": 2, "heads": 2, "max_tokens": 14, "dropout": 0.1},
}
LANGUAGE = {**MODEL["decoder"], "max_tokens": 24}
ADAPTED = {**LANGUAGE, "position": "rotary", "norm": "rms", "feed_forward": "swiglu", "biases": "qkv"}
"""A base with fused projections."""
ALIGNED = {
    "width": 8,
    "dropout": 0.2,
    "pairs": [["image", "text"], ["audio", "text"]],
    "equal": "text",
    "widths": [8, 4],
}
WIDTHS = {"image": 12, "audio": 10, "text": 6}
"""Widths of the stored features."""
FUSED = {"fusion": {"kind": "gated", "heads": 2, "dropout": 0.1}, "decoder": LANGUAGE}
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
        own = torch.arange(len(logits), device=logits.device)
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
}
NAMES = {
    "language": "language_modelling",
    "adapter": "language_modelling",
    "alignment": "alignment",
    "fusion": "fusion",
    "instruction": "instruction",
}
"""The tasks in settings, where they are not captioning."""
MODELS = {
    "language": LANGUAGE,
    "adapter": ADAPTED,
    "instruction": {"from": "base"},
    "alignment": ALIGNED,
    "fusion": FUSED,
}
MIXTURE = [
    {"dataset": "pictures", "rate": 0.7},
    {"dataset": "more_pictures", "rate": 0.3, "options": {"loss_weight": 0.5}},
]
"""Both data sets have the same keys."""


def make_inputs(folder: Path) -> dict[str, Path]:
    """The inputs of all runs: shards, features, a tokenizer, and the weights that adapters begin with."""
    pictures, tokenizer = folder / "pictures", make_tokenizer(folder / "tokenizer", CHATML)
    return {
        "pictures": make_shards(pictures, train=40, validation=9),
        "more_pictures": make_shards(folder / "more_pictures", train=25, validation=5),
        "chats": make_shards(folder / "chats", make=chat, train=70, validation=9),
        "base": save_base(folder / "base"),
        "chat_base": save_base(folder / "chat_base", TextTokenizer(tokenizer).size, 160),
        "tokenizer": tokenizer,
    } | {
        tower: save_features(folder / tower, pictures, tower, width, 3 if tower == "audio" else 0)
        for tower, width in WIDTHS.items()
    }


def save_base(folder: Path, vocabulary: int = Bytes.size, max_tokens: int = 24) -> Path:
    """The weights under the adapter of the tasks `adapter` and `instruction`."""
    torch.manual_seed(0)
    experiment = parse_experiment(
        {
            "task": "language_modelling",
            "data": {"dataset": "pictures"},
            "model": {**ADAPTED, "max_tokens": max_tokens},
            "training": {"steps": 1},
        },
        "base",
    )
    LanguageModel(experiment.model, vocabulary).save(folder)
    return folder


def chat(number: int, split: str) -> Record:
    """A conversation of one or two turns, of a length of its own."""
    turns = [("user", f"fruit {number}?"), ("assistant", "a pear" + " and a fig" * (number % 4))]
    turns += [("user", "more?"), ("assistant", "no")] * (number % 2)
    messages = parse_messages([{"role": role, "content": content} for role, content in turns], "chat")
    return Record(f"c{number:03d}", split, f"c{number}", messages=messages)


def save_features(folder: Path, shards: Path, encoder: str, width: int, lacking: int = 0) -> Path:
    """Features of all samples of a data set, as the stage `features` writes them. With `lacking`, each sample of that many lacks them."""
    folder.mkdir(parents=True)
    generator, listed = torch.Generator().manual_seed(width), []
    for shard in json.loads((shards / SHARDS).read_text())["shards"]:
        file = folder / f"{Path(shard['tar']).stem}.safetensors"
        keys = [sample.key for sample in read_sidecar(shards / f"{file.stem}.json").samples]
        present = torch.tensor([not lacking or bool(int(key[1:]) % lacking) for key in keys])
        features = torch.randn(len(keys), width, generator=generator) * present[:, None]
        save_file({"features": features, PRESENT: present}, file, metadata={KEYS: json.dumps(keys)})
        listed.append({"file": file.name, "sha256": sha256_file(file), "tar_sha256": shard["sha256"]})
    index = {"encoder": encoder, "identity": {}, "dataset": shards.name, "width": width, "shards": listed}
    write_json(folder / INDEX, index)
    return folder


def make_task(name: str, experiment: Any, shards: dict[str, Path]) -> Any:
    """The task of a run; `shards` also holds its features, its tokenizer and the weights that it begins with."""
    if name in TASKS:
        one_length = {"one_length": True} if experiment.training.compile and name != "language" else {}
        return TASKS[name](experiment.model, Bytes(), **one_length)
    if name == "alignment":
        towers = {tower: {"encoder": tower, "width": width} for tower, width in WIDTHS.items()}
        stored = {tower: [FeatureTable(shards[tower])] for tower in WIDTHS}
        return AlignmentTask(experiment.model.plain(Alignment), towers, stored, {})
    if name == "fusion":
        inputs = {
            tower: {"encoder": tower, "width": width, "tokens": None, "input": {}} for tower, width in WIDTHS.items()
        }
        stored = {tower: [FeatureTable(shards[tower])] for tower in WIDTHS}
        dropout = experiment.training.modality_dropout
        return FusionTask(
            experiment.model.plain(FusedDecoder), Bytes.size, Bytes(), inputs, stored, modality_dropout=dropout
        )
    neftune = experiment.training.neftune
    if name == "adapter":
        begin = Begin(shards["base"], Bytes.size, Adapter(kind="pissa", rank=2, dropout=0.1), quantisation="nf4")
        return LanguageModellingTask(experiment.model, Bytes(), begin=begin, neftune=neftune)
    tokenizer = TextTokenizer(shards["tokenizer"])
    shape = LanguageModel.load(shards["chat_base"]).config
    begin = Begin(shards["chat_base"], tokenizer.size, Adapter(rank=2, dropout=0.1), quantisation="nf4")
    packing = Packing(row_tokens=shape.max_tokens, chat=Chat(template="chat.jinja"))
    template = ChatTemplate(CHATML, tokenizer, "chat.jinja")
    return InstructionTask(template, shape, tokenizer, packing, begin=begin, neftune=neftune)


def picture_run(
    folder: Path,
    shards: dict[str, Path],
    task: str,
    precision: str,
    loader_workers: int,
    killed_at: int | None = None,
    rank: int = 0,
    **changes: Any,
) -> Run:
    """A run over the shards of a data set, or a mixture of two; with `killed_at`, the worker `rank` kills itself after so many steps.

    `changes` are further keys of `training`.
    """
    training = {
        "steps": STEPS,
        "batch_size": 16,
        "micro_batches": 8,
        "validate_every": 3,
        "precision": precision,
        **changes,
    }
    if task in ("adapter", "instruction"):
        training["neftune"] = 5.0
    model = dict(MODELS.get(task, MODEL))
    if task == "fusion":
        training["modality_dropout"] = 0.3
    if task in ("alignment", "fusion"):
        model["towers"] = {tower: {"encoder": tower} for tower in WIDTHS}
    data: dict[str, Any] = {"train": MIXTURE} if task == "mixture" else {"dataset": "pictures"}
    if task == "instruction":
        data = {"dataset": "chats", "template": "chat.jinja"}
    settings = {
        "task": NAMES.get(task, "captioning"),
        "data": data,
        "model": model,
        "training": training,
        "optimization": {"warmup_steps": 2},
        "execution": {"checkpoint_every": 2, "loader_workers": loader_workers},
    }
    experiment = parse_experiment(settings, "experiment")
    objective = make_task(task, experiment, shards)
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
        after_step=partial(die, killed_at, rank),
    )


def die(killed_at: int | None, rank: int, step: int) -> None:
    """Kill this process after step `killed_at`, if it is the worker `rank`."""
    if step == killed_at and rank == int(os.environ.get("RANK", rank)):
        os.kill(os.getpid(), signal.SIGKILL)
