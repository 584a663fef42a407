"""An experiment that continues from another begins with its published weights, or with one line about why it cannot."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from glassworks.artifacts.digests import sha256_file
from glassworks.config.data import LossOptions
from glassworks.config.project import parse_experiment
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.text import TextTokenizer
from glassworks.errors import ArtifactError, ConfigError
from glassworks.inference.export import run as export
from glassworks.models import saving
from glassworks.models.adapters import WEIGHTS
from glassworks.models.language_model import LanguageModel
from glassworks.models.pretrained.language_models import load_language_model
from glassworks.models.saving import WEIGHTS as WHOLE
from glassworks.runtime.launch import run_workers
from glassworks.runtime.signals import StopRequest
from glassworks.stages.train import describe
from glassworks.tasks.language_modelling.task import LanguageModellingTask
from glassworks.training.checkpoint import snapshot
from glassworks.training.loop import fit, make_trainer
from glassworks.training.metrics_log import read_metrics
from glassworks.training.validation import validate
from glassworks.training.workers import Workers

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
    "model": {"from": "first"},
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
    for stage in ("shards-pictures", "tokenizer-first", "pack-first", "train-first", "pack-second"):
        project.run(stage)
    return project


def test_a_language_model_with_a_z_loss_has_one_set_of_bytes_for_any_number_of_workers(trained):
    training = {"steps": 3, "batch_size": 8, "micro_batches": 4, "validate_every": 3, "z_loss": 1e-2}
    trained.configure(PARAMS, first={**FIRST, "training": training})
    digests = set()
    for workers in (1, 2, 4):
        shutil.rmtree(trained.root / "models/first", ignore_errors=True)
        folder = trained.run("train-first", workers=workers)
        digests.add((sha256_file(folder / WHOLE), (folder / "metrics.jsonl").read_text()))
    assert len(digests) == 1
    first, *_, last = read_metrics(folder / "metrics.jsonl")
    assert first["loss"] == pytest.approx(first["loss.cross_entropy"] + first["loss.z_loss"])
    assert first["loss.z_loss"] > 0 and last["validation_z_loss"] > 0


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_sharded_language_model_has_the_losses_of_the_whole_one(trained):
    """The loss reads the weight of the head, which FSDP2 gathers in the forward pass of the model alone."""
    exact = [
        row.get("loss", row.get("validation_loss")) for row in read_metrics(trained.root / "models/first/metrics.jsonl")
    ]
    trained.configure(PARAMS, first={**FIRST, "training": {**FIRST["training"], "reduction": "fsdp2"}})
    rows = read_metrics(trained.run("train-first", workers=2) / "metrics.jsonl")
    assert [row.get("loss", row.get("validation_loss")) for row in rows] == pytest.approx(exact, rel=1e-4)


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
    model, tokenizer = load_language_model(folder).eval(), TextTokenizer(folder)
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


def test_a_frozen_base_is_read_once(trained, tmp_path, monkeypatch):
    """For the training, its checkpoints and the published adapter together."""
    trained.configure(PARAMS, first=FIRST, second={**ADAPTED, "training": FIRST["training"]})
    read, original = [], saving.read_tensors
    monkeypatch.setattr(saving, "read_tensors", lambda file: read.append(file) or original(file))
    run = describe(trained.context("train-second", tmp_path / "work"))
    run.task.save(fit(run, Workers(), StopRequest()).model, tmp_path / "published")
    assert (tmp_path / "published" / WEIGHTS).is_file()
    assert read == [trained.root / "models/first" / WHOLE]


def test_an_adapter_without_its_base_is_one_line(trained):
    trained.configure(PARAMS, first=FIRST, second=ADAPTED)
    folder = trained.run("train-second")
    manifest = trained.root / "models/first/manifest.json"
    text = manifest.read_text()
    manifest.write_text(text + " ")
    with pytest.raises(ArtifactError, match=r"models/second: an adapter of the base \w{64}, not of \w{64}; load it"):
        load_language_model(folder)
    manifest.unlink()
    with pytest.raises(
        ArtifactError,
        match=r"models/second: an adapter of first, which is neither at .*models/first nor at .*; train it",
    ):
        load_language_model(folder)


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


def test_another_shape_than_that_of_the_base_is_one_line(trained):
    with pytest.raises(ConfigError) as error:
        trained.configure(PARAMS, first=FIRST, second={**SECOND, "model": {"from": "first", "depth": 2}})
    expected = "model.depth: 2, but 'first', from which it continues, has 1; remove this key"
    assert str(error.value) == f"experiments/second.yaml: {expected}"


def test_the_shape_is_inherited_and_dvc_watches_its_file(trained):
    second = {**SECOND, "model": {"from": "first", "dropout": 0.1}}
    trained.configure(PARAMS, first=FIRST, second=second)
    stage = trained.table["train-second"]
    assert stage.params["model"]["width"] == 16 and stage.params["model"]["dropout"] == 0.1
    assert stage.settings["experiments/first.yaml"] == ("model",)
    model = LanguageModel.load(trained.run("train-second"))
    assert model.config.dropout == 0.1 and model.config.heads == 2
    note = json.loads((trained.root / "provenance/train-second.json").read_text())["start"]
    assert note["matched"] == len(model.state_dict()) and note["new"] == note["left_over"] == {}


PUBLISHED = {**PARAMS, "weights": {"published": {"source": "local", "path": "published"}}}
ON_WEIGHTS = {
    **ADAPTED,
    "data": {"dataset": "pictures", "tokenizer": {"of": "published"}},
    "model": {"weights": "published", "max_tokens": 24, "adapter": {"rank": 2, "alpha": 4.0}, "base_dtype": "bf16"},
    "training": {**FIRST["training"], "steps": 20, "precision": "bf16"},
}


@pytest.fixture
def published(trained):
    """The trained model in transformers' layout as published weights."""
    export(trained.root / "models/first", trained.root / "published", trained.root)
    trained.configure(PUBLISHED, first=FIRST)
    trained.run("weights-published")
    return trained


def test_a_language_model_begins_with_published_weights(published, tmp_path):
    whole = {key: value for key, value in ON_WEIGHTS["model"].items() if key in ("weights", "max_tokens")}
    second = {**ON_WEIGHTS, "model": whole, "training": FIRST["training"]}
    published.configure(PUBLISHED, second=second, third={**SECOND, "data": second["data"], "model": {"from": "second"}})
    published.run("pack-second")
    context = published.context("train-second", tmp_path / "work")
    before = run_workers(_validated, context, count=1, device="cpu", folder=tmp_path / "workers")
    last = [row for row in read_metrics(published.root / "models/first/metrics.jsonl") if "validation_loss" in row][-1]
    assert before == {name: value for name, value in last.items() if name != "step"}
    first, second = (
        load_file(published.root / f"models/first/{WHOLE}"),
        load_file(published.run("train-second") / WHOLE),
    )
    assert first.keys() == second.keys() and any(not torch.equal(first[name], second[name]) for name in first)
    published.run("pack-third")
    third = LanguageModel.load(published.run("train-third"))
    assert third.config == LanguageModel.load(published.root / "models/first").config


def test_an_adapter_of_published_weights_is_continued_by_another_experiment(published, tmp_path):
    third = {**ON_WEIGHTS, "model": {"from": "second", "base_dtype": "bf16"}}
    published.configure(PUBLISHED, second=ON_WEIGHTS, third=third)
    assert published.table["evaluate-third-language"].inputs["weights"] == "weights-published"
    published.run("pack-second")
    second = published.run("train-second", workers=2)
    assert json.loads((second / "adapter_base.json").read_text())["dtype"] == "bf16"
    note = json.loads((published.root / "provenance/train-second.json").read_text())["start"]
    base = load_file(published.root / f"models/first/{WHOLE}")
    assert note["matched"] == len(base) and "decoder.blocks.*.attention.qkv.lora_A.weight" in note["new"]

    published.run("pack-third")
    context = published.context("train-third", tmp_path / "work")
    dtypes = run_workers(_dtypes, context, count=1, device="cpu", folder=tmp_path / "workers")
    assert dtypes == {True: ["torch.float32"], False: ["torch.bfloat16"]}
    before = run_workers(_validated, context, count=1, device="cpu", folder=tmp_path / "workers")
    last = [row for row in read_metrics(second / "metrics.jsonl") if "validation_loss" in row][-1]
    assert before == {name: value for name, value in last.items() if name != "step"}
    published.run("pack-third")
    folder = published.run("train-third")
    assert json.loads((folder / "adapter_base.json").read_text())["name"] == "published"
    published.run("evaluate-third-language")

    digest = sha256_file(second / "adapter_model.safetensors")
    shutil.rmtree(second)
    published.run("pack-second")
    assert sha256_file(published.run("train-second") / "adapter_model.safetensors") == digest, "by one worker, too"
    merged = load_language_model(folder).state_dict()
    rounded = {name: tensor.bfloat16().float() for name, tensor in base.items()}
    kept = "decoder.tokens.weight"
    assert torch.equal(merged[kept], rounded[kept]), "merged onto the weights that training has held"


def test_an_adapter_of_4_bit_weights_is_continued_and_evaluated_on_them(published, tmp_path):
    model = {**ON_WEIGHTS["model"], "base_dtype": "nf4", "adapter": {"kind": "pissa", "rank": 2}}
    second = {**ON_WEIGHTS, "model": model, "training": {**ON_WEIGHTS["training"], "steps": 4, "neftune": 5.0}}
    third = {**second, "model": {"from": "second", "base_dtype": "nf4"}}
    published.configure(PUBLISHED, second=second, third=third)
    published.run("pack-second")
    folder = published.run("train-second")
    record = json.loads((folder / "adapter_base.json").read_text())
    assert (record["dtype"], record["quantisation"], record["kind"]) == ("bf16", "nf4", "pissa")
    whole = LanguageModel.load(published.root / "models/first")
    trained = sum(tensor.numel() for tensor in load_file(folder / WEIGHTS).values()) // 2
    count = sum(one.numel() for one in whole.parameters()) + trained
    assert json.loads((folder / "manifest.json").read_text())["counts"]["parameters"] == count

    published.run("pack-third")
    context = published.context("train-third", tmp_path / "work")
    before = run_workers(_validated, context, count=1, device="cpu", folder=tmp_path / "workers")
    last = [row for row in read_metrics(folder / "metrics.jsonl") if "validation_loss" in row][-1]
    assert before == {name: value for name, value in last.items() if name != "step"}
    published.run("evaluate-second-language")


@pytest.mark.parametrize(
    ("precision", "base_dtype", "message"),
    [
        ("fp16", "nf4", "model.base_dtype: nf4 needs training.precision: fp32 or bf16, and exact or ddp as reduction"),
        ("fp32", "bf16", "model.base_dtype: bf16 needs training.precision: bf16, and exact or ddp as reduction"),
        ("bf16", "nf5", "model.base_dtype: unknown value 'nf5'; did you mean 'nf4'?"),
    ],
)
def test_a_precision_that_a_base_cannot_have_is_one_line(precision, base_dtype, message):
    training = {**ON_WEIGHTS["training"], "precision": precision}
    with pytest.raises(ConfigError) as error:
        parse_experiment(
            {**ON_WEIGHTS, "model": {**ON_WEIGHTS["model"], "base_dtype": base_dtype}, "training": training}, "x"
        )
    assert str(error.value).endswith(f": {message}") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 32}, "model.width: 32, but 'published', from which it continues, has 16; remove this key"),
        (
            {"max_tokens": 12},
            "positions.weight is \\[24, 16\\], not \\[12, 16\\]|wpe.weight is \\[24, 16\\], not \\[12, 16\\]",
        ),
    ],
)
def test_another_shape_than_that_of_published_weights_is_one_line(published, changes, message):
    published.configure(PUBLISHED, second={**ON_WEIGHTS, "model": {**ON_WEIGHTS["model"], **changes}})
    with pytest.raises((ConfigError, ArtifactError), match=message) as error:
        published.run("pack-second")
        published.run("train-second")
    assert "\n" not in str(error.value)


def _dtypes(workers, stop, context):
    parameters = list(make_trainer(describe(context), workers).model.parameters())
    return {
        trained: sorted({str(one.dtype) for one in parameters if one.requires_grad == trained})
        for trained in (True, False)
    }
