"""Writes the files of a model: in the layout of transformers where it has the architecture, else as training wrote them."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glassworks.artifacts.digests import write_json
from glassworks.artifacts.manifest import MANIFEST, RECIPE
from glassworks.artifacts.model_files import read_hub_config
from glassworks.data.reading.text import FILES, has_tokenizer
from glassworks.errors import ConfigError
from glassworks.inference.export import run as export
from glassworks.inference.model_folders import find_tokenizer
from glassworks.models.language_model import KIND as LANGUAGE_MODEL
from glassworks.publishing.lineage import Made
from glassworks.publishing.subject import Subject

TRAINING, EVALUATIONS = "training", "evaluations"
"""Folders of the record of the training, and of the metrics."""
LOGS = ("metrics.jsonl", "digests.jsonl")
PIPELINE = f"{TRAINING}/pipeline.json"
"""How everything was made: the recipe of each stage."""
LEFT_OUT = (MANIFEST, RECIPE, *LOGS)


@dataclass(frozen=True)
class Layout:
    """How the files of a model are laid out."""

    kind: str
    """`model` in the config.json of the artefact."""
    architecture: str | None
    """Class in transformers; None for a model that transformers does not have."""
    reason: str | None = None
    """Why a language model is not in the layout of transformers."""
    facts: list[str] = field(default_factory=list)
    use: str = ""
    """Markdown: how to use it in Python."""
    towers: list[str] = field(default_factory=list)
    """Encoders that the folder does not hold."""


def write_model(subject: Subject, target: Path) -> Layout:
    """Write weights, configuration and tokenizer to the new folder `target`."""
    config = read_hub_config(subject.folder)
    kind = str(config.get("model"))
    if kind != LANGUAGE_MODEL:
        _copy(subject, target)
        return Layout(kind, None, towers=_towers(config))
    try:
        done = export(subject.folder, target, subject.root)
    except ConfigError as error:
        shutil.rmtree(target, ignore_errors=True)
        _copy(subject, target)
        return Layout(kind, None, str(error).removeprefix(f"{subject.folder}: "))
    return Layout(kind, done.architecture, None, done.facts, done.use)


def write_training(subject: Subject, target: Path) -> None:
    """Write how the model was made: manifest, recipes, the log of the training, and the metrics of each evaluation."""
    folder = target / TRAINING
    folder.mkdir()
    for name in (MANIFEST, RECIPE, *LOGS):
        if (subject.folder / name).is_file():
            shutil.copyfile(subject.folder / name, folder / name)
    stages = [*subject.origin.values(), subject.model, *subject.evaluations.values()]
    write_json(target / PIPELINE, {"experiment": subject.name, "stages": [_stage(made) for made in stages]})
    for name, made in subject.evaluations.items():
        (target / EVALUATIONS / name).mkdir(parents=True)
        source = subject.root / made.directory / "metrics.json"
        shutil.copyfile(source, target / EVALUATIONS / name / source.name)


def _stage(made: Made) -> dict[str, Any]:
    return {"manifest": made.digest, **made.recipe, "params": _without_folders(made.params)}


def _without_folders(value: Any) -> Any:
    """Settings in which an absolute path is its last part alone, so that no folder of this machine is published."""
    if isinstance(value, dict):
        return {name: _without_folders(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_folders(part) for part in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def _copy(subject: Subject, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(subject.folder.iterdir()):
        if file.is_file() and file.name not in LEFT_OUT:
            shutil.copyfile(file, target / file.name)
    if "tokenizer" in subject.model.inputs and not has_tokenizer(target):
        for file in sorted(find_tokenizer(subject.folder).iterdir()):
            if file.is_file() and (file.name in FILES or file.name.endswith("_config.json")):
                shutil.copyfile(file, target / file.name)


def _towers(config: dict[str, Any]) -> list[str]:
    """The names of the encoders that config.json describes by the digest of their weights."""
    towers = config.get("towers") or ([config["tower"]] if config.get("tower") else [])
    described = list(towers.values()) if isinstance(towers, dict) else towers
    return [str(one["encoder"]) for one in described if isinstance(one, dict) and "encoder" in one]
