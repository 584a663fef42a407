"""The whole configuration of a project, read and cross-checked: params.yaml and the experiments it lists."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from glassworks.config.base import nearest, parse, read_yaml
from glassworks.config.datasets import OpenMoji
from glassworks.config.experiment import AnyExperiment, Experiment, LanguageModelling, parse_experiment
from glassworks.config.params import Params
from glassworks.errors import ConfigError


@dataclass(frozen=True)
class Project:
    """A project folder and its configuration."""

    root: Path
    params: Params
    experiments: dict[str, Experiment]


def load_project(root: Path) -> Project:
    """Read and check the configuration in `root`; a `ConfigError` lists every fault, one line each."""
    params = parse(Params, read_yaml(root / "params.yaml"), "params.yaml")
    faults, experiments = [], {}
    for index, name in enumerate(params.experiments):
        file = Path("experiments", f"{name}.yaml")
        if name == "report":
            faults.append(
                f"params.yaml: experiments.{index}: {name!r} is the name of the report's own folder; choose another"
            )
            continue
        if name in experiments:
            faults.append(f"params.yaml: experiments.{index}: {name!r} is listed twice")
            continue
        if not (root / file).is_file():
            known = sorted(path.stem for path in (root / "experiments").glob("*.yaml"))
            faults.append(f"params.yaml: experiments.{index}: there is no {file}{nearest(name, known)}")
            continue
        try:
            experiments[name] = parse_experiment(read_yaml(root / file), file)
        except ConfigError as error:
            faults.append(str(error))
            continue
        faults += _experiment_faults(params, file, experiments[name])
    for name, experiment in experiments.items():
        faults += _reading_faults(params, experiments, name, experiment)
    faults += _dataset_faults(params)
    faults += [
        f"params.yaml: weights.{name}: an experiment has this name, too; choose another"
        for name in params.weights
        if name in params.experiments
    ]
    if faults:
        raise ConfigError("\n".join(faults))
    return Project(root, params, experiments)


def _experiment_faults(params: Params, file: Path, experiment: Experiment) -> list[str]:
    if experiment.data.dataset not in params.datasets:
        hint = nearest(experiment.data.dataset, list(params.datasets))
        return [f"{file}: data.dataset: params.yaml has no dataset {experiment.data.dataset!r}{hint}"]
    return []


def _reading_faults(params: Params, experiments: dict[str, Experiment], name: str, experiment: Experiment) -> list[str]:
    """What an experiment takes over from another one, or from published weights, must be there; nothing may read itself in the end."""
    faults = []
    for key, wanted in experiment.reads().items():
        file = f"experiments/{name}.yaml: {key}"
        known = {
            other: key == "data.tokenizer.of" or isinstance(one, LanguageModelling)
            for other, one in experiments.items()
        }
        allowed = [other for other, fits in known.items() if fits and other != name and key != "model.backbone.weights"]
        allowed += list(params.weights)
        if wanted not in allowed:
            what = "weights" if key == "model.backbone.weights" else "experiment that fits, nor weights,"
            faults.append(f"{file}: params.yaml lists no {what} called {wanted!r}{nearest(wanted, allowed)}")
        elif wanted in experiments and _leads_to(experiments, wanted, name):
            faults.append(f"{file}: {wanted!r} itself reads {name!r}")
    return faults


def _leads_to(experiments: dict[str, Experiment], start: str, goal: str) -> bool:
    """Whether an experiment reads another one, directly or through others."""
    seen, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name == goal:
            return True
        if name in experiments and name not in seen:
            seen.add(name)
            waiting += experiments[name].reads().values()
    return False


def _dataset_faults(params: Params) -> list[str]:
    faults = []
    for name, dataset in params.datasets.items():
        for parent in dataset.parents():
            if not isinstance(params.datasets.get(parent), OpenMoji):
                known = [other for other, settings in params.datasets.items() if isinstance(settings, OpenMoji)]
                faults.append(
                    f"params.yaml: datasets.{name}.sprites: no dataset of source openmoji is called {parent!r}{nearest(parent, known)}"
                )
    return faults


SCHEMAS: dict[str, Any] = {"params": Params, "experiment": AnyExperiment}


def schema_text(name: str) -> str:
    """The JSON Schema `schemas/NAME.schema.json`, which editors use to complete and check the YAML files."""
    return json.dumps(TypeAdapter(SCHEMAS[name]).json_schema(), indent=2, sort_keys=True) + "\n"
