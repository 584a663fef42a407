"""Instruction tuning has one set of final bytes for a cut of the batch into micro-batches: for any number of workers, and after any kills.

Another cut adds the same numbers in another order, so its weights differ in the last bits. These tests state which values are equal between cuts.
Makes the table of docs/records/instruction.md.
"""

import json
import multiprocessing
import os
import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from glassworks.artifacts.digests import write_json
from glassworks.artifacts.manifest import MANIFEST
from glassworks.config.data import LossOptions
from glassworks.config.packing import Packing
from glassworks.config.project import parse_experiment
from glassworks.data.messages import Message
from glassworks.data.reading.chat import ChatTemplate
from glassworks.data.reading.mixture import Part
from glassworks.data.reading.text import TextTokenizer
from glassworks.errors import ResourceError
from glassworks.models.adapters import adapter_tensors
from glassworks.models.language_model import LanguageModel
from glassworks.models.settings.adapter import Adapter
from glassworks.models.settings.text_decoder import TextDecoder
from glassworks.runtime import fork_server
from glassworks.runtime.launch import run_workers
from glassworks.runtime.signals import StopRequest
from glassworks.tasks.instruction.task import InstructionTask
from glassworks.tasks.language_modelling.task import Begin
from glassworks.training.loop import METRICS, Run, fit
from glassworks.training.metrics_log import read_metrics
from glassworks.training.workers import Workers

from ..data.chats import CHATML, make_tokenizer
from ..training.engine import sha256, stage_run
from .test_packed_documents import LLAMA, Samples

STEPS, ROWS, ROW = 12, 8, 96
DECODER = TextDecoder(width=32, depth=2, heads=4, max_tokens=ROW, **LLAMA)
CUTS = {"1x8": 8, "2x4": 4, "8x1": 1}
"""Micro-batches, by the rows of a micro-batch and the number of micro-batches."""
HELD = {"lora": ("fp32", None), "nf4": ("bf16", "nf4")}
"""Precision of a step, and that of the frozen layers."""


def conversations() -> list[list[Message]]:
    """One or two turns of different lengths."""
    turns = [("user", "Name a fruit."), ("assistant", "A pear."), ("user", "And?"), ("assistant", "An apple, a fig.")]
    lists = [[Message(role=role, content=f"{text} {number}") for role, text in turns] for number in range(40)]
    return [found[: 2 + 2 * (number % 3 > 0)] for number, found in enumerate(lists)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with a tokenizer that has the tokens of its chat template."""
    folder = make_tokenizer(tmp_path_factory.mktemp("base"), CHATML)
    torch.manual_seed(0)
    LanguageModel(DECODER, TextTokenizer(folder).size).save(folder)
    write_json(folder / MANIFEST, {"schema": 1, "counts": {}, "files": {}})
    return folder


def tuning(folder: Path, base: Path, held: str, micro_batches: int, killed_at: int | None, rank: int) -> Run[Any, Any]:
    """A run on packed conversations; with `killed_at`, the worker `rank` kills itself after so many steps."""
    precision, quantisation = HELD[held]
    tokenizer = TextTokenizer(base)
    settings = {
        "task": "instruction",
        "data": {"dataset": "chats", "tokenizer": {"of": "base"}},
        "model": {"weights": "base", "max_tokens": ROW, "adapter": {"rank": 4}},
        "training": {"steps": STEPS, "batch_size": ROWS, "micro_batches": micro_batches, "precision": precision},
        "optimization": {"learning_rate": 1e-3, "warmup_steps": 2},
        "execution": {"checkpoint_every": 2},
    }
    experiment: Any = parse_experiment(settings, "experiment")
    begin = Begin(base, tokenizer.size, Adapter(rank=4), quantisation=quantisation)
    template = ChatTemplate(CHATML, tokenizer, "the template")
    task = InstructionTask(template, DECODER, tokenizer, Packing(row_tokens=ROW), begin=begin, neftune=5.0)
    part = Part(task.arrange(Samples(conversations())), LossOptions(), "")

    def die(step: int) -> None:
        if step == killed_at and rank == int(os.environ.get("RANK", rank)):
            os.kill(os.getpid(), signal.SIGKILL)

    return stage_run(experiment, task, part, folder, after_step=die)


def final(workers: Workers, stop: StopRequest, settings: dict[str, Any]) -> str | None:
    fitted = fit(tuning(**settings), workers, stop)
    return sha256(fitted) if workers.first else None


def train(workers: int, killed_at: int | None = None, rank: int = 0, **settings: Any) -> str:
    """The digest of the final weights; a run in `folder` goes on."""
    settings |= {"killed_at": killed_at, "rank": rank}
    return run_workers(final, settings, count=workers, device="cpu", folder=settings["folder"] / "workers")


def alone(settings: dict[str, Any]) -> None:
    fit(tuning(**settings), Workers(), StopRequest())


def kill(workers: int, killed_at: int, rank: int, **settings: Any) -> None:
    """Train until one of the workers kills itself."""
    if workers > 1:
        with pytest.raises(ResourceError, match=f"worker {rank} was killed"):
            train(workers, killed_at, rank, **settings)
        return
    fork_server.start("glassworks.stages.train")
    settings |= {"killed_at": killed_at, "rank": rank}
    process = multiprocessing.get_context("forkserver").Process(target=alone, args=(settings,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("held", "cut", "workers", "kills"),
    [
        pytest.param("lora", "2x4", (2,), 1),
        pytest.param("nf4", "1x8", (2,), 1),
        *(pytest.param(held, cut, (1, 2, 4), 10, marks=pytest.mark.slow) for held in HELD for cut in CUTS),
    ],
)
def test_pain_9_a_cut_of_the_batch_has_one_set_of_final_bytes(tmp_path, base, record_row, held, cut, workers, kills):
    """For 1, 2 and 4 workers, and after kills at drawn steps, each followed by another number of workers. A worker needs a micro-batch."""
    draw = random.Random(f"{held} {cut}")
    counts = [count for count in (1, *workers) if count <= CUTS[cut]]
    common = {"base": base, "held": held, "micro_batches": CUTS[cut]}
    found = {count: train(count, folder=tmp_path / f"{count}", **common) for count in dict.fromkeys(counts)}
    steps = sorted(draw.sample(range(1, STEPS), kills))
    for step in steps:
        count = draw.choice(counts)
        kill(count, step, draw.randrange(count), folder=tmp_path / "killed", **common)
    resumed = train(counts[-1], folder=tmp_path / "killed", **common)
    assert {*found.values()} == {resumed}, (found, resumed)
    listed = ", ".join(str(count) for count in found)
    record_row("instruction", held, cut, listed, resumed[:16], f"{resumed[:16]} ({kills} kills)")


def test_pain_8_a_resumed_run_goes_on_after_its_checkpoint_and_ends_with_the_last_step(tmp_path, base):
    """Every step reads its own rows once; those that only the lost steps read are read again."""
    common = {"base": base, "held": "lora", "micro_batches": 4, "killed_at": None, "rank": 0}

    def steps(folder: str, end: int | None = None) -> tuple[dict[int, list[str]], Any]:
        run = tuning(tmp_path / folder, **common)
        read: dict[int, list[str]] = {}

        def seen(first: int, part: range) -> Any:
            for step, batches in enumerate(run.batches(first, part), start=first + 1):
                read[step] = [key for batch in batches for key in batch.keys]
                yield batches

        def stop(step: int) -> None:
            if step == end:
                raise InterruptedError

        try:
            fitted = fit(replace(run, batches=seen, after_step=stop), Workers(), StopRequest())
        except InterruptedError:
            return {step: keys for step, keys in read.items() if step <= STEPS}, None
        return read, fitted

    whole, uninterrupted = steps("whole")
    before, _ = steps("cut", end=5)
    after, resumed = steps("cut")
    assert list(whole) == [*range(1, STEPS + 1)] and max(before) >= 5
    assert (resumed.resumed_step, resumed.step) == (4, STEPS) and list(after) == [*range(5, STEPS + 1)]
    assert before | after == whole
    assert sha256(resumed) == sha256(uninterrupted)
    assert (tmp_path / "cut" / METRICS).read_bytes() == (tmp_path / "whole" / METRICS).read_bytes()
    _, again = steps("cut")
    assert again.step == STEPS and sha256(again) == sha256(resumed), "a run that is over trains no more"


def run_of(folder: Path, base: Path, held: str, cut: str) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    fitted = fit(tuning(folder, base, held, CUTS[cut], None, 0), Workers(), StopRequest())
    return adapter_tensors(fitted.model), read_metrics(folder / METRICS)


def test_pain_4_another_cut_differs_in_the_last_bits_alone(tmp_path, base):
    """The rows of a step, their noise and the weight of every target are equal. So are loss and gradient, but for the rounding of sums."""
    seen = {}
    for cut, count in CUTS.items():
        described = tuning(tmp_path / "read", base, "lora", count, None, 0)
        batches = next(described.batches(3, range(count)))
        keys = [key for batch in batches for key in batch.keys]
        ids, targets, noise = (
            torch.cat([getattr(batch, name) for batch in batches]) for name in ("inputs", "targets", "noise")
        )
        seeds = [seed for batch in batches for seed in batch.seeds]
        seen[cut] = json.dumps([keys, ids.tolist(), targets.tolist(), noise.tolist(), seeds])
    assert len(set(seen.values())) == 1
    found = {cut: run_of(tmp_path / cut, base, "lora", cut) for cut in CUTS}
    whole, log = found.pop("8x1")
    moved = max(float(tensor.abs().max()) for name, tensor in whole.items() if "lora_B" in name)
    assert moved > 1e-3, "B begins at 0"
    for tensors, rows in found.values():
        for row, other in zip(rows, log, strict=True):
            assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
        for name, tensor in tensors.items():
            assert float((tensor - whole[name]).abs().max()) < 0.01 * moved, name
