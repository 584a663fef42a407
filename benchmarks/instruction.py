"""Instruction tuning by LoRA, beside TRL 1.16 with peft, padded and packed. Prints ratios of conversations a second and of memory.

    python benchmarks/instruction.py [--quick] [--layers 30] [--rounds 5]

It needs `trl==1.16.0` beside the project's packages, in an environment of its own. All sides read one folder of random bf16 weights in SmolLM2-135M's shape, keep them in
bf16, train float32 adapters of rank 8 of all linear layers of the blocks by AdamW under bf16 autocast, with one thread. The conversations are random tokens, of which
the last third has a loss, of lengths as in short chats (mean 34, 95th percentile near 80). Ours and `packed` train rows of 512 tokens, two a step; `padded` 16
conversations a step.

The learning rate is 0, so that every side computes the losses of the same weights: their mean over all conversations, token by token, must be equal up to rounding. Each run is
a fresh process. Sides take turns, and who begins alternates. Peak memory is the peak resident set of the process, libraries included. The median of all rounds is printed.
The first step, which also warms up, has no share in the speed. The speed by CPU time is disturbed less by other work on the machine.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

SHAPE: dict[str, Any] = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e5,
    "tie_word_embeddings": True,
}
"""SmolLM2-135M."""
RANK, ALPHA, SEED = 8, 16, 0
ROW, ROWS, PADDED = 512, 2, 16
"""Tokens of a packed row, packed rows a step, padded conversations a step."""
GOALS = {"padded": 2.0, "packed": 1.1}
"""Least ratio of the speeds, by side."""
MEMORY = 0.45
"""Largest ratio of the peak memories, ours to padded."""
Result = dict[str, Any]


class Clock(NamedTuple):
    """Seconds."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> "Clock":
        return cls(time.perf_counter(), time.process_time())


def make_weights(folder: Path, shape: dict[str, Any]) -> None:
    """Random bf16 weights in transformers' layout. In a process of its own, like the sides."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder)


def conversations(vocabulary: int, count: int) -> list[tuple[list[int], int]]:
    """Token ids, and the index of the first one with a loss."""
    import numpy as np

    draw = np.random.default_rng(SEED)
    lengths = np.exp(draw.normal(math.log(29), 0.58, count)).round().clip(6, 256).astype(int)
    return [(draw.integers(3, vocabulary, length).tolist(), length - length // 3) for length in lengths]


def packed_task(weights: Path, count: int, row: int, dtype: Literal["fp32", "bf16"]) -> tuple[Any, Any]:
    """The task of a LoRA run over `weights`, held in `dtype`, and the conversations in rows of `row` tokens."""
    import numpy as np

    from glassworks.config.packing import Packing
    from glassworks.data.reading.packing import PackedRows, plan_rows
    from glassworks.data.reading.tokens import Tokens
    from glassworks.models.pretrained.language_models import read_decoder
    from glassworks.models.settings.adapter import Adapter
    from glassworks.tasks.language_modelling.task import Begin, LanguageModellingTask

    config, vocabulary = read_decoder(weights)
    chats = conversations(vocabulary, count)
    ids = np.array([token for chat, _ in chats for token in chat], np.int32)
    scored = np.array([at >= first for chat, first in chats for at in range(len(chat))], np.float32)
    ends = np.cumsum([len(chat) for chat, _ in chats])
    tokens = Tokens(ids, ends, None, scored, np.zeros(count, bool))
    samples: Any = _Named(count)
    packing = Packing(row_tokens=row)
    rows = PackedRows(samples, tokens, plan_rows(samples, tokens, packing))
    begin = Begin(weights, vocabulary, Adapter(rank=RANK, alpha=ALPHA), None, dtype)
    tokenizer: Any = SimpleNamespace(pad=0, size=vocabulary)
    config = config.model_copy(update={"max_tokens": row})
    return LanguageModellingTask(config, tokenizer, packing, begin=begin), rows


def ours(weights: Path, scratch: Path, shape: dict[str, Any], count: int) -> Result:
    from collections.abc import Iterator

    from glassworks.config.optimization import Optimization
    from glassworks.config.training import Execution, Training
    from glassworks.runtime.signals import StopRequest
    from glassworks.tasks.language_modelling.task import Batch
    from glassworks.training.loop import METRICS, Run, fit
    from glassworks.training.metrics_log import read_metrics
    from glassworks.training.workers import Workers

    task, rows = packed_task(weights, count, ROW, "bf16")
    steps = [range(start, min(start + ROWS, len(rows))) for start in range(0, len(rows), ROWS)]
    held = [len(rows.plan.row(index)) for index in range(len(rows))]

    def batches(first: int, part: range) -> Iterator[list[Batch]]:
        for step in steps:
            yield [task.collate([rows[index] for index in step])]

    times = [Clock.now()]
    run = Run(
        name="ours",
        folder=scratch,
        task=task,
        batches=batches,
        held_out=None,
        seed=SEED,
        optimization=Optimization(learning_rate=1e-30, warmup_steps=0, schedule="constant", weight_decay=0.0),
        training=Training(steps=len(steps), batch_size=ROWS, micro_batches=1, precision="bf16", digest_every=10**6),
        execution=Execution(checkpoint_every=10**6),
        start=lambda model: task.start(model, SEED),
        after_step=lambda step: times.append(Clock.now()),
    )
    fit(run, Workers(), StopRequest())
    lines = [line for line in read_metrics(scratch / METRICS) if "loss" in line]
    return {
        "loss": sum(line["loss"] * line["tokens"] for line in lines) / sum(line["tokens"] for line in lines),
        "targets": sum(line["tokens"] for line in lines),
        **speeds(sum(held[index] for step in steps[1:] for index in step), times),
    }


def speeds(conversations: int, times: list[Clock]) -> Result:
    """Conversations a second of all steps after the first, by wall time and by CPU time."""
    wall, cpu = (last - first for first, last in zip(times[1], times[-1], strict=True))
    return {"speed": conversations / wall, "cpu_speed": conversations / cpu}


class _Named:
    """Samples of which only keys and number are read."""

    def __init__(self, count: int) -> None:
        self.shard_sizes = [count]

    def __getitem__(self, index: int) -> Any:
        return SimpleNamespace(key=str(index))


def theirs(weights: Path, scratch: Path, shape: dict[str, Any], count: int, packed: bool) -> Result:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.manual_seed(SEED)
    chats = conversations(shape["vocab_size"], count)
    data = {
        "input_ids": [ids for ids, _ in chats],
        "labels": [[token if at >= first else -100 for at, token in enumerate(ids)] for ids, first in chats],
    }
    times = [Clock.now()]
    losses: list[float] = []

    class Ends(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *arguments: Any, **options: Any) -> None:
            times.append(Clock.now())

        def on_log(self, *arguments: Any, logs: dict[str, float], **options: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    class InOrder(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *arguments: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    size = ROWS if packed else PADDED
    settings = SFTConfig(
        output_dir=str(scratch),
        num_train_epochs=1,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=1,
        gradient_checkpointing=False,
        learning_rate=0.0,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        optim="adamw_torch_fused",
        bf16=True,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=SEED,
        packing=packed,
        max_length=ROW,
        average_tokens_across_devices=False,
    )
    trainer = InOrder(
        model=LlamaForCausalLM.from_pretrained(weights, dtype=torch.bfloat16),
        args=settings,
        train_dataset=Dataset.from_dict(data),
        processing_class=padding_tokenizer(shape["vocab_size"], PreTrainedTokenizerFast),
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Ends()],
    )
    rows = [trainer.train_dataset[index] for index in range(len(trainer.train_dataset))]
    trainer.train()
    targets = [_targets(row) for row in rows]
    held = [len(row.get("seq_lengths", [0])) for row in rows]
    steps = [range(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
    of_step = [sum(targets[index] for index in step) for step in steps]
    return {
        "loss": sum(loss * number for loss, number in zip(losses, of_step, strict=True)) / sum(of_step),
        "targets": sum(of_step),
        **speeds(sum(held[index] for step in steps[1:] for index in step), times),
    }


def _targets(row: dict[str, Any]) -> int:
    """Targets with a loss. The first token of a conversation is no target."""
    begins = [0, *itertools.accumulate(row.get("seq_lengths", [len(row["labels"])]))][:-1]
    return sum(label != -100 and at not in begins for at, label in enumerate(row["labels"]))


def padding_tokenizer(size: int, kind: Any) -> Any:
    """A tokenizer that only pads."""
    from tokenizers import Tokenizer, models

    names = {"<pad>": 0, "<eos>": 1, "<unk>": 2}
    tokenizer = Tokenizer(models.WordLevel(names, "<unk>"))
    return kind(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


SIDES = ("ours", "padded", "packed")


def worker(side: str, weights: str, shape: str, count: str) -> None:
    """One run in this process; prints its result as the last line."""
    import torch

    torch.set_num_threads(1)
    if side == "weights":
        return make_weights(Path(weights), json.loads(shape))
    with tempfile.TemporaryDirectory() as scratch:
        given = Path(weights), Path(scratch), json.loads(shape), int(count)
        result = ours(*given) if side == "ours" else theirs(*given, packed=side == "packed")
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    print(json.dumps({**result, "peak": peak}))
    return None


def in_process(side: str, weights: Path, shape: dict[str, Any], count: int) -> Result:
    command = [sys.executable, __file__, "--worker", side, str(weights), json.dumps(shape), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return {} if side == "weights" else json.loads(done.stdout.splitlines()[-1])


def compare(shape: dict[str, Any], count: int, rounds: int) -> None:
    results: dict[str, list[Result]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch)
        in_process("weights", weights, shape, count)
        for number in range(rounds):
            for side in sorted(SIDES, reverse=bool(number % 2)):
                results[side].append(in_process(side, weights, shape, count))
    found = results["ours"]
    for side, some in results.items():
        print(f"{side:7} mean loss {some[0]['loss']:.5f} of {some[0]['targets']:,} targets")
    for side, goal in GOALS.items():
        other = results[side]
        assert found[0]["targets"] == other[0]["targets"], f"{side}: other targets"
        difference = abs(found[0]["loss"] / other[0]["loss"] - 1)
        assert difference < 1e-3, f"{side}: the losses differ by {difference:.0e}"
        print(f"parity with {side}: loss within {difference:.0e}")
        for name, title in (("speed", "second"), ("cpu_speed", "CPU second")):
            rates = [[one[name] for one in some] for some in (found, other)]
            report(f"conversations a {title}, ours / TRL {side}", *rates, "", f"{goal:.1f}")
        peaks = [[one["peak"] / 1e9 for one in some] for some in (found, other)]
        report(f"peak memory, ours / TRL {side}", *peaks, " GB", f"{MEMORY:.2f}" if side == "padded" else "-")


def report(title: str, own: list[float], other: list[float], unit: str, goal: str) -> None:
    ratios = sorted(one / two for one, two in zip(own, other, strict=True))
    middle = f"{statistics.median(own):.2f} vs {statistics.median(other):.2f}{unit}"
    print(
        f"{title}: {statistics.median(ratios):.2f} x  goal {goal}  ({ratios[0]:.2f} … {ratios[-1]:.2f})  {middle}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model, few conversations: a smoke test")
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"], help="transformer blocks")
    parser.add_argument("--conversations", type=int, default=160, help="conversations of a run")
    parser.add_argument("--rounds", type=int, default=5, help="runs of every side")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(*options.worker)
    shape, count, rounds = {**SHAPE, "num_hidden_layers": options.layers}, options.conversations, options.rounds
    if options.quick:
        shape |= {"num_hidden_layers": 2, "vocab_size": 8192}
        count, rounds = 96, 1
    import torch
    from peft import __version__ as peft
    from trl import __version__ as trl

    print(
        f"CPU, one thread; {shape['num_hidden_layers']} layers, {count} conversations, {rounds} rounds; torch {torch.__version__}, TRL {trl}, peft {peft}"
    )
    return compare(shape, count, rounds)


if __name__ == "__main__":
    main()
