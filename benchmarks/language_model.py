"""A small GPT on characters, shaped and optimized as nanoGPT's CPU demo, beside a bare PyTorch loop of the same model and data. Prints losses and a ratio.

    python benchmarks/language_model.py [--quick]

experiments/lm_kjv_characters.yaml is trained by `fit` with as many workers as its micro-batches and this machine's cores allow, and by what one writes by hand: mean
cross-entropy of the batch, backward, clip_grad_norm_, fused AdamW with the same groups and schedule, as many intra-op threads as ours has workers. Both begin
with the same weights and see the same rows. Sides take turns, a run of a few hundred steps each; the ratio of their tokens/s is the median of the rounds. Then each
is trained once to the end. The losses of both must agree up to rounding: after the first steps closely, at the end as far as chaos lets them.

Needs the shards of the data set kjv (`snakemake data/shards/kjv/manifest.json`). The tokenizer is made here, from the training split.
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch.nn import functional as F

from glassworks.artifacts.digests import write_json
from glassworks.config.base import read_yaml
from glassworks.config.experiment import Experiment
from glassworks.config.project import parse_experiment
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.mixture import Part
from glassworks.data.reading.text import TextTokenizer
from glassworks.data.reading.tokens import all_texts
from glassworks.models.losses import IGNORED
from glassworks.runtime.launch import run_workers, worker_count
from glassworks.runtime.signals import StopRequest
from glassworks.stages import train as stage
from glassworks.stages.tokenizer import SPECIAL, _characters
from glassworks.tasks.language_modelling.task import LanguageModellingTask
from glassworks.training.loop import METRICS, Run, fit, make_trainer
from glassworks.training.metrics_log import read_metrics
from glassworks.training.schedules import learning_rate
from glassworks.training.workers import Workers

ROOT = Path(__file__).resolve().parents[1]
SHARDS = ROOT / "data/shards/kjv"
FILE = ROOT / "experiments/lm_kjv_characters.yaml"
SEED = 1337
ROUNDS = 5
DEMO = 1.88
"""Validation loss of nanoGPT's CPU demo after 2,000 iterations, on characters of Shakespeare (its README)."""


def experiment(**training: Any) -> Experiment:
    settings = read_yaml(FILE)
    settings["training"] |= training
    optimization = settings["optimization"]
    optimization["warmup_steps"] = min(optimization["warmup_steps"], settings["training"]["steps"])
    return parse_experiment(settings, FILE)


def make_run(folder: Path, tokenizer: Path, chosen: Experiment) -> Run:
    """The run that the stage `train` would make, in a folder of its own."""
    task = LanguageModellingTask(chosen.model, TextTokenizer(tokenizer), chosen.packing())
    rows = [
        Part(task.arrange(ShardDataset(SHARDS, split), tokenizer / split), chosen.data.options)
        for split in ("train", "validation")
    ]
    return Run(
        name="ours",
        folder=folder,
        task=task,
        batches=partial(stage._batches, rows[:1], chosen, task, SEED),
        held_out=stage._held_out({"kjv": rows[1]}, chosen, task, SEED)
        if chosen.training.validate_every <= chosen.training.steps
        else None,
        seed=SEED,
        optimization=chosen.optimization,
        training=chosen.training,
        execution=chosen.execution.model_copy(update={"checkpoint_every": 10**6}),
    )


def ours(
    workers: Workers, stop: StopRequest, folder: Path, tokenizer: Path, training: dict[str, Any]
) -> dict[str, Any]:
    """Tokens/s, and the losses of every step and validation."""
    chosen = experiment(**training)
    run = make_run(folder, tokenizer, chosen)
    fitted = fit(run, workers, stop)
    rows = read_metrics(folder / METRICS) if workers.first else []
    return {
        "rate": fitted.samples_per_second * chosen.model.max_tokens,
        "losses": [row["loss"] for row in rows if "loss" in row],
        "validation": [row["validation_loss"] for row in rows if "validation_loss" in row],
    }


def bare(folder: Path, tokenizer: Path, training: dict[str, Any], threads: int) -> dict[str, Any]:
    """The same by hand."""
    chosen = experiment(**training)
    run = make_run(folder, tokenizer, chosen)
    trainer = make_trainer(run, Workers())  # for its initial weights and parameter groups
    model, optimizer, config = trainer.model.train(), trainer.optimizer, run.optimization
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
    batches, losses = whole_batches(run), []
    start = time.perf_counter()
    for step in range(chosen.training.steps):
        inputs, targets = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step, chosen.training.steps)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    seconds = time.perf_counter() - start
    sums = [0.0, 0]
    model.eval()
    with torch.inference_mode():
        for batch in run.held_out.read(range(run.held_out.count)) if run.held_out else ():
            total, count = run.task.validate(model, batch)["loss"]
            sums = [sums[0] + total, sums[1] + count]
    torch.set_num_threads(1)
    tokens = chosen.training.steps * chosen.training.batch_size * chosen.model.max_tokens
    return {"rate": tokens / seconds, "losses": losses, "validation": [sums[0] / max(sums[1], 1)]}


def whole_batches(run: Run) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for parts in run.batches(0, range(run.training.micro_batches)):
        yield torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps: a smoke test")
    quick = parser.parse_args().quick
    if not (SHARDS / "shards.json").is_file():
        parser.error(f"{SHARDS} is not there; run `snakemake data/shards/kjv/manifest.json` first")
    with tempfile.TemporaryDirectory() as scratch:
        compare(Path(scratch), quick)


def compare(scratch: Path, quick: bool) -> None:
    tokenizer = scratch / "tokenizer"
    tokenizer.mkdir()
    _characters(list(all_texts(ShardDataset(SHARDS, "train")))).save(str(tokenizer / "tokenizer.json"))
    write_json(tokenizer / "tokenizer_config.json", SPECIAL)
    full = {"steps": 40, "validate_every": 40} if quick else {"validate_every": 2000}
    short = {"steps": 20 if quick else 300, "validate_every": 10**9}
    model, training = experiment(**full).model, experiment(**full).training
    count = worker_count(training.micro_batches, os.cpu_count() or 1, "cpu")
    rates: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(1 + (1 if quick else ROUNDS)):
        folder = scratch / f"round-{number}"
        found = {
            "ours": run_workers(ours, folder, tokenizer, short, count=count, device="cpu", folder=folder / "workers"),
            "bare": bare(folder / "bare", tokenizer, short, count),
        }
        difference = max(
            abs(a - b) for a, b in zip(found["ours"]["losses"][:20], found["bare"]["losses"][:20], strict=True)
        )
        assert difference < 1e-4, f"the losses of the two sides differ by {difference} within 20 steps"
        if number:  # the first round fills caches
            for side, one in found.items():
                rates[side].append(one["rate"])
    ratios = [a / b for a, b in zip(rates["ours"], rates["bare"], strict=True)]
    shape = f"{model.depth} layers of {model.width}, {training.batch_size} rows of {model.max_tokens} characters"
    print(f"{shape}; {count} workers / {count} threads; torch {torch.__version__}")
    print(
        f"tokens/s, ours / bare loop   {statistics.median(ratios):.2f} x  goal >= 1.0  ({min(ratios):.2f} … {max(ratios):.2f}, {len(ratios)} rounds)  "
        f"{statistics.median(rates['ours']):,.0f} vs {statistics.median(rates['bare']):,.0f}"
    )
    print(f"    parity: losses of the first 20 steps within {difference:.0e}")
    trained = run_workers(
        ours, scratch / "full", tokenizer, full, count=count, device="cpu", folder=scratch / "workers"
    )
    by_hand = bare(scratch / "by-hand", tokenizer, full, count)
    for side, one in (("ours", trained), ("bare loop", by_hand)):
        loss = one["validation"][-1]
        print(
            f"validation loss after {training.steps:,} steps, {side:9}   {loss:.3f} nats per character ({loss / math.log(2):.3f} bits)"
        )
    print(f"    nanoGPT's README has {DEMO} for Shakespeare's characters, after 2,000 iterations of the same shapes")


if __name__ == "__main__":
    main()
