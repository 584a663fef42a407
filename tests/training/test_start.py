"""An experiment that continues from another begins with its published weights, or with one line about why it cannot."""

import json

import pytest

from glassworks.errors import ArtifactError
from glassworks.runtime.launch import run_workers
from glassworks.stages.train import describe
from glassworks.training.loop import make_trainer
from glassworks.training.metrics_log import read_metrics
from glassworks.training.validation import validate

PARAMS = {
    "datasets": {
        "pictures": {"source": "folder", "path": "pictures", "splits": {"validation": 0.3}, "samples_per_shard": 8}
    }
}
FIRST = {
    "task": "language_modelling",
    "data": {"dataset": "pictures", "tokenizer": {"kind": "characters"}},
    "model": {"width": 16, "depth": 1, "heads": 2, "max_tokens": 24},
    "optimization": {"warmup_steps": 1},
    "training": {"steps": 4, "batch_size": 2, "micro_batches": 2, "validate_every": 2},
}
SECOND = {
    **FIRST,
    "data": {"dataset": "pictures", "tokenizer": {"of": "first"}},
    "model": {**FIRST["model"], "from": "first"},
}


@pytest.fixture
def trained(project, write_image):
    """A project in which the first of two experiments is trained."""
    for number in range(24):
        write_image(project.root / f"pictures/{number}.png", seed=number)
    rows = "".join(f"{number}.png,caption {number} of many\n" for number in range(24))
    (project.root / "pictures/captions.csv").write_text("file,caption\n" + rows)
    project.configure(PARAMS, first=FIRST, second=SECOND)
    for stage in ("fetch-pictures", "records-pictures"):
        project.run(stage)
    for job in range(project.table["shards-pictures"].jobs):
        project.run_job("shards-pictures", job)
    for stage in ("shards-pictures", "tokenizer-first", "train-first"):
        project.run(stage)
    return project


def _validated(workers, stop, context):
    run = describe(context)
    trainer = make_trainer(run, workers)
    return validate(trainer.model, run.task, run.held_out, trainer.precision, workers)


def test_the_first_validation_is_the_last_of_the_run_that_it_continues(trained, tmp_path):
    assert trained.table["train-second"].inputs["start"] == "train-first"
    context = trained.context("train-second", tmp_path / "work")
    before = run_workers(_validated, context, count=1, device="cpu", folder=tmp_path / "workers")
    last = [row for row in read_metrics(trained.root / "models/first/metrics.jsonl") if "validation_loss" in row][-1]
    assert before == {name: value for name, value in last.items() if name != "step"}
    model = trained.run("train-second")
    rows = read_metrics(model / "metrics.jsonl")
    assert rows[0]["loss"] < read_metrics(trained.root / "models/first/metrics.jsonl")[0]["loss"]
    assert "from" not in json.loads((model / "config.json").read_text())


def test_weights_of_another_shape_are_one_line(trained):
    trained.configure(PARAMS, first=FIRST, second={**SECOND, "model": {**SECOND["model"], "depth": 2, "width": 8}})
    with pytest.raises(ArtifactError) as error:
        trained.run("train-second")
    line = str(error.value)
    assert "\n" not in line and line.startswith("model.from: ") and "models/first/model.safetensors: " in line
    assert "missing decoder.blocks.1." in line and ", not [" in line
