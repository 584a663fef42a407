"""The whole configuration of a project, read and cross-checked: params.yaml and the experiments it lists."""

import json
from dataclasses import dataclass
from pathlib import Path

from glassworks.config.base import Settings, nearest, parse, read_yaml
from glassworks.config.datasets import OpenMoji
from glassworks.config.experiment import Experiment
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
            experiments[name] = parse(Experiment, read_yaml(root / file), file)
        except ConfigError as error:
            faults.append(str(error))
            continue
        faults += _experiment_faults(params, file, experiments[name])
    faults += _dataset_faults(params)
    if faults:
        raise ConfigError("\n".join(faults))
    return Project(root, params, experiments)


def _experiment_faults(params: Params, file: Path, experiment: Experiment) -> list[str]:
    if experiment.data.dataset not in params.datasets:
        hint = nearest(experiment.data.dataset, list(params.datasets))
        return [f"{file}: data.dataset: params.yaml has no dataset {experiment.data.dataset!r}{hint}"]
    return []


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


SCHEMAS: dict[str, type[Settings]] = {"params": Params, "experiment": Experiment}


def schema_text(name: str) -> str:
    """The JSON Schema `schemas/NAME.schema.json`, which editors use to complete and check the YAML files."""
    return json.dumps(SCHEMAS[name].model_json_schema(), indent=2, sort_keys=True) + "\n"
