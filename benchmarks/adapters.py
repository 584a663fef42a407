"""A LoRA run over a frozen model of Qwen2.5-0.5B's shape with random weights, beside peft with transformers' Trainer. Prints ratios of memory and time.

    python benchmarks/adapters.py [--quick] [--layers 24]

Both sides read the same bf16 weights from one folder, keep them in bf16, train float32 adapters of rank 16 of all linear layers of the blocks by AdamW
under bf16 autocast, and see the same row of random tokens at every step; each token is a target. The initial matrices are drawn differently. B starts at 0, so the
first losses must be equal up to rounding; the later ones are printed.

Each run is a fresh process with one thread. Sides take turns, and who begins alternates. Peak memory is the peak resident set of the process, libraries included. The median
of all rounds is printed. The time of a step is that of the steps after the first.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

SHAPE: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}
"""Qwen2.5-0.5B."""
RANK, RATE, SEED = 16, 1e-3, 0
GOAL = 0.8
"""Largest ratio of the peak memories."""
Result = dict[str, Any]


def make_weights(folder: Path, shape: dict[str, Any]) -> None:
    """Random bf16 weights in transformers' layout. In a process of its own, like the sides."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(SEED)
    torch.set_default_dtype(torch.bfloat16)
    Qwen2ForCausalLM(Qwen2Config(**shape)).save_pretrained(folder)


def tokens(shape: dict[str, Any], length: int) -> Any:
    """Token ids [1, length + 1]."""
    import torch

    return torch.randint(shape["vocab_size"], (1, length + 1), generator=torch.Generator().manual_seed(SEED))


def ours(weights: Path, scratch: Path, shape: dict[str, Any], length: int, steps: int) -> Result:
    from collections.abc import Iterator

    from glassworks.config.optimization import Optimization
    from glassworks.config.training import Execution, Training
    from glassworks.models.adapters import adapter_tensors
    from glassworks.models.pretrained.language_models import read_decoder
    from glassworks.models.settings.adapter import Adapter
    from glassworks.runtime.signals import StopRequest
    from glassworks.tasks.language_modelling.task import Batch, Begin, LanguageModellingTask
    from glassworks.training.loop import CHECKPOINTS, METRICS, Run, fit
    from glassworks.training.metrics_log import read_metrics
    from glassworks.training.workers import Workers

    config, vocabulary = read_decoder(weights)
    begin = Begin(weights, vocabulary, Adapter(rank=RANK, alpha=RANK), None, "bf16")
    row, ends = tokens(shape, length), [time.perf_counter()]
    batch = Batch(["row"], row[:, :-1], row[:, 1:], None)
    task: Any = LanguageModellingTask(config, None, begin=begin)  # type: ignore[arg-type]

    def batches(first: int, part: range) -> Iterator[list[Batch]]:
        while True:
            yield [batch]

    run = Run(
        name="ours",
        folder=scratch,
        task=task,
        batches=batches,
        held_out=None,
        seed=SEED,
        optimization=Optimization(learning_rate=RATE, warmup_steps=0, schedule="constant", weight_decay=0.0),
        training=Training(steps=steps, batch_size=1, micro_batches=1, precision="bf16", digest_every=10**6),
        execution=Execution(checkpoint_every=10**6),
        start=lambda model: task.start(model, SEED),
        after_step=lambda step: ends.append(time.perf_counter()),
    )
    fitted = fit(run, Workers(), StopRequest())
    [checkpoint] = (scratch / CHECKPOINTS).glob(f"*{steps}/model.safetensors")
    adapter = adapter_tensors(fitted.model)
    return {
        "losses": [line["loss"] for line in read_metrics(scratch / METRICS) if "loss" in line],
        "seconds": [end - start for start, end in itertools.pairwise(ends[1:])],
        "trained": sum(tensor.numel() for tensor in adapter.values()),
        "adapter_bytes": sum(tensor.nbytes for tensor in adapter.values()),
        "checkpoint_bytes": checkpoint.stat().st_size,
    }


def theirs(weights: Path, scratch: Path, shape: dict[str, Any], length: int, steps: int) -> Result:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2ForCausalLM, Trainer, TrainerCallback, TrainingArguments

    torch.manual_seed(SEED)
    model = get_peft_model(
        Qwen2ForCausalLM.from_pretrained(weights, dtype=torch.bfloat16),
        LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    row, ends = tokens(shape, length)[0], [time.perf_counter()]
    sample = {"input_ids": row, "labels": row}
    losses: list[float] = []

    class Ends(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *arguments: Any, **options: Any) -> None:
            ends.append(time.perf_counter())

        def on_log(self, *arguments: Any, logs: dict[str, float], **options: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    settings = TrainingArguments(
        output_dir=str(scratch),
        max_steps=steps,
        per_device_train_batch_size=1,
        learning_rate=RATE,
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
    )
    Trainer(model=model, args=settings, train_dataset=[sample] * steps, callbacks=[Ends()]).train()
    return {
        "losses": losses,
        "seconds": [end - start for start, end in itertools.pairwise(ends[1:])],
        "trained": sum(one.numel() for one in model.parameters() if one.requires_grad),
    }


SIDES = {"ours": ours, "theirs": theirs}


def worker(side: str, weights: str, shape: str, length: str, steps: str) -> None:
    """One run in this process; prints its result as the last line."""
    import torch

    torch.set_num_threads(1)
    if side == "weights":
        return make_weights(Path(weights), json.loads(shape))
    with tempfile.TemporaryDirectory() as scratch:
        result = SIDES[side](Path(weights), Path(scratch), json.loads(shape), int(length), int(steps))
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    print(json.dumps({**result, "peak": peak}))
    return None


def in_process(side: str, weights: Path, shape: dict[str, Any], length: int, steps: int) -> Result:
    command = [sys.executable, __file__, "--worker", side, str(weights), json.dumps(shape), str(length), str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return {} if side == "weights" else json.loads(done.stdout.splitlines()[-1])


def compare(shape: dict[str, Any], length: int, steps: int, rounds: int) -> None:
    results: dict[str, list[Result]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch)
        in_process("weights", weights, shape, length, steps)
        for number in range(rounds):
            for side in sorted(SIDES, reverse=bool(number % 2)):
                results[side].append(in_process(side, weights, shape, length, steps))
    found, other = results["ours"], results["theirs"]
    first = [one["losses"][0] for one in (found[0], other[0])]
    difference = abs(first[0] / first[1] - 1)
    for side, some in results.items():
        print(
            f"{side:7} losses {' '.join(f'{loss:.4f}' for loss in some[0]['losses'])}, {some[0]['trained']:,} trained"
        )
    assert found[0]["trained"] == other[0]["trained"], "both sides train the same parameters"
    assert difference < 1e-3, f"the first losses differ by {difference:.0e}"
    print(f"parity: first loss within {difference:.0e}")
    report(
        "peak memory", [one["peak"] / 1e9 for one in found], [one["peak"] / 1e9 for one in other], "GB", f"{GOAL:.2f}"
    )
    times = [[statistics.median(one["seconds"]) for one in some] for some in (found, other)]
    report("seconds of a step", *times, "s", "-")
    size, adapter = found[0]["checkpoint_bytes"], found[0]["adapter_bytes"]
    print(f"checkpoint: weights {size / 1e6:.2f} MB, adapter {adapter / 1e6:.2f} MB, {size / adapter:.3f} x")


def report(title: str, own: list[float], other: list[float], unit: str, goal: str) -> None:
    ratios = sorted(one / two for one, two in zip(own, other, strict=True))
    middle = f"{statistics.median(own):.2f} vs {statistics.median(other):.2f} {unit}"
    print(
        f"{title}, ours / peft: {statistics.median(ratios):.2f} x  goal {goal}  ({ratios[0]:.2f} … {ratios[-1]:.2f})  {middle}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model, few steps: a smoke test")
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"], help="transformer blocks")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(*options.worker)
    shape, length, steps, rounds = {**SHAPE, "num_hidden_layers": options.layers}, 512, 4, 3
    if options.quick:
        shape |= {"num_hidden_layers": 2, "vocab_size": 8192}
        length, steps, rounds = 64, 3, 1
    import torch
    import transformers
    from peft import __version__ as peft

    print(
        f"CPU, one thread; {shape['num_hidden_layers']} layers, {length} tokens a step; torch {torch.__version__}, "
        f"transformers {transformers.__version__}, peft {peft}"
    )
    return compare(shape, length, steps, rounds)


if __name__ == "__main__":
    main()
