"""A packed training step of a vision-language model beside a padded loop of nanoVLM's kind. Prints ratios of questions a second and of memory.

    python benchmarks/vision_language.py [--quick] [--rounds 5] [--precision fp32]

Texts are those of the data set scene_questions: about six questions about each image. The model is that of experiments/vlm_captions.yaml, without the loss of names. The
features of images are random. Both sides have the same initial weights, AdamW and one thread, and train the questions of 16 images a step.

- Ours packs message trees into rows of 512 tokens by the task's own code: rows, collation, loss, `fit`. An image stands once before its questions. The output
  layer sees targets only.
- The padded loop is written by hand as in nanoVLM v0.1: samples padded to the longest of their batch, a mask of padding, features in place of the embeddings of their
  placeholders, logits of every position.

Two forms of the same data are measured. "trees": in the padded loop every question is a sample with its image, since no question may see another. "conversations": the
questions of an image are turns of one conversation on both sides, which are the same samples.

The learning rate is nearly 0, so that both sides compute the losses of the same weights: their mean over all questions must be equal up to rounding. For this, the embedding of
the placeholder is 0, so that adding features is replacing it, and attention is causal. Each run is a fresh process. Sides take turns, and who begins alternates. Peak memory is the
peak resident set of the process, libraries included; that of the steps is the part above the resident set before the first one. The first step, which also warms up, has no share in the speed.

Needs `snakemake data/shards/scene_questions/manifest.json data/tokenizers/vlm_captions/manifest.json`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import torch
from torch import Tensor
from torch.nn import functional as F

from glassworks.config.base import read_yaml
from glassworks.config.optimization import Optimization
from glassworks.config.packing import IMAGE_PATCH
from glassworks.config.project import parse_experiment
from glassworks.config.training import Execution, Training
from glassworks.data.messages import as_json
from glassworks.data.reading.dataset import Sample, ShardDataset
from glassworks.data.reading.image_rows import ImageRows
from glassworks.data.reading.packing import arrange
from glassworks.data.reading.text import TextTokenizer
from glassworks.data.reading.tokens import Tokens, image_chat, messages_of
from glassworks.models.attention import Attend
from glassworks.models.losses import IGNORED
from glassworks.models.rotary import rotation
from glassworks.models.settings.vision_language import VisionLanguage as Shape
from glassworks.models.vision_language import VisionLanguageModel
from glassworks.runtime.signals import StopRequest
from glassworks.tasks.vision_language.settings import VisionOptions
from glassworks.tasks.vision_language.task import Batch, VisionLanguageTask
from glassworks.training.loop import METRICS, Run, fit
from glassworks.training.metrics_log import read_metrics
from glassworks.training.workers import Workers

ROOT = Path(__file__).resolve().parents[1]
SHARDS, TOKENIZER = ROOT / "data/shards/scene_questions", ROOT / "data/tokenizers/vlm_captions"
FILE = ROOT / "experiments/vlm_captions.yaml"
SEED, WIDTH = 0, 112
"""The seed, and the features of a patch of the tower."""
IMAGES = 16
"""Images a step."""
FORMS = ("trees", "conversations")
SIDES = ("ours", "padded")
SPEED, MEMORY = 2.0, 0.6
"""Least ratio of the speeds, and largest ratio of the peak memories."""
Result = dict[str, Any]


class Scenes:
    """The first samples of the data set as one shard. Questions are branches, or turns of one conversation."""

    def __init__(self, form: str, count: int) -> None:
        self.dataset, self.form, self.shard_sizes = ShardDataset(SHARDS, "train"), form, [count]

    def __len__(self) -> int:
        return self.shard_sizes[0]

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        if self.form == "trees":
            return sample
        turns = [message.model_copy(update={"branch": 0}) for message in messages_of(sample)]
        content = json.dumps({**sample.json(), "messages": as_json(turns)}).encode()
        return Sample(sample.key, {**sample.members, "json": memoryview(content)}, sample.where)


class Stored:
    """Random features as those of a table."""

    def __init__(self, scenes: Scenes, patches: int) -> None:
        self.scenes = scenes
        self.features = torch.randn(len(scenes), patches, WIDTH, generator=torch.Generator().manual_seed(SEED)).half()

    def __getitem__(self, index: int) -> tuple[str, dict[str, Tensor]]:
        return self.scenes[index].key, {"features": self.features[index]}


class Setting:
    """The task, its rows and their features, and the weights that both sides begin with."""

    def __init__(self, form: str, count: int) -> None:
        experiment: Any = parse_experiment(read_yaml(FILE), FILE)
        shape = experiment.model.plain(Shape).model_copy(update={"image_attention": "causal"})
        tower: Any = {"width": WIDTH, "tokens": shape.grid**2}
        self.task = VisionLanguageTask(shape, TextTokenizer(TOKENIZER), experiment.packing(), tower)
        scenes, packing = Scenes(form, count), self.task.packing
        self.packed = arrange(
            scenes, self.task.tokenizer, packing, chat=image_chat(self.task.tokenizer, packing.images)
        )
        stored: Any = Stored(scenes, shape.grid**2)
        self.rows, self.features = ImageRows(self.packed, stored), stored.features
        tokens = self.packed.tokens
        self.questions = [1 if form == "conversations" else len(tokens.bounds(image)) - 2 for image in range(count)]
        torch.manual_seed(SEED)
        self.weights = self.task.build().state_dict()
        self.weights["special.weight"][-1 - IMAGE_PATCH] = 0


def ours(setting: Setting, precision: str, scratch: Path) -> Result:
    task, rows = setting.task, setting.rows
    images = [setting.packed.samples(row) for row in range(len(rows))]
    steps = groups([len(found) for found in images])

    def batches(first: int, part: range) -> Iterator[list[Batch]]:
        clock.start()
        for step in steps:
            yield [task.collate([task.example(rows[row], VisionOptions(answer_weights="flat"), 0) for row in step])]

    def start(model: torch.nn.Module) -> None:
        model.load_state_dict(setting.weights)

    clock = Clock()
    run = Run(
        name="ours",
        folder=scratch,
        task=task,
        batches=batches,
        held_out=None,
        seed=SEED,
        optimization=Optimization(learning_rate=1e-30, warmup_steps=0, schedule="constant", weight_decay=0.0),
        training=Training(steps=len(steps), batch_size=1, micro_batches=1, precision=precision, digest_every=10**6),
        execution=Execution(checkpoint_every=10**6),
        start=start,
        after_step=lambda step: clock.tick(),
    )
    fit(run, Workers(), StopRequest())
    lines = [line for line in read_metrics(scratch / METRICS) if "loss" in line]
    targets = sum(line["tokens"] for line in lines)
    trained = [[image for row in step for image in images[row]] for step in steps]
    return {
        "loss": sum(line["loss"] * line["tokens"] for line in lines) / targets,
        "targets": targets,
        "tokens": sum(len(rows[row].inputs) for step in steps for row in step),
        "computed": len(rows) * task.packing.row_tokens,
        **clock.result([sum(setting.questions[image] for image in step) for step in trained]),
    }


def groups(sizes: list[int]) -> list[range]:
    """Consecutive rows that hold at least `IMAGES` images a step."""
    steps, first, held = [], 0, 0
    for index, size in enumerate(sizes):
        held += size
        if held >= IMAGES:
            steps.append(range(first, index + 1))
            first, held = index + 1, 0
    return [*steps, range(first, len(sizes))] if held else steps


class Clock:
    """The time at the end of every step, and the peak memory until then. The first step warms up; the last one of ours saves a checkpoint."""

    def __init__(self) -> None:
        self.before, self.steps = 0, []  # type: ignore[var-annotated]

    def start(self) -> None:
        """Before the first step, with model and optimizer."""
        self.before = resident("VmRSS")

    def tick(self) -> None:
        self.steps.append((time.perf_counter(), time.process_time(), resident("VmHWM")))

    def result(self, questions: list[int]) -> Result:
        """`questions` are those of each step."""
        wall, cpu = (self.steps[-2][kind] - self.steps[0][kind] for kind in range(2))
        done, peak = sum(questions[1:-1]), self.steps[-2][2]
        return {"speed": done / wall, "cpu": done / cpu, "peak": peak, "added": peak - self.before}


def resident(name: str) -> int:
    """Bytes by a name of /proc/self/status: VmRSS is the resident set, VmHWM its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def padded(setting: Setting, precision: str, scratch: Path) -> Result:
    """The loop by hand. A sample is a list of tokens and the weights of their losses, as those of our documents."""
    model = setting.task.build()
    model.load_state_dict(setting.weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-30, weight_decay=0.0, fused=True)
    count = len(setting.features)
    steps = [range(first, min(first + IMAGES, count)) for first in range(0, count, IMAGES)]
    clock, total, targets, tokens, computed = Clock(), 0.0, 0, 0, 0
    clock.start()
    for step in steps:
        found = [(image, *sample) for image in step for sample in apart(setting.packed.tokens, image)]
        length = max(len(ids) for _, ids, _ in found) - 1
        ids = torch.full((len(found), length), setting.task.tokenizer.pad)
        labels, real = torch.full_like(ids, IGNORED), torch.zeros(len(found), length, dtype=torch.bool)
        for row, (_, own, weights) in enumerate(found):
            ids[row, : len(own) - 1], real[row, : len(own) - 1] = own[:-1], True
            labels[row, : len(own) - 1] = own[1:].where(weights[1:] > 0, IGNORED)
        features = setting.features[[image for image, _, _ in found]]
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = every_position(model, ids, real, features)
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        answered = int((labels != IGNORED).sum())
        total, targets = total + loss.item() * answered, targets + answered
        tokens, computed = tokens + int(real.sum()), computed + real.numel()
        del logits, loss
        clock.tick()
    trained = [sum(setting.questions[image] for image in step) for step in steps]
    return {
        "loss": total / targets,
        "targets": targets,
        "tokens": tokens,
        "computed": computed,
        **clock.result(trained),
    }


def apart(tokens: Tokens, image: int) -> list[tuple[Tensor, Tensor]]:
    """The samples of an image: its conversation, or its context with each branch."""
    assert tokens.weights is not None
    ids, weights = (torch.from_numpy(array.copy()) for array in (tokens.ids, tokens.weights))
    parts = [(ids[begin:end].long(), weights[begin:end]) for begin, end in pairwise(tokens.bounds(image))]
    (context, silent), *branches = parts
    joined = [(torch.cat([context, own[1:]]), torch.cat([silent, weight[1:]])) for own, weight in branches]
    return joined or [(context, silent)]


def every_position(model: VisionLanguageModel, ids: Tensor, real: Tensor, features: Tensor) -> Tensor:
    """Logits [B, T, V] of padded rows [B, T] with one image each. `real` is False at padding."""
    decoder, special = model.decoder, ids < 0
    x = torch.where(special[..., None], model.special((-1 - ids).clamp(min=0)), decoder.embed(ids.clamp(min=0)))
    x[ids == IMAGE_PATCH] = model.connector(features).flatten(0, 1).to(x.dtype)
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    mask = (causal & real[:, None, :])[:, None]  # [B, 1, T, T]
    config = decoder.config
    turn = rotation(torch.arange(ids.shape[1]), config.size, config.rope_theta)
    for block in decoder.blocks:
        x = block(x, Attend(mask, rotation=turn))
    return decoder.logits(decoder.norm(x))


def worker(side: str, form: str, precision: str, count: str) -> None:
    """One run in this process; prints its result as the last line."""
    torch.set_num_threads(1)
    setting = Setting(form, int(count))
    with tempfile.TemporaryDirectory() as scratch:
        found = (ours if side == "ours" else padded)(setting, precision, Path(scratch))
    print(json.dumps(found))


def in_process(*arguments: str) -> Result:
    command = [sys.executable, __file__, "--worker", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{arguments[0]} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(form: str, precision: str, count: int, rounds: int) -> None:
    results: dict[str, list[Result]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in sorted(SIDES, reverse=bool(number % 2)):
            results[side].append(in_process(side, form, precision, str(count)))
    own, other = results["ours"], results["padded"]
    assert own[0]["targets"] == other[0]["targets"], "other targets"
    difference = abs(own[0]["loss"] / other[0]["loss"] - 1)
    assert difference < (1e-5 if precision == "fp32" else 1e-3), f"the losses differ by {difference:.0e}"
    unit = "questions" if form == "trees" else "conversations"
    show(f"{form}: {unit}/s, ours / padded", own, other, "speed", 1, "", f">= {SPEED}")
    show(f"{form}: peak memory, ours / padded", own, other, "peak", 1e6, " MB", f"<= {MEMORY}")
    show(f"{form}: memory of the steps, ours / padded", own, other, "added", 1e6, " MB", "-")
    kinds = [f"{one[0]['tokens']:,} of {one[0]['computed']:,} computed" for one in (own, other)]
    print(f"    tokens: ours {kinds[0]}, padded {kinds[1]}")
    print(
        f"    parity: mean loss {own[0]['loss']:.5f} of {own[0]['targets']:,} targets, within {difference:.0e}",
        flush=True,
    )


def show(title: str, own: list[Result], other: list[Result], key: str, scale: float, unit: str, goal: str) -> None:
    ratios = sorted(one[key] / two[key] for one, two in zip(own, other, strict=True))
    sides = [statistics.median(one[key] for one in side) / scale for side in (own, other)]
    by_cpu = statistics.median(one["cpu"] / two["cpu"] for one, two in zip(own, other, strict=True))
    cpu = f"; by CPU time {by_cpu:.2f} x" if key == "speed" else ""
    spread = f"({ratios[0]:.2f} … {ratios[-1]:.2f}, {len(ratios)} rounds{cpu})"
    print(
        f"{title:52} {statistics.median(ratios):.2f} x  goal {goal:6}  {spread}  {sides[0]:,.0f} vs {sides[1]:,.0f}{unit}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images and one round: a smoke test")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the passes")
    parser.add_argument("--images", type=int, default=96, help="images of a run")
    parser.add_argument("--rounds", type=int, default=5, help="runs of every side")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(*options.worker)
    for folder in (SHARDS, TOKENIZER):
        if not (folder / "manifest.json").is_file():
            parser.error(f"{folder} is not there; run `snakemake {folder.relative_to(ROOT)}/manifest.json` first")
    count, rounds = (64, 1) if options.quick else (options.images, options.rounds)
    print(f"CPU, one thread, {options.precision}; {count} images, {IMAGES} a step; torch {torch.__version__}")
    for form in FORMS:
        compare(form, options.precision, count, rounds)
    return None


if __name__ == "__main__":
    main()
