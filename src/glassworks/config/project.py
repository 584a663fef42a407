"""Loads and cross-checks the configuration of a project: params.yaml, the experiments it lists, and their variants."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, create_model, field_validator
from pydantic.json_schema import GenerateJsonSchema

from glassworks.config import registry
from glassworks.config.base import Name, nearest, parse, read_yaml
from glassworks.config.continuation import inherited_section
from glassworks.config.data import TextData
from glassworks.config.evaluation import Evaluation
from glassworks.config.experiment import Experiment, Start
from glassworks.config.needs import Encoding, Initial, Need, Shards, Tokenizer, Weights
from glassworks.config.params import Params
from glassworks.config.variants import Variant, VariantRun, overridden
from glassworks.errors import ConfigError

PARAMS = "params.yaml"


@dataclass(frozen=True)
class Project:
    """A project folder and its configuration."""

    root: Path
    params: Params
    experiments: dict[str, Experiment]
    """The experiments that params.yaml lists and the training runs of their variants, by name."""
    contents: dict[str, Any] = field(default_factory=dict)
    """Contents of the files of the listed experiments, as written."""
    runs: dict[str, VariantRun] = field(default_factory=dict)
    """Those of `experiments` that are runs of variants."""
    variants: dict[str, dict[str, list[tuple[int, str]]]] = field(default_factory=dict)
    """For each listed experiment with variants, the training runs by variant: seed, and name in `experiments`."""

    def seed(self, name: str) -> int:
        """The seed of an experiment."""
        run = self.runs.get(name)
        return self.params.seed if run is None or run.seed is None else run.seed

    def bases(self, name: str) -> list[str]:
        """The experiments whose model an experiment continues, the nearest first."""
        found: list[str] = []
        base = _continued(self.experiments[name])
        while base in self.experiments and base not in found:
            found.append(base)
            base = _continued(self.experiments[base])
        return found

    def reads(self, name: str) -> list[str]:
        """The experiments and weights that an experiment reads. A variant may read the tokenizer of its experiment."""
        needs = self.experiments[name].needs().values()
        needed = [need.name for need in needs if not isinstance(need, Shards | Encoding)]
        return [*needed, self.runs[name].experiment] if name in self.runs else needed


def load_project(root: Path, drafts: Mapping[str, Path] | None = None) -> Project:
    """The validated configuration in `root`. Raises `ConfigError` with one line per fault.

    `drafts` are files to read in place of those of the project, by the relative path of these.
    """
    drafts = drafts or {}
    if not (root / PARAMS).exists():
        above = next((folder for folder in root.absolute().parents if (folder / PARAMS).exists()), None)
        remedy = f"`cd {above}` first" if above else "run the command in the root of the project"
        raise ConfigError(f"{root.absolute()}: no {PARAMS} in this folder; {remedy}")
    params = parse(Params, read_yaml(drafts.get(PARAMS, root / PARAMS)), PARAMS)
    project, faults = Project(root, params, {}), []
    for index, name in enumerate(params.experiments):
        file = Path("experiments", f"{name}.yaml")
        if name == "report":
            faults.append(
                f"params.yaml: experiments.{index}: {name!r} is the name of the report's own folder; choose another"
            )
            continue
        if name in project.contents:
            faults.append(f"params.yaml: experiments.{index}: {name!r} is listed twice")
            continue
        path = drafts.get(str(file), root / file)
        if not path.is_file():
            known = sorted(path.stem for path in (root / "experiments").glob("*.yaml"))
            faults.append(f"params.yaml: experiments.{index}: there is no {file}{nearest(name, known)}")
            continue
        try:
            project.contents[name] = read_yaml(path)
        except ConfigError as error:
            faults.append(str(error))
    for name, content in project.contents.items():
        file = Path("experiments", f"{name}.yaml")
        try:
            project.experiments[name] = parse_experiment(_with_base(content, project.contents, file), file)
        except ConfigError as error:
            faults.append(str(error))
            continue
        project.experiments[name].encoders.update(params.encoders)
        faults += _experiment_faults(params, file, project.experiments[name])
        faults += _add_variants(project, name, file)
    listed = [name for name in project.experiments if name not in project.runs]
    for name in listed:
        faults += _reading_faults(project, name, f"experiments/{name}.yaml")
        faults += _template_faults(project, name)
    faults += _dataset_faults(params) + _path_faults(root, params)
    faults += [
        f"params.yaml: encoders.{name}.weights: there are no weights {encoder.weights!r}"
        f"{nearest(encoder.weights, list(params.weights))}"
        for name, encoder in params.encoders.items()
        if encoder.weights not in params.weights
    ]
    faults += [
        f"params.yaml: weights.{name}: an experiment has this name, too; choose another"
        for name in params.weights
        if name in params.experiments
    ]
    if not faults:  # a fault of an experiment would be one of each of its variants
        for name, run in {run.stem: (name, run) for name, run in project.runs.items()}.values():
            where = f"experiments/{run.experiment}.yaml: variants.{run.variant}.set"
            faults += _experiment_faults(params, where, project.experiments[name])
            faults += _reading_faults(project, name, where)
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(faults)))
    return project


def _add_variants(project: Project, name: str, file: Path) -> list[str]:
    """Add the training runs of the variants of an experiment to the project; returns their faults."""
    plain, faults = project.experiments[name], []
    for variant, settings in variants_of(plain).items():
        where = f"{file}: variants.{variant}.set"
        try:
            content = overridden(project.contents[name], settings.set, where)
            experiment = parse_experiment(_with_base(content, project.contents, where), where)
        except ConfigError as error:
            faults.append(str(error))
            continue
        experiment.encoders.update(project.params.encoders)
        same = _without_variants(experiment) == _without_variants(plain)
        found = project.variants.setdefault(name, {}).setdefault(variant, [])
        for seed in settings.seeds or (None,):
            run = VariantRun(name, variant, seed, tuple(settings.set))
            used = project.params.seed if seed is None else seed
            if same and used == project.params.seed:  # the experiment itself
                found.append((used, name))
            else:
                found.append((used, run.name))
                project.runs[run.name], project.experiments[run.name] = run, experiment
    return faults


def _with_base(content: Any, contents: Mapping[str, Any], where: Path | str, seen: frozenset[str] = frozenset()) -> Any:
    """The content of an experiment's file with the shape of the experiment that it continues from, if it continues from a listed one of its task."""
    model = content.get("model") if isinstance(content, dict) else None
    name = model.get("from") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(name, str) or name in seen:
        return content
    base, task = contents.get(name), content.get("task")
    if not isinstance(base, dict) or task not in registry.names("tasks"):
        return content
    if base.get("task") not in (task, *experiment_class(task).continues):
        return content
    file = Path("experiments", f"{name}.yaml")
    started = getattr(parse_experiment(_with_base(base, contents, file, seen | {name}), file), "model", None)
    if not isinstance(started, Start):
        return content
    replaced: frozenset[str] = getattr(started, "REPLACED", frozenset())
    own = {key: value for key, value in model.items() if key not in replaced}
    others = {key: value for key, value in model.items() if key in replaced}
    try:
        return {**content, "model": inherited_section(started, own, name) | others}
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _without_variants(experiment: Experiment) -> dict[str, Any]:
    return experiment.model_dump(mode="json", exclude={"variants"})


def parse_experiment(value: Any, file: Path | str) -> Experiment:
    """The content of a file, validated by the settings class of its `task`. Raises `ConfigError` with one line per fault."""
    task = value.get("task") if isinstance(value, dict) else None
    known = registry.names("tasks")
    if task is not None and task not in known:
        raise ConfigError(f"{file}: task: unknown value {task!r}{nearest(str(task), known)}")
    return parse(experiment_class(task or known[0]), value, file)


@cache
def experiment_class(task: str) -> type[Experiment]:
    """The settings class of a task, extended by the sections `evaluations` and `variants`, which training does not read."""
    base = registry.settings_class("tasks", task, Experiment)
    named = GenericAlias(dict, (Name, registry.union("evaluation", Evaluation, "kind")))
    standard = {
        kind: registry.settings_class("evaluation", kind, Evaluation).model_validate({"kind": kind})
        for kind in [base.scored_by]
        if kind is not None
    }
    section: Any = (named, Field(standard, description="How the trained model is scored, by a name of your choice."))
    others: Any = (
        GenericAlias(dict, (Name, Variant)),
        Field({}, description="Variants of this experiment to train and compare, by a name of your choice."),
    )
    return create_model(
        base.__name__,
        __base__=base,
        __doc__=base.__doc__,
        __validators__={"kind_by_name": field_validator("evaluations", mode="before")(_kind_by_name)},
        evaluations=section,
        variants=others,
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


def evaluation_needs(experiment: Experiment, name: str) -> dict[str, Need]:
    """Input artefacts of an evaluation by role, except the model and its tokenizer."""
    evaluation, data = evaluations_of(experiment)[name], experiment.data
    own = experiment.evaluation_needs(evaluation.dataset or data.datasets[0])
    return evaluation.needs(name, data) | evaluation.read(own)


def variants_of(experiment: Experiment) -> dict[str, Variant]:
    """The variants of an experiment from `parse_experiment`, by name."""
    return getattr(experiment, "variants", {})


def fits(evaluation: Evaluation, experiment: Experiment) -> bool:
    """Whether an evaluation can score the model of an experiment."""
    return evaluation.kind == experiment.scored_by or experiment.task in evaluation.scores


def _experiment_faults(params: Params, file: Path | str, experiment: Experiment) -> list[str]:
    needs, faults = list(experiment.needs().values()), []
    for name, evaluation in evaluations_of(experiment).items():
        try:
            needs += evaluation_needs(experiment, name).values()
        except ValueError as error:
            faults.append(f"{file}: evaluations.{name}.{error}")
        if not fits(evaluation, experiment):
            tasks = " or ".join(evaluation.scores)
            faults.append(f"{file}: evaluations.{name}: {evaluation.kind} scores {tasks} models, not {experiment.task}")
    setting, held_out = experiment.training.selection.needs_validation, experiment.data.held_out_splits
    if setting and held_out and all(_has_no(params, name, split) for name, split in held_out.items()):
        faults.append(
            f"{file}: training.selection.{setting} needs validation data, and {' and '.join(held_out)} in params.yaml "
            "leaves none; give it a validation split, or remove the key"
        )
    for kind, word, known in ((Shards, "dataset", list(params.datasets)), (Encoding, "encoder", list(params.encoders))):
        wanted = {need.key: need.name for need in needs if isinstance(need, kind)}
        faults += [
            f"{file}: {key}: params.yaml has no {word} {name!r}{nearest(name, known)}"
            for key, name in wanted.items()
            if name not in known
        ]
    faults += [f"{file}: {fault}" for fault in experiment.dataset_faults(params.datasets)]
    return faults + [f"{file}: {fault}" for fault in experiment.encoder_faults(params.encoders)]


def _has_no(params: Params, dataset: str, split: str) -> bool:
    """Whether the settings of a data set say that a split is empty. A table with a column `split` says it later."""
    settings = params.datasets.get(dataset)
    tars, samples = getattr(settings, "tars", None), getattr(settings, "samples", None)
    return any(isinstance(found, dict) and not found.get(split) for found in (tars, samples))


def _reading_faults(project: Project, name: str, file: str) -> list[str]:
    """Faults in the references of an experiment to other experiments or published weights: unknown names and cycles."""
    params, experiments, faults = project.params, project.experiments, []

    def stem(name: str) -> str:
        return project.runs[name].stem if name in project.runs else name

    for need in experiments[name].needs().values():
        if isinstance(need, Shards | Encoding) or (need.name in params.experiments and need.name not in experiments):
            continue  # an experiment with faults of its own has been reported
        allowed = [other for other, one in experiments.items() if stem(other) != stem(name) and _fits(need, one)]
        allowed += [] if isinstance(need, Initial) else list(params.weights)
        where = f"{file}: {need.key}"
        if need.name not in allowed:
            wanted = "experiment that fits, nor weights,"
            if isinstance(need, Weights | Initial):
                wanted = "weights" if isinstance(need, Weights) else f"other {experiments[name].task} experiment"
            faults.append(f"{where}: params.yaml lists no {wanted} called {need.name!r}{nearest(need.name, allowed)}")
        elif need.name in experiments and _leads_to(project, need.name, name):
            faults.append(f"{where}: {need.name!r} itself reads {name!r}")
        elif isinstance(need, Initial) and (
            fault := _start_fault(need.name, experiments[need.name], experiments[name])
        ):
            faults.append(f"{where}: {fault}")
        elif isinstance(need, Initial) and _tokenizer(experiments, need.name) != _tokenizer(experiments, name):
            faults.append(f"{where}: {need.name!r} has another tokenizer; set data.tokenizer.of: {need.name}")
    return faults


def _start_fault(start: str, theirs: Experiment, own: Experiment) -> str | None:
    """The reason why an experiment cannot continue from `start`."""
    base, weights = (getattr(getattr(one, "model", None), "weights", None) for one in (theirs, own))
    model = getattr(theirs, "model", None)
    if not (isinstance(model, Start) and model.trains_adapter):
        return (
            f"{start!r} is a whole model and replaces the weights {weights!r}; remove model.weights"
            if weights
            else None
        )
    if base is None:
        return f"{start!r} is an adapter, not a whole model; name its base"
    return None if weights == base else f"{start!r} is an adapter of {base!r}, not of {weights!r}; remove model.weights"


def _continued(experiment: Experiment) -> str | None:
    model = getattr(experiment, "model", None)
    return model.from_ if isinstance(model, Start) else None


def _tokenizer(experiments: dict[str, Experiment], name: str) -> str | None:
    """The experiment that trains the tokenizer of an experiment, or the weights that it comes with; None if it reads no texts."""
    data = experiments[name].data
    if not isinstance(data, TextData):
        return None
    of = data.tokenizer.of
    return _tokenizer(experiments, of) if of in experiments else of or name


def _template_faults(project: Project, name: str) -> list[str]:
    """A chat template that is not there, so that no stage runs before the error."""
    packing = project.experiments[name].packing()
    chat = packing.chat if packing else None
    if chat is None or chat.template is None or (project.root / chat.template).is_file():
        return []
    beside = (project.root / chat.template).parent.glob("*.jinja")
    known = sorted(path.relative_to(project.root).as_posix() for path in beside)
    return [f"experiments/{name}.yaml: data.template: there is no file {chat.template}{nearest(chat.template, known)}"]


def _fits(need: Need, experiment: Experiment) -> bool:
    """Whether an experiment satisfies a need."""
    tasks = (getattr(need, "task", None), *getattr(need, "others", ()))
    return isinstance(need, Tokenizer) or experiment.task in tasks


def _leads_to(project: Project, start: str, goal: str) -> bool:
    """Whether experiment `start` reads `goal`, directly or transitively."""
    seen, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name == goal:
            return True
        if name in project.experiments and name not in seen:
            seen.add(name)
            waiting += project.reads(name)
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


MADE = ("data/raw", "data/records", "data/shards", "models", "results", ".work")
"""Folders that the stages write."""


def _path_faults(root: Path, params: Params) -> list[str]:
    """Folders of the user that contain the project or what its stages write: they would never be fresh."""
    made = [path.resolve() for path in (root, *(root / name for name in MADE))]
    given = {f"datasets.{name}": dataset.local_path() for name, dataset in params.datasets.items()}
    given |= {f"weights.{name}": getattr(entry, "path", None) for name, entry in params.weights.items()}
    return [
        f"params.yaml: {key}.path: {path} contains files that the project writes; put the data into a folder of their own"
        for key, path in given.items()
        if path is not None and any(one.is_relative_to((root / path).resolve()) for one in made)
    ]


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
