"""An experiment that continues from another begins with its published weights, or with one line about why it cannot."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from glassworks.artifacts.digests import sha256_file
from glassworks.config.data import LossOptions
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.text import TextTokenizer
from glassworks.errors import ArtifactError, ConfigError
from glassworks.models.adapters import WEIGHTS
from glassworks.models.language_model import LanguageModel
from glassworks.runtime.launch import run_workers
from glassworks.stages.train import describe
from glassworks.tasks.language_modelling.task import LanguageModellingTask
from glassworks.training.checkpoint import snapshot
from glassworks.training.loop import make_trainer
from glassworks.training.metrics_log import read_metrics
from glassworks.training.validation import validate

PARAMS = {
    "datasets": {
        "pictures": {
            "source": "folder",
            "path": "pictures",
            "splits": {"validation": 0.3, "test": 0.3},
            "samples_per_shard": 8,
        }
    }
}
FIRST = {
    "task": "language_modelling",
    "data": {"dataset": "pictures", "tokenizer": {"kind": "characters"}},
    "model": {"width": 16, "depth": 1, "heads": 2, "max_tokens": 24},
    "optimization": {"warmup_steps": 1},
    "training": {"steps": 4, "batch_size": 2, "micro_batches": 2, "validate_every": 2},
    "evaluations": {"language": {"prompts": ["a"], "temperatures": [0], "new_tokens": 3, "bootstrap": 100}},
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


ADAPTED = {
    **SECOND,
    "model": {**SECOND["model"], "adapter": {"rank": 2, "alpha": 4.0}},
    "optimization": {"warmup_steps": 1, "learning_rate": 0.03},
    "training": {**FIRST["training"], "steps": 20},
}


def test_an_adapter_is_trained_saved_and_used_without_the_weights_of_its_base(trained, tmp_path):
    trained.configure(PARAMS, first=FIRST, second=ADAPTED)
    assert trained.table["evaluate-second-language"].inputs["start"] == "train-first"
    base = load_file(trained.root / "models/first/model.safetensors")
    folder = trained.run("train-second", workers=2)
    digest = sha256_file(folder / "adapter_model.safetensors")
    assert not (folder / "model.safetensors").exists()
    context = trained.context("train-second", tmp_path / "work")
    state = run_workers(_saved, context, count=1, device="cpu", folder=tmp_path / "workers")
    saved = {name.removeprefix("base_model.model."): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    assert state["model.safetensors"] == sorted(saved), "a checkpoint has the tensors of the adapter only"
    assert {name.rpartition("lora_")[2] for name in saved} == {"A.weight", "B.weight"}
    assert all(tensor.abs().sum() > 0 for tensor in saved.values()), "all of it is trained"

    trained.run("evaluate-second-language")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "validation_loss" in row][-1]
    model, tokenizer = LanguageModel.load(folder).eval(), TextTokenizer(folder)
    task = LanguageModellingTask(model.config, tokenizer)
    held_out = task.arrange(ShardDataset(trained.root / "data/shards/pictures", "validation"))
    batch = task.collate([task.example(row, LossOptions(), 0) for row in held_out])
    loss, weight = task.validate(model, batch)["loss"]
    assert loss / weight == pytest.approx(last["validation_loss"], rel=1e-4)
    plain, weight = task.validate(LanguageModel.load(trained.root / "models/first").eval(), batch)["loss"]
    assert loss / weight < plain / weight - 0.01, "the adapter has learned"
    now = load_file(trained.root / "models/first/model.safetensors")
    assert all(torch.equal(now[name], base[name]) for name in base)

    shutil.rmtree(folder)
    assert sha256_file(trained.run("train-second") / "adapter_model.safetensors") == digest, "by one worker, too"


def test_an_adapter_without_its_base_is_one_line(trained):
    trained.configure(PARAMS, first=FIRST, second=ADAPTED)
    folder = trained.run("train-second")
    manifest = trained.root / "models/first/manifest.json"
    text = manifest.read_text()
    manifest.write_text(text + " ")
    with pytest.raises(ArtifactError, match=r"models/second: an adapter of the base \w{64}, not of \w{64}; load it"):
        LanguageModel.load(folder)
    manifest.unlink()
    with pytest.raises(
        ArtifactError, match=r"models/second: an adapter of first, which is not at .*models/first; train it"
    ):
        LanguageModel.load(folder)


def test_a_target_that_does_not_exist_is_one_line(trained):
    targets = {"rank": 2, "targets": ["*.attention.qvk"]}
    trained.configure(PARAMS, first=FIRST, second={**SECOND, "model": {**SECOND["model"], "adapter": targets}})
    with pytest.raises(ConfigError) as error:
        trained.run("train-second")
    assert str(error.value).startswith(
        "model.adapter.targets: no linear layer is called '*.attention.qvk'; did you mean '"
    )


def _saved(workers, stop, context):
    files = snapshot(make_trainer(describe(context), workers), 0).files
    return {file: sorted(tensors) for file, tensors in files.items()}


def _validated(workers, stop, context):
    run = describe(context)
    trainer = make_trainer(run, workers)
    return validate(trainer.model, run.task, run.held_out, trainer.precision, workers, 0)


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
