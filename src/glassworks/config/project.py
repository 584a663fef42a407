"""Loads and cross-checks the configuration of a project: params.yaml and the experiments it lists."""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, create_model, field_validator
from pydantic.json_schema import GenerateJsonSchema

from glassworks.config import registry
from glassworks.config.base import Name, nearest, parse, read_yaml
from glassworks.config.data import TextData
from glassworks.config.evaluation import Evaluation
from glassworks.config.experiment import Experiment
from glassworks.config.needs import Initial, Need, Shards, Tokenizer, Weights
from glassworks.config.params import Params
from glassworks.errors import ConfigError


@dataclass(frozen=True)
class Project:
    """A project folder and its configuration."""

    root: Path
    params: Params
    experiments: dict[str, Experiment]


def load_project(root: Path) -> Project:
    """The validated configuration in `root`. Raises `ConfigError` with one line per fault."""
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


def parse_experiment(value: Any, file: Path | str) -> Experiment:
    """The content of a file, validated by the settings class of its `task`. Raises `ConfigError` with one line per fault."""
    task = value.get("task") if isinstance(value, dict) else None
    known = registry.names("tasks")
    if task is not None and task not in known:
        raise ConfigError(f"{file}: task: unknown value {task!r}{nearest(str(task), known)}")
    return parse(experiment_class(task or known[0]), value, file)


@cache
def experiment_class(task: str) -> type[Experiment]:
    """The settings class of a task, extended by the section `evaluations`, which training does not read."""
    base = registry.settings_class("tasks", task, Experiment)
    default = registry.settings_class("evaluation", base.scored_by, Evaluation)
    named = GenericAlias(dict, (Name, registry.union("evaluation", Evaluation, "kind")))
    standard = {base.scored_by: default.model_validate({"kind": base.scored_by})}
    section: Any = (named, Field(standard, description="How the trained model is scored, by a name of your choice."))
    return create_model(
        base.__name__,
        __base__=base,
        __doc__=base.__doc__,
        __validators__={"kind_by_name": field_validator("evaluations", mode="before")(_kind_by_name)},
        evaluations=section,
    )


def _kind_by_name(value: Any) -> Any:
    """Evaluations with `kind` filled in: an evaluation without `kind` is of the kind it is named after."""
    if not isinstance(value, dict):
        return value
    known = registry.names("evaluation")
    filled = {name: {} if settings is None else settings for name, settings in value.items()}
    for name, settings in filled.items():
        if isinstance(settings, dict) and "kind" not in settings:
            if name not in known:
                raise ValueError(
                    f"{name}.kind: no evaluation is called {name!r}, so this key is required{nearest(str(name), known)}"
                )
            filled[name] = {"kind": name, **settings}
    return filled


def evaluations_of(experiment: Experiment) -> dict[str, Evaluation]:
    """The evaluations of an experiment from `parse_experiment`, by name."""
    return getattr(experiment, "evaluations", {})


def fits(evaluation: Evaluation, experiment: Experiment) -> bool:
    """Whether an evaluation can score the model of an experiment."""
    return evaluation.kind == experiment.scored_by or experiment.task in evaluation.scores


def _experiment_faults(params: Params, file: Path, experiment: Experiment) -> list[str]:
    needs, faults = list(experiment.needs().values()), []
    for name, evaluation in evaluations_of(experiment).items():
        needs += evaluation.needs(name, experiment.data).values()
        if not fits(evaluation, experiment):
            tasks = " or ".join(evaluation.scores)
            faults.append(f"{file}: evaluations.{name}: {evaluation.kind} scores {tasks} models, not {experiment.task}")
    wanted = {need.key: need.name for need in needs if isinstance(need, Shards)}
    return faults + [
        f"{file}: {key}: params.yaml has no dataset {name!r}{nearest(name, list(params.datasets))}"
        for key, name in wanted.items()
        if name not in params.datasets
    ]


def _reading_faults(params: Params, experiments: dict[str, Experiment], name: str, experiment: Experiment) -> list[str]:
    """Faults in the references of an experiment to other experiments or published weights: unknown names and cycles."""
    faults = []
    for need in experiment.needs().values():
        if isinstance(need, Shards) or (need.name in params.experiments and need.name not in experiments):
            continue  # an experiment with faults of its own has been reported
        allowed = [other for other, one in experiments.items() if other != name and _fits(need, one)]
        allowed += [] if isinstance(need, Initial) else list(params.weights)
        where = f"experiments/{name}.yaml: {need.key}"
        if need.name not in allowed:
            wanted = "experiment that fits, nor weights,"
            if isinstance(need, Weights | Initial):
                wanted = "weights" if isinstance(need, Weights) else f"other {experiment.task} experiment"
            faults.append(f"{where}: params.yaml lists no {wanted} called {need.name!r}{nearest(need.name, allowed)}")
        elif need.name in experiments and _leads_to(experiments, need.name, name):
            faults.append(f"{where}: {need.name!r} itself reads {name!r}")
        elif isinstance(need, Initial) and _tokenizer(experiments, need.name) != _tokenizer(experiments, name):
            faults.append(f"{where}: {need.name!r} has another tokenizer; set data.tokenizer.of: {need.name}")
    return faults


def _tokenizer(experiments: dict[str, Experiment], name: str) -> str | None:
    """The experiment that trains the tokenizer of an experiment, or the weights that it comes with; None if it reads no texts."""
    data = experiments[name].data
    if not isinstance(data, TextData):
        return None
    of = data.tokenizer.of
    return _tokenizer(experiments, of) if of in experiments else of or name


def _fits(need: Need, experiment: Experiment) -> bool:
    """Whether an experiment satisfies a need."""
    return isinstance(need, Tokenizer) or getattr(need, "task", None) == experiment.task


def _leads_to(experiments: dict[str, Experiment], start: str, goal: str) -> bool:
    """Whether experiment `start` reads `goal`, directly or transitively."""
    seen, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name == goal:
            return True
        if name in experiments and name not in seen:
            seen.add(name)
            waiting += [need.name for need in experiments[name].needs().values() if not isinstance(need, Shards)]
    return False


def _dataset_faults(params: Params) -> list[str]:
    faults = []
    for name, dataset in params.datasets.items():
        for need in dataset.needs().values():
            known = [other for other, one in params.datasets.items() if one.source == need.source]
            if need.name not in known:
                faults.append(
                    f"params.yaml: datasets.{name}.{need.key}: no dataset of source {need.source} is called {need.name!r}"
                    f"{nearest(need.name, known)}"
                )
    return faults


SCHEMAS = ("params", "experiment")


class _JsonSchema(GenerateJsonSchema):
    def normalize_name(self, name: str) -> str:
        """Name of a definition. `Part[LossOptions]` is called LossPart, as its class is."""
        return super().normalize_name(re.sub(r"(\w+)\[(\w*)Options\]", r"\2\1", name))


def schema_text(name: str) -> str:
    """The text of `schemas/NAME.schema.json`, with which editors complete and check the YAML files."""
    if name == "params":
        model: Any = Params
    else:
        tasks = [experiment_class(task) for task in registry.names("tasks")]
        model = Annotated[registry.tagged_union(tuple(tasks)), Field(discriminator="task")]
    return json.dumps(TypeAdapter(model).json_schema(schema_generator=_JsonSchema), indent=2, sort_keys=True) + "\n"
