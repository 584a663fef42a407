"""The bytes that LoRA training writes, beside TRL 1.16 with peft: of equal runs, of resumed runs, and of other cuts of a batch. Prints digests.

    python benchmarks/instruction_exactness.py

It needs the environment of `instruction.py` beside it, and makes conversations and random weights in the same way, with 2 layers and a vocabulary of 8,192. Both sides train
float32 adapters of float32 weights on the CPU, one thread a process, for 12 steps of 4 rows. Each run is a fresh process. A digest is the sha256 of the adapter's tensors.

TRL pads its rows. One run saves a checkpoint after step 6 and stops; another process resumes from it by TRL's `resume_from_checkpoint`. TRL's checkpoints hold
pickles, which TRL alone reads here; they are listed.
Ours packs rows of 128 tokens and trains as the stage `train` does. A checkpoint follows every second step. SIGKILL ends the last worker of a run after step 7, and of the run
that goes on, after step 9.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from instruction import ALPHA, RANK, SEED, SHAPE, conversations, make_weights, packed_task, padding_tokenizer

TINY = {**SHAPE, "num_hidden_layers": 2, "vocab_size": 8192}
STEPS, ROWS, ROW, COUNT = 12, 4, 128, 192
"""Steps, rows a step, tokens of a packed row, conversations."""
RATE = 1e-3
PICKLES = {".bin", ".pkl", ".pt", ".pth"}


def theirs(weights: Path, folder: Path, saved: Path, rows: int, end: int, resume: bool) -> None:
    """A run of TRL with micro-batches of `rows` rows, which stops after step `end`."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model_state_dict
    from safetensors.torch import save_file
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.manual_seed(SEED)
    chats = conversations(TINY["vocab_size"], STEPS * ROWS)
    data = {
        "input_ids": [ids for ids, _ in chats],
        "labels": [[token if at >= first else -100 for at, token in enumerate(ids)] for ids, first in chats],
    }

    class Stops(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, arguments: Any, state: Any, control: Any, **options: Any) -> None:
            control.should_training_stop |= state.global_step == end

    trainer = SFTTrainer(
        model=LlamaForCausalLM.from_pretrained(weights, dtype=torch.float32),
        args=SFTConfig(
            output_dir=str(folder),
            max_steps=STEPS,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=ROWS // rows,
            gradient_checkpointing=False,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            bf16=False,
            use_cpu=True,
            save_steps=STEPS // 2,
            report_to=[],
            disable_tqdm=True,
            seed=SEED,
            max_length=ROW,
        ),
        train_dataset=Dataset.from_dict(data),
        processing_class=padding_tokenizer(TINY["vocab_size"], PreTrainedTokenizerFast),
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Stops()],
    )
    trainer.train(resume_from_checkpoint=resume)
    assert trainer.state.global_step == end
    found = get_peft_model_state_dict(trainer.model)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, saved)


def ours(weights: Path, folder: Path, saved: Path, micro_batches: int, workers: int, killed_after: int | None) -> None:
    """A run of ours, whose last worker kills itself after step `killed_after`. It goes on from what is in `folder`."""
    from glassworks.errors import ResourceError
    from glassworks.runtime.launch import run_workers

    arguments = weights, folder, saved, micro_batches, killed_after
    try:
        run_workers(train, *arguments, count=workers, device="cpu", folder=folder / "workers")
    except ResourceError as error:
        assert killed_after and f"worker {workers - 1} was killed" in str(error), error


def train(
    workers: Any, stop: Any, weights: Path, folder: Path, saved: Path, micro_batches: int, killed_after: int | None
) -> None:
    """One of the workers."""
    from functools import partial

    from safetensors.torch import save_file

    from glassworks.config.data import LossOptions
    from glassworks.config.project import parse_experiment
    from glassworks.data.reading.mixture import Part
    from glassworks.models.adapters import adapter_tensors
    from glassworks.stages import train as stage
    from glassworks.training.loop import Run, fit

    settings = {
        "task": "instruction",
        "data": {"dataset": "chats", "tokenizer": {"of": "base"}},
        "model": {"weights": "base", "max_tokens": ROW, "adapter": {"rank": RANK, "alpha": ALPHA}},
        "training": {"steps": STEPS, "batch_size": ROWS, "micro_batches": micro_batches},
        "optimization": {"learning_rate": RATE, "warmup_steps": 0, "schedule": "constant"},
        "execution": {"checkpoint_every": 2},
    }
    experiment: Any = parse_experiment(settings, "experiment")
    task, rows = packed_task(weights, COUNT, ROW, "fp32")

    def after_step(step: int) -> None:
        if step == killed_after and workers.rank == workers.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    run: Run[Any, Any] = Run(
        name="ours",
        folder=folder,
        task=task,
        batches=partial(stage._batches, [Part(rows, LossOptions(), "")], experiment, task, SEED),
        held_out=None,
        seed=SEED,
        optimization=experiment.optimization,
        training=experiment.training,
        execution=experiment.execution,
        start=partial(stage._start_task, task, SEED),
        after_step=after_step,
    )
    fitted = fit(run, workers, stop)
    if workers.first:
        save_file(adapter_tensors(fitted.model), saved)


class Runs:
    """Fresh processes, and the adapters that they save."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.run("weights")

    def run(self, side: str, name: str = "", **settings: Any) -> Path:
        """The tensors of a run in the folder `name`. A killed run saves none."""
        number = len(list(self.scratch.glob("*.safetensors"))) + 1
        saved = self.scratch / f"{number}.safetensors"
        given = json.dumps(settings)
        command = [sys.executable, __file__, "--worker", side, str(self.scratch), name, str(saved), given]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{side} {name} failed:\n{done.stderr[-3000:]}")
        assert side == "weights" or saved.exists() == (not settings.get("killed_after"))
        return saved

    def pickles(self, name: str) -> str:
        """The names of the pickles in the checkpoints of a run."""
        files = [path for path in (self.scratch / name).glob("checkpoint*/**/*") if path.is_file()]
        assert files
        found = sorted({path.name for path in files if path.suffix in PICKLES})
        return ", ".join(found) or "none"


def digest(saved: Path) -> str:
    """sha256 of names, shapes and bytes of all tensors, its first 16 digits."""
    from safetensors.torch import load_file, save

    return hashlib.sha256(save(dict(sorted(load_file(saved).items())))).hexdigest()[:16]


def difference(one: Path, other: Path) -> float:
    """The largest difference between two weights of the same name."""
    from safetensors.torch import load_file

    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def line(title: str, *saved: Path) -> None:
    found = [digest(path) for path in saved]
    equal = "equal" if len(set(found)) == 1 else "they differ"
    print(f"{title:72} {', '.join(dict.fromkeys(found))}  {equal}", flush=True)


def cuts(title: str, one: Path, other: Path) -> None:
    print(f"{title:72} largest difference of a weight {difference(one, other):.1e}", flush=True)


def compare(runs: Runs) -> None:
    whole = {"rows": ROWS, "end": STEPS, "resume": False}
    first = runs.run("theirs", "trl", **whole)
    line("TRL, two equal runs", first, runs.run("theirs", "again", **whole))
    runs.run("theirs", "resumed", **{**whole, "end": STEPS // 2})
    line(
        "TRL, uninterrupted, and resumed after step 6",
        first,
        runs.run("theirs", "resumed", **{**whole, "resume": True}),
    )
    cut = runs.run("theirs", "cut", **{**whole, "rows": 1})
    cuts("TRL, 4 rows at once, and accumulated one by one", first, cut)
    print(f"TRL, pickles in a checkpoint: {runs.pickles('trl')}")

    common = {"micro_batches": ROWS, "killed_after": None}
    found = [runs.run("ours", f"ours {count}", workers=count, **common) for count in (1, 2, 4)]
    line("ours, 4 micro-batches of 1 row, on 1, 2 and 4 workers", *found)
    for workers, step in ((2, 7), (4, 9)):
        runs.run("ours", "killed", workers=workers, **{**common, "killed_after": step})
    line(
        "ours, uninterrupted, and killed on 2 workers, on 4, resumed on 1",
        found[0],
        runs.run("ours", "killed", workers=1, **common),
    )
    cut = runs.run("ours", "cut", workers=1, micro_batches=1, killed_after=None)
    cuts("ours, 4 rows at once, and in 4 micro-batches", cut, found[0])
    print(f"ours, pickles in a checkpoint: {runs.pickles('ours 1')}")


def worker(side: str, scratch: str, name: str, saved: str, settings: str) -> None:
    """One run in this process."""
    import torch

    torch.set_num_threads(1)
    weights = Path(scratch) / "weights"
    if side == "weights":
        return make_weights(weights, TINY)
    run = ours if side == "ours" else theirs
    return run(weights, Path(scratch) / name, Path(saved), **json.loads(settings))


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        return worker(*sys.argv[2:])
    import torch
    from peft import __version__ as peft
    from trl import __version__ as trl

    print(f"CPU, one thread; 2 layers, {STEPS} steps of {ROWS} rows; torch {torch.__version__}, TRL {trl}, peft {peft}")
    with tempfile.TemporaryDirectory() as scratch:
        return compare(Runs(Path(scratch)))


if __name__ == "__main__":
    main()
