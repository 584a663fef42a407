"""Every key of params.yaml and experiments/*.yaml changes the key of its stage, or it is one of those that change none by design.

The keys come from the settings classes, so a new one is tested as it is. Other values come from the type of a key. The tables below hold what types do
not state: keys that go together, and values of free form.
"""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glassworks.config import registry
from glassworks.config.evaluation import Evaluation
from glassworks.config.params import Params
from glassworks.config.project import experiment_class, load_project
from glassworks.errors import ConfigError
from glassworks.pipeline.closure import Closure
from glassworks.pipeline.freshness import Keys
from glassworks.pipeline.table import Table

from .options import REMOVED, VALUE, Config, Option, get, matches, options, put, put_all, values, with_sections

SOURCE = Path(__file__).resolve().parents[2] / "src"
EXPERIMENT = ("experiments", "e")
TEMPLATES = ["chat.jinja", "other.jinja"]
NAMES = {
    "dataset": ["pictures", "third", "more"],
    "held_out": ["pictures", "more"],
    "forgetting": ["pictures", "more"],
    "sprites": ["drawings", "more_drawings"],
    "drawings": ["drawings", "more_drawings"],
    "emoji": ["drawings", "more_drawings"],
    "weights": ["published", "others"],
    "encoder": ["pooled", "other", "tokens", "other_tokens"],
    "language_model": ["language", "sibling"],
    "from": ["sibling", "language"],
    "of": ["language", "published", "others"],
    "experiments": ["sibling"],
    "template": TEMPLATES,
    "metric": ["validation_accuracy", "validation_cells"],
    "pairs": ["image", "text"],
    "equal": ["text", "image"],
    "towers": ["image", "text"],
    "ctc": ["x"],
}
"""Values of texts that name something, by key."""
FOLDERS = ("pictures", "more", "third", "fourth")
PARAMS: Config = {
    "datasets": {name: {"source": "folder", "path": name} for name in FOLDERS},
    "weights": {name: {"source": "local", "path": name} for name in ("published", "others")},
}
ENCODERS: Config = {
    "pooled": {"encoder": "timm_image", "weights": "published"},
    "other": {"encoder": "timm_image", "weights": "others"},
    "tokens": {"encoder": "timm_image", "weights": "published", "pooling": "none"},
    "other_tokens": {"encoder": "timm_image", "weights": "others", "pooling": "none"},
    "tiled": {"encoder": "timm_image", "weights": "published", "pooling": "none", "tiles": {"most": 4, "margin": 1}},
}
COMMON: Config = {"data": {"dataset": "pictures"}, "training": {"steps": 64}}
LANGUAGE: Config = {**COMMON, "task": "language_modelling", "evaluations": {}}
BASES: dict[str, Config] = {
    "alignment": {"model": {"towers": {name: {"encoder": "pooled"} for name in ("x", "image", "text")}}},
    "captioning": {},
    "fusion": {"model": {"decoder": {}, "towers": {"x": {"encoder": "pooled"}}}},
    "instruction": {
        "data": {"dataset": "pictures", "tokenizer": {"of": "published"}},
        "model": {"weights": "published", "max_tokens": 64},
    },
    "language_modelling": {},
    "puzzles": {},
    "vision_language": {"model": {"decoder": {}, "tower": {"encoder": "tokens"}}},
}
"""A valid experiment of each task, beside `COMMON`."""

FROM_WEIGHTS = {"model.weights": "published", "model.max_tokens": 32, "data.tokenizer.of": "published"}
FROM_LANGUAGE = {
    "model.decoder": REMOVED,
    "model.language_model": "language",
    "model.max_tokens": 32,
    "data.tokenizer.of": "language",
}
FROZEN = {"model.adapter": {}, "training.precision": "bf16"}
LISTED = {"data.dataset": REMOVED, "data.train.1": {"dataset": "more"}}
BESIDE: dict[str, dict[str, Any]] = {
    r"encoders\.<\w+>\.clips": {".pooling": "none", "model.towers.x.head": "perceiver"},
    r"encoders\.<\w+>\.clips\..*": {"..pooling": "none", "model.towers.x.head": "perceiver"},
    r"encoders\.<\w+>\.tiles": {".pooling": "none", "model.connector.tile_window": REMOVED},
    r"encoders\.<\w+>\.tiles\..*": {"..pooling": "none", ".side": 224},
    r"<\w+>\.data\.train\.<dataset>\..*": LISTED,
    r"<\w+>\.data\.train\.<group>\..*": {**LISTED, "data.train.0.group.1": {"dataset": "fourth"}},
    r"<vision_language>\.data\.options\.images": {
        "data": {"train": [{"dataset": "more"}], "held_out": {"pictures": "validation"}}
    },
    r"<alignment>\.model\.perceiver.*": {"model.towers.x": {"encoder": "tokens", "head": "perceiver"}},
    r"<alignment>\.model\.pairs": {"model.towers.x": REMOVED},
    r"<alignment>\.model\.width_weights": {".widths": [128, 64]},
    r"<captioning>\.model\.lock_step": {".backbone": {"name": "resnet18"}},
    r".*\.rope_scaling\.kind": {".original_max_tokens": 16},
    r".*\.head_norms": {".norm": "rms"},
    r"<language_modelling>\.model\.(adapter.*|base_dtype)": FROM_WEIGHTS,
    r"<fusion>\.model\.(adapter.*|base_dtype)": FROM_LANGUAGE,
    r"<\w+>\.model\.base_dtype": FROZEN,
    r"<instruction>\.data\.new_tokens": {"model.adapter": {}},
}
"""Other keys that a key needs. They are there before the change, too."""
TOGETHER: dict[str, dict[str, Any]] = {
    r"encoders\.<(?!sentence)\w+>\.pooling": {"model.towers.x.head": "perceiver"},
    r"encoders\.<\w+>\.tiles": {"model.connector.tile_window": 2},
    r"<vision_language>\.model\.connector\.tile_window": {"model.tower.encoder": "tiled"},
    r"<\w+>\.data\.train\.<\w+>\.rate": {"data.train.1.rate": 3.0},
    r"<\w+>\.data\.train\.<group>\.group\.rate": {"data.train.0.group.1.rate": 3.0},
    r"<\w+>\.training\.passes": {".steps": REMOVED},
    r"<(captioning|language_modelling|vision_language)>\.model\.from": {"data.tokenizer.of": VALUE},
    r"<instruction>\.model\.from": {"data.tokenizer.of": VALUE, ".weights": REMOVED},
    r"<captioning>\.model\.language_model": {"data.tokenizer.of": VALUE},
    r"<(fusion|vision_language)>\.model\.language_model": {**FROM_LANGUAGE, "data.tokenizer.of": VALUE},
    r"<fusion>\.model\.decoder": FROM_LANGUAGE,
    r"<language_modelling>\.model\.weights": {**FROM_WEIGHTS, "data.tokenizer.of": VALUE},
    r"<instruction>\.model\.weights": {"data.tokenizer.of": VALUE},
    r"<instruction>\.data\.tokenizer\.of": {"model.weights": VALUE},
}
"""Other keys that change with a key."""
GIVEN: dict[str, list[Any]] = {
    r"encoders\.<\w+>\.tiles": [{"most": 4, "margin": 1, "side": 224}],
    r"encoders\.<\w+>\.tiles\.side": [448],
    r"<\w+>\.optimization\.options": [{"amsgrad": True}],
    r"<\w+>\.data\.tokenizer\.datasets": [["third"]],
    r"<\w+>\.variants\.set": [{"training.steps": 32}],
    r"<alignment>\.model\.widths": [[128, 64]],
    r"<captioning>\.model\.backbone\.arguments": [{"global_pool": "avg"}],
}
"""Values of keys whose types say too little."""
NO_KEY = {
    r"datasets\.<\w+>\.(record|shard)_jobs": "number of jobs",
    r"datasets\.<\w+>\.downloads\..*": "how images are downloaded, not which",
    r"encoders\.<\w+>\.jobs": "number of jobs",
    r"watchdog_minutes": "ends a stage that makes no progress",
    r"<\w+>\.execution\..*": "how a training is carried out",
}
"""Keys that change the key of no stage, and why."""
SAYS_SO = re.compile(r"not affect|changes no byte|makes? (a stage|nothing|only the report) stale")
"""What the description of such a key, or of its section, says."""
REFUSED = {
    r"<(captioning|vision_language)>\.model\.decoder\.recursion(\..*)?": "only language models recur",
    r"<instruction>\.data\.tokenizer\.(kind|vocab_size|added_tokens|datasets)": "the tokenizer is that of the base",
    r"<fusion>\.training\.compile": "its rows have no fixed length",
    r"<(fusion|vision_language)>\.training\.neftune": "noise of language models",
}
"""Keys of shared sections that a task refuses with any other value."""


class Folder:
    """A project folder. `keys` computes the keys of a configuration as if every stage had run."""

    def __init__(self, root: Path) -> None:
        self.root, self.closure = root, Closure(SOURCE)
        self._known: dict[str, dict[str, str]] = {}
        (root / "src").symlink_to(SOURCE)
        (root / "experiments").mkdir()
        for name in TEMPLATES:
            (root / name).touch()

    def keys(self, config: Config) -> dict[str, str]:
        """The key of every stage. Raises `ConfigError` for an invalid configuration."""
        text = json.dumps(config)
        if text not in self._known:
            self._known[text] = self._keys(config)
        return self._known[text]

    def _keys(self, config: Config) -> dict[str, str]:
        (self.root / "params.yaml").write_text(json.dumps(config["params"]))
        for name, experiment in config["experiments"].items():
            (self.root / "experiments" / f"{name}.yaml").write_text(json.dumps(experiment))
        table = Table(load_project(self.root))
        keys = Keys(table)
        keys.closure = self.closure  # so that source files are digested once
        for stage in table:
            for file in stage.small_files(with_recipe=True):
                if not (path := self.root / file).exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text("{}")
        return {stage.name: keys.ingredients(stage).key for stage in table}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("options"))


def every_option() -> list[Option]:
    """The keys of both kinds of files. Evaluations that cannot score the models of a task are left out."""
    found = list(options(Params, ("params",)))
    for task in registry.names("tasks"):
        experiment = experiment_class(task)
        kinds = {name: registry.settings_class("evaluation", name, Evaluation) for name in registry.names("evaluation")}
        unfit = [name for name, kind in kinds.items() if name != experiment.scored_by and task not in kind.scores]
        for option in options(experiment, EXPERIMENT, f"<{task}>"):
            if not any(f".evaluations.<{name}>" in option.label for name in unfit):
                found.append(option)
    return found


OPTIONS = every_option()


def task_of(option: Option) -> str:
    return option.label[1 : option.label.index(">")] if option.path[0] == "experiments" else ""


def section_of(option: Option) -> str:
    """The key at the top level of the file."""
    return str(option.path[2 if option.path[0] == "experiments" else 1])


def group_of(option: Option) -> str:
    return task_of(option) or section_of(option)


def base_of(option: Option) -> Config:
    """A valid configuration with the sections around a key."""
    section, task = section_of(option), task_of(option)
    if section == "datasets":
        drawings = {name: {"source": "openmoji"} for name in NAMES["drawings"]}
        config: Config = {"params": {"datasets": drawings, "experiments": []}, "experiments": {}}
        return with_sections(config, option, NAMES)
    tiled = section == "encoders" and ".tiles" in option.label
    task = task or ("vision_language" if tiled else "alignment" if section == "encoders" else "captioning")
    experiment = {**COMMON, "task": task, **BASES[task]}
    config = {"params": {**PARAMS, "experiments": ["e"]}, "experiments": {"e": experiment}}
    if '"encoder"' in json.dumps(experiment):
        config["params"]["encoders"] = ENCODERS
    config = with_sections(config, option, NAMES)
    if tiled:
        model = config["experiments"]["e"]["model"]
        model["tower"]["encoder"], model["connector"] = "x", {"tile_window": 2}
    elif section == "encoders":
        config["experiments"]["e"]["model"]["towers"]["x"]["encoder"] = "x"
    put_all(config, BESIDE, option, EXPERIMENT)
    return config


def with_named(config: Config) -> Config:
    """The configuration with the other experiments that it names."""
    text = json.dumps([config["experiments"].get("e"), config["params"]["experiments"]])
    for name in ("language", "sibling"):
        if f'"{name}"' in text:
            task = config["experiments"]["e"]["task"]
            config["experiments"][name] = LANGUAGE if name == "language" else {**COMMON, "task": task, **BASES[task]}
            config["params"]["experiments"] = ["e", name]
    return config


def changes(option: Option, base: Config) -> Iterator[Config]:
    """The configuration with other values of a key. Some are refused."""
    for value in values(option, base, NAMES, GIVEN):
        config = copy.deepcopy(base)
        put_all(config, TOGETHER, option, EXPERIMENT, value)
        put(config, option.path, value)
        yield with_named(config)


def stages_of(option: Option) -> str:
    """A pattern of the stages one of which must change with a key."""
    section = section_of(option)
    if task_of(option):
        return {"evaluations": "evaluate-e-.*", "variants": "train-e--x.*"}.get(section, "train-e")
    stages = {"datasets": "(fetch|records|shards)-x", "weights": "weights-x", "encoders": "features-x-.*"}
    return stages.get(section, "report" if section == "report" else "train-.*")


def fault_of(folder: Folder, option: Option) -> str | None:
    """What is wrong with a key; None for one that does as it should."""
    base = base_of(option)
    try:
        before = folder.keys(with_named(copy.deepcopy(base)))
    except ConfigError as error:
        return None if matches(REFUSED, option) else f"the configuration before the change is refused: {error}"
    refusals = []
    for config in changes(option, base):
        value = get(config, option.path)
        try:
            after = folder.keys(config)
        except ConfigError as error:
            refusals.append(f"{value!r}: {error}")
            continue
        changed = {name for name in before | after if before.get(name) != after.get(name)}
        if matches(REFUSED, option):
            return f"{value!r} is not refused"
        if matches(NO_KEY, option):
            return f"{value!r} changes {sorted(changed)}" if changed - {"report"} else None
        reached = any(re.fullmatch(stages_of(option), name) for name in changed)
        return None if reached else f"{value!r} changes the keys of {sorted(changed)} alone"
    return None if matches(REFUSED, option) and refusals else f"no other value is valid: {refusals[:3]}"


@pytest.mark.parametrize("group", dict.fromkeys(map(group_of, OPTIONS)))
def test_every_key_changes_the_key_of_its_stage_or_of_none_by_design(folder, group):
    found = {option.label: fault_of(folder, option) for option in OPTIONS if group_of(option) == group}
    assert not (faults := [f"{label}: {fault}" for label, fault in found.items() if fault]), "\n".join(faults)


@pytest.mark.parametrize(
    "option", [option for option in OPTIONS if matches(NO_KEY, option)], ids=lambda option: option.label
)
def test_a_key_that_makes_nothing_stale_says_so(option):
    assert SAYS_SO.search(f"{option.field.description} {option.owner.__doc__}")


def test_the_tables_name_keys_that_exist():
    labels = [option.label for option in OPTIONS]
    patterns = [*BESIDE, *TOGETHER, *GIVEN, *NO_KEY, *REFUSED]
    assert [pattern for pattern in patterns if not any(re.fullmatch(pattern, label) for label in labels)] == []
    assert set(BASES) == set(registry.names("tasks"))
