"""Every key that steers training changes the bytes of the model, or it is one of those that change none by design.

The keys come from the settings classes, other values from their types. Small models of each task are trained for a few steps before a change and after it.
"""

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from glassworks.artifacts.manifest import read_recipe
from glassworks.config import registry
from glassworks.config.project import experiment_class
from glassworks.config.training import Training
from glassworks.errors import UserError
from glassworks.pipeline.closure import Closure
from glassworks.pipeline.freshness import Keys
from glassworks.runtime.signals import StopRequest
from glassworks.stages.train import describe
from glassworks.training.loop import fit
from glassworks.training.workers import Workers

from ..conftest import SmallProject
from ..tasks import test_alignment, test_fusion, test_puzzles, test_vision_language_stages
from ..tasks.test_fusion import made as fusion_project
from ..tasks.test_instruction import TEMPLATE
from ..tasks.test_vision_language_stages import trained as vision_project
from ..tiny_towers import image_tower, text_tower
from ..training.engine import sha256
from .options import REMOVED, VALUE, Config, Option, matches, options, put, put_all, values, with_sections

pytestmark = pytest.mark.slow
__all__ = ["fusion_project", "vision_project"]

SHORT: Config = {"steps": 4, "batch_size": 8, "micro_batches": 2, "validate_every": 1}
DECODER: Config = {"width": 16, "depth": 2, "heads": 2, "max_tokens": 40, "position": "rotary", "dropout": 0.1}
VISION: Config = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 2, "dropout": 0.1}
TEXTS: Config = {"dataset": "pictures", "tokenizer": {"vocab_size": 280}}
LANGUAGE: Config = {"task": "language_modelling", "data": TEXTS, "model": DECODER, "training": SHORT, "evaluations": {}}
ENGINE = "language_modelling"
"""The task with which the keys of all tasks are changed."""
TRIES = 4
"""Values of a key that may leave the weights as they are, such as a limit above all lengths, before the key counts as dead."""
SECTIONS = ("model", "optimization", "training", "execution")
EXPERIMENTS: dict[str, Config] = {
    "alignment": {**test_alignment.EXPERIMENT, "training": SHORT},
    "captioning": {
        "task": "captioning",
        "data": TEXTS,
        "model": {"encoder": VISION, "decoder": DECODER},
        "training": SHORT,
    },
    "fusion": {**test_fusion.SMALL, "model": {**test_fusion.SMALL["model"], "max_tokens": 30}},
    "instruction": {
        "task": "instruction",
        "data": {"dataset": "pictures", "tokenizer": {"of": "language"}, "template": "chat.jinja"},
        "model": {"from": "language", "adapter": {"rank": 2, "dropout": 0.1}},
        "training": SHORT,
    },
    "language_modelling": LANGUAGE,
    "puzzles": test_puzzles.EXPERIMENT,
    "vision_language": test_vision_language_stages.EXPERIMENT,
}
PARAMS: Config = copy.deepcopy(test_alignment.PARAMS)
PARAMS["encoders"]["map"] = {"encoder": "timm_image", "weights": "cnn", "image_size": 64, "pooling": "none"}
NAMES = {
    "parameters": ["*", "*weight"],
    "metric": ["validation_loss", "validation_accuracy", "validation_cells"],
    "targets": ["*.attention.qkv", "q_proj"],
    "encoder": ["eye", "reader", "ear"],
    "equal": ["text", "image"],
    "from": ["start"],
    "language_model": ["language"],
    "name": ["test_vit", "test_efficientnet"],
    "weights": ["cnn"],
    "ctc": ["audio"],
}
FROM_LANGUAGE = {"model.decoder": REMOVED, "model.language_model": "language", "model.max_tokens": 40}
BACKBONE = {"model.encoder": REMOVED, "model.backbone": {"name": "test_vit", "image_size": 32}}
LONGER = {".original_max_tokens": 64, ".factor": 4.0}
BESIDE: dict[str, dict[str, Any]] = {
    r".*\.optimization\.decay_steps": {".schedule": "wsd"},
    r".*\.optimization\.start": {".schedule": "one_cycle", ".warmup_steps": 2},
    r".*\.optimization\.groups\.parameters": {".learning_rate": 0.1},
    r".*\.optimization\.groups\.(frozen|train_from|train_until)": {".parameters": ["*weight"]},
    r".*\.training\.selection\.(metric|mode)": {".publish": "best"},
    r".*\.training\.selection\.(publish|patience)": {".mode": "max"},
    r".*\.(windowed_blocks|window_rope_theta)": {".window": 4},
    r".*\.rope_scaling\..*": LONGER,
    r".*\.rope_scaling\.(original_max_tokens|low|high)": {".kind": "llama3"},
    r".*\.rope_scaling\.(truncate|attention_factor)": {".kind": "yarn"},
    r"<(captioning|fusion)>\.model\.decoder\.max_tokens": {".position": "learned"},
    r".*\.head_norms": {".norm": "rms"},
    r"<alignment>\.model\.bias": {".loss": "sigmoid"},
    r"<alignment>\.model\.width_weights": {".widths": [8, 4]},
    r"<alignment>\.model\.perceiver.*": {"model.towers.x": {"encoder": "map", "head": "perceiver"}},
    r"<alignment>\.model\.pairs": {"model.towers.x": {"encoder": "eye"}},
    r"<captioning>\.model\.(backbone.*|lock_step)": BACKBONE,
    r"<captioning>\.model\.backbone\.weights": {".name": "test_efficientnet"},
    r"<captioning>\.model\.lock_step": {"model.backbone.layers": [-2, -1]},
    r"<fusion>\.model\.towers\.stack": {".encoder": "ear"},
    r"<fusion>\.model\.fusion\.queries": {".kind": "cross_attention"},
    r"<fusion>\.model\.(adapter.*|base_dtype)": {"model": test_fusion.ADAPTED["model"]},
    r"<language_modelling>\.model\.(adapter.*|base_dtype)": {
        "model": {"from": "start", "adapter": {}},
        "data.tokenizer": {"of": "start"},
    },
    r"<vision_language>\.model\.connector\.kind": {
        "data.train": [{"dataset": "pictures"}],
        "data.held_out": REMOVED,
        ".video_window": REMOVED,
    },
    r".*\.model\.base_dtype": {"training.precision": "bf16"},
}
"""Other keys that make a key effective. They are there before the change, too."""
TOGETHER: dict[str, dict[str, Any]] = {
    r".*\.training\.passes": {".steps": REMOVED},
    r"<(captioning|language_modelling|vision_language)>\.model\.from": {
        "data.tokenizer": REMOVED,
        "data.tokenizer.of": VALUE,
    },
    r"<(captioning|vision_language)>\.model\.language_model": {
        **FROM_LANGUAGE,
        "data.tokenizer": REMOVED,
        "data.tokenizer.of": VALUE,
    },
}
"""Other keys that change with a key."""
GIVEN: dict[str, list[Any]] = {
    r".*\.optimization\.options": [{"amsgrad": True}],
    r".*\.optimization\.groups\.train_until": [2],
    r"<vision_language>\.model\.decoder": [{"width": 16, "depth": 1, "heads": 2, "max_tokens": 160}],
    r"<captioning>\.model\.backbone\.arguments": [{"mlp_ratio": 2.0}],
    r"<alignment>\.model\.widths": [[8, 4]],
    r"<alignment>\.model\.pairs": [[["image", "text"], ["x", "text"]]],
}
EQUAL: dict[str, str] = {
    r".*\.execution\..*": "how a training is carried out",
    r".*\.training\.(digest_every|validate_every)": "an observation, as long as the last weights are published",
    r"<alignment>\.model\.perceiver": "null is the default perceiver",
    r".*\.features": "stored or computed in the loop, the features are the same",
}
"""Keys that change no byte, and why."""
ELSEWHERE = {
    r".*\.execution\.nodes": "several machines: tests/cluster/test_nodes.py",
    r".*\.training\.compile": "a compiler: tests/training/test_compile.py",
    r".*\.model\.weights": "published weights: tests/training/test_start.py",
    r".*\.training\.reduction": "several workers: tests/training/test_fast_reduction.py",
}
"""Keys that need more than this test has, and the test that changes them."""
REFUSED = {
    r"<(fusion|vision_language)>\.training\.neftune": "noise of language models",
    r"<(captioning|vision_language)>\.model\.decoder\.recursion(\..*)?": "only language models recur",
    r"<instruction>\.model\.(width|depth|heads|kv_heads|position|norm|norm_eps|feed_forward|feed_forward_width|biases|tied)": (
        "the shape is that of the base"
    ),
    r"<vision_language>\.model\.grid": "the patches of the tower are counted when its features are read",
}
"""Keys that have one valid value in these experiments."""


class Trainings:
    """Trains experiments of a project, each with the artefacts that it reads."""

    def __init__(self, project: SmallProject, params: Config, others: Config) -> None:
        self.project, self.params, self.others = project, params, others
        self.closure, self.count = Closure(project.root / "src"), 0
        self._known: dict[str, str] = {}

    def digest(self, experiment: Config) -> str:
        """sha256 of the trained weights. Raises `UserError` for an invalid experiment."""
        text = json.dumps(experiment, sort_keys=True)
        if text not in self._known:
            self._known[text] = self._train(experiment)
        return self._known[text]

    def _train(self, experiment: Config) -> str:
        named = {name: other for name, other in self.others.items() if f'"{name}"' in json.dumps(experiment)}
        table = self.project.configure(self.params, **named, e=experiment)
        keys = Keys(table)
        keys.closure = self.closure  # so that source files are digested once
        wanted, waiting = set(), ["train-e"]
        while waiting:
            inputs = table[waiting.pop()].inputs.values()
            wanted.update(inputs)
            waiting += inputs
        for stage in table:
            if stage.name not in wanted:
                continue
            recipe = read_recipe(self.project.root / stage.directory)
            if recipe is None or recipe["key"] != keys.ingredients(stage).key:
                for job in range(stage.jobs):
                    self.project.run_job(stage.name, job)
                self.project.run(stage.name)
        self.count += 1
        work = self.project.root / f"trainings/{experiment['task']}-{self.count}"
        return sha256(fit(describe(self.project.context("train-e", work)), Workers(), StopRequest()))


@pytest.fixture(scope="module")
def picture_project(tmp_path_factory: pytest.TempPathFactory) -> SmallProject:
    """Pictures of three colours with texts, and small encoders of both."""
    project = SmallProject(tmp_path_factory.mktemp("pictures"))
    (project.root / "pictures").mkdir()
    rows = ["file,caption,split"]
    for number in range(30):
        name, colour = list(test_fusion.COLOURS.items())[number % 3]
        image = Image.new("RGB", (32, 32), colour)
        image.putpixel((number, 0), (255, 255, 255))
        image.save(project.root / f"pictures/{number:02d}.png")
        rows.append(f"{number:02d}.png,a {name} square {number * number},{'validation' if number > 25 else 'train'}")
    (project.root / "pictures/captions.csv").write_text("\n".join(rows))
    (project.root / "chat.jinja").write_text(TEMPLATE)
    image_tower(project.root / "cnn")
    text_tower(project.root / "bert")
    return project


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[[str], Trainings]:
    """The trainings of a task."""

    def of(task: str) -> Trainings:
        others = {"start": EXPERIMENTS[task], "language": LANGUAGE, "base": test_fusion.BASE}
        if task == "fusion":
            return Trainings(request.getfixturevalue("fusion_project"), test_fusion.PARAMS, others)
        if task == "vision_language":
            texts = {**LANGUAGE, "data": {**TEXTS, "dataset": "texts"}}
            project = request.getfixturevalue("vision_project")
            return Trainings(project, test_vision_language_stages.PARAMS, {**others, "language": texts})
        if task == "puzzles":
            return Trainings(SmallProject(tmp_path_factory.mktemp("boards")), test_puzzles.PARAMS, others)
        return Trainings(request.getfixturevalue("picture_project"), PARAMS, others)

    return of


def steering_options(task: str) -> list[Option]:
    """The keys of the sections that training reads. Those of all tasks, which the engine reads, are left to `ENGINE`."""
    found = options(experiment_class(task), (), f"<{task}>")
    shared = Training.model_fields.keys() | {"optimization", "execution"}
    return [
        option
        for option in found
        if option.path[0] in SECTIONS and (task == ENGINE or not shared & {option.path[0], *option.path[1:2]})
    ]


def fault_of(trainings: Trainings, option: Option) -> str | None:
    """What is wrong with a key; None for one that does as it should."""
    base = with_sections(EXPERIMENTS[option.label[1 : option.label.index(">")]], option, NAMES)
    put_all(base, BESIDE, option, ())
    refused, equal = matches(REFUSED, option), []
    try:
        before = trainings.digest(base)
    except UserError as error:
        return None if refused else f"the experiment before the change is refused: {error}"
    refusals = []
    for value in values(option, base, NAMES, GIVEN):
        experiment = copy.deepcopy(base)
        put_all(experiment, TOGETHER, option, (), value)
        put(experiment, option.path, value)
        try:
            after = trainings.digest(experiment)
        except UserError as error:
            refusals.append(f"{value!r}: {error}")
            continue
        if refused:
            return f"{value!r} is not refused"
        if matches(EQUAL, option):
            return None if after == before else f"{value!r} changes the weights"
        if after != before:
            return None
        equal.append(value)
        if len(equal) == TRIES:
            break
    if refused and refusals:
        return None
    return f"the weights are the same with {equal}" if equal else f"no other value is valid: {refusals[:3]}"


@pytest.mark.parametrize("task", ["puzzles"])  # the bases of the other tasks do not make every key effective yet
def test_every_key_that_steers_training_changes_the_weights_or_none_by_design(trainings, task):
    mine = trainings(task)
    tried = [option for option in steering_options(task) if not matches(ELSEWHERE, option)]
    found = {option.label: fault_of(mine, option) for option in tried}
    assert not (faults := [f"{label}: {fault}" for label, fault in found.items() if fault]), "\n".join(faults)


def test_the_tables_name_keys_that_exist():
    labels = [option.label for task in EXPERIMENTS for option in steering_options(task)]
    patterns = [*BESIDE, *TOGETHER, *GIVEN, *EQUAL, *ELSEWHERE, *REFUSED]
    assert [pattern for pattern in patterns if not any(re.fullmatch(pattern, label) for label in labels)] == []
    assert set(EXPERIMENTS) == set(registry.names("tasks"))
