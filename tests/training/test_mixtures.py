"""An experiment on a mixture: every stage reads all of its data sets, and each held-out set has metrics of its own."""

import json

import pytest

from glassworks.config.project import parse_experiment
from glassworks.errors import DataError
from glassworks.stages import train as stage
from glassworks.training.metrics_log import read_metrics

from ..data.small_shards import make_shards

CAPTIONS = {
    "animals": ["a black cat", "a white dog", "a grey mouse", "a red fox"],
    "vehicles": ["zzz car", "zzz lorry", "zzz train", "zzz tram"],
}
DATA = {
    "train": [
        {"dataset": "animals", "rate": 0.7},
        {"dataset": "vehicles", "rate": 0.3, "options": {"loss_weight": 0.5}},
    ],
    "tokenizer": {"vocab_size": 270},
}
SHAPE = {"width": 16, "depth": 1, "heads": 2}
TRAINING = {"steps": 3, "batch_size": 8, "micro_batches": 2, "selection": {"metric": "validation_loss.vehicles"}}
EXPERIMENTS = {
    "captioner": {
        "task": "captioning",
        "data": DATA,
        "model": {
            "encoder": {"image_size": 16, "patch_size": 8, **SHAPE},
            "decoder": {"max_tokens": 16, **SHAPE},
        },
        "training": TRAINING,
        "evaluations": {"captions": {"bootstrap": 100, "meteor": False, "beams": 2}},
    },
    "lm": {
        "task": "language_modelling",
        "data": DATA,
        "model": {"max_tokens": 12, **SHAPE},
        "training": TRAINING,
        "evaluations": {"language": {"bootstrap": 100, "new_tokens": 4, "temperatures": [0]}},
    },
}


@pytest.fixture
def mixed(project, write_image):
    """A project with two data sets of the same keys, and the inputs of training."""
    for name, captions in CAPTIONS.items():
        rows = ["file,caption,split"]
        for index in range(16):
            split = ("validation", "test")[index % 2] if index < 6 else "train"
            write_image(project.root / name / f"{index}.png", size=(16, 16), seed=index)
            rows.append(f"{index}.png,{captions[index % 4]},{split}")
        (project.root / name / "captions.csv").write_text("\n".join(rows))
    datasets = {name: {"source": "folder", "path": name} for name in CAPTIONS}
    table = project.configure({"datasets": datasets}, **EXPERIMENTS)
    for made in [made for made in table if made.kind in ("fetch", "records", "shards", "tokenizer", "pack")]:
        for job in range(made.jobs):
            project.run_job(made.name, job)
        project.run(made.name)
    return project


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_every_stage_reads_all_data_sets_of_a_mixture(mixed, name):
    vocabulary = json.loads((mixed.root / f"data/tokenizers/{name}/tokenizer.json").read_text())["model"]["vocab"]
    assert {"zzz", "gre"} <= vocabulary.keys()
    last = read_metrics(mixed.run(f"train-{name}") / "metrics.jsonl")[-1]
    losses = [last[f"validation_loss{part}"] for part in ("", ".animals", ".vehicles")]
    assert min(losses[1:]) < losses[0] < max(losses[1:])
    (evaluation,) = EXPERIMENTS[name]["evaluations"]
    metrics = json.loads((mixed.run(f"evaluate-{name}-{evaluation}") / "metrics.json").read_text())
    assert metrics["samples"] == 3


@pytest.mark.parametrize(
    ("samples", "held_out", "line"),
    [
        ({"validation": 2}, None, "data.train.1.dataset: the train split of 'vehicles' has no samples"),
        ({"train": 2}, {"vehicles": "test"}, "data.held_out.vehicles: the test split of 'vehicles' has no samples"),
    ],
)
def test_a_data_set_without_samples_is_named_before_anything_is_tokenized(tmp_path, samples, held_out, line):
    settings = {**EXPERIMENTS["captioner"], "data": {**DATA, "held_out": held_out}, "training": {"steps": 4}}
    folders = {
        "animals": make_shards(tmp_path / "animals", train=3),
        "vehicles": make_shards(tmp_path / "vehicles", **samples),
    }
    with pytest.raises(DataError, match=line):
        stage._read(parse_experiment(settings, "experiment").data, None, folders, tmp_path)
