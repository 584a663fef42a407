"""The stage table: the only description of the graph.

From params.yaml and experiments/ it derives every stage: its inputs, resolved parameters, source code, output directory and resources. The Snakefile's
input functions ask it, dvc.yaml is compiled from it, and the key that decides freshness is computed over it. It runs nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from glassworks.config.datasets import Dataset
from glassworks.config.experiment import Experiment
from glassworks.config.project import Project
from glassworks.errors import ConfigError

PACKAGE = "src/glassworks"

_FILES = ("data/captioned_images.py", "data/image_files.py", "data/fetching/raw_files.py", "data/fetching/archives.py")
_SCENES = ("data/scenes/kinds.py", "data/scenes/language.py", "data/scenes/layout.py")
_SOURCES: dict[str, tuple[str, ...]] = {
    "openmoji": ("data/emoji_concepts.py",),
    "scenes": ("data/emoji_concepts.py", "data/sources/openmoji.py", *_SCENES),
    "folder": _FILES,
    "flickr30k": _FILES,
    "coco_captions": _FILES,
    "webdataset": (
        "data/fetching/raw_files.py",
        "data/fetching/archives.py",
        "data/reading/images.py",
        "data/reading/captions.py",
        "data/sidecars.py",
    ),
}
"""What each source is made of, beside data/sources/SOURCE.py."""


@dataclass(frozen=True)
class Resources:
    """What a stage asks of a scheduler."""

    threads: int = 1
    mem_mb: int = 2000
    runtime: int = 30
    """Minutes."""


@dataclass(frozen=True)
class Stage:
    """One stage: a directory that is a pure function of its inputs, parameters and code."""

    kind: str
    """What it does: fetch, records, shards, tokenizer, train, evaluate, report. Also its verb on the command line and its Snakemake rule."""
    subject: str
    """What it does it for: a dataset, an experiment, or nothing (the report)."""
    directory: str
    """Where its artefact stands, relative to the project."""
    code: tuple[str, ...]
    """Source packages and modules its result depends on, relative to src/glassworks."""
    params: dict[str, Any]
    """Resolved parameters, defaults included."""
    settings: dict[str, tuple[str, ...]]
    """The same parameters as the user writes them: for each YAML file, the key paths that DVC watches."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Names of the stages it reads, by role."""
    reads_recipes: bool = False
    """Whether it reads how its inputs were made (their recipe.json), too, and not only what they are."""
    local_path: str | None = None
    """The user's folder it reads, if any."""
    jobs: int = 0
    """Parallel jobs that prepare parts of it (shards); 0 for none."""
    resources: Resources = Resources()
    """What it asks of a scheduler."""

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.subject}" if self.subject else self.kind

    @property
    def manifest(self) -> str:
        return f"{self.directory}/manifest.json"

    def small_files(self, with_recipe: bool) -> list[str]:
        """The manifest, and the recipe when asked; never tars or weights."""
        return [self.manifest, f"{self.directory}/recipe.json"] if with_recipe else [self.manifest]

    @property
    def key_file(self) -> str:
        return f".work/keys/{self.name}.json"

    def job_file(self, job: int) -> str:
        """What job number `job` of this stage leaves when it is done."""
        return f".work/{self.name}/job-{job:05d}.json"


class Table:
    """The stages of a project by name, every stage after its inputs."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.stages = {stage.name: stage for stage in _stages(project)}

    def __getitem__(self, name: str) -> Stage:
        try:
            return self.stages[name]
        except KeyError:
            from glassworks.config.base import nearest

            raise ConfigError(f"there is no stage {name!r}{nearest(name, list(self.stages))}") from None

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages.values())

    def inputs(self, stage: Stage) -> list[Stage]:
        return [self.stages[name] for name in dict.fromkeys(stage.inputs.values())]

    def input_files(self, stage: Stage) -> list[str]:
        """The small files of its inputs that `stage` depends on."""
        return [file for upstream in self.inputs(stage) for file in upstream.small_files(stage.reads_recipes)]

    def final_manifest(self) -> str:
        """The manifest that needs all others."""
        return self.stages["report"].manifest


def _stages(project: Project) -> Iterator[Stage]:
    params, done = project.params, {}
    for name in _parents_first(params.datasets):
        for stage in _dataset_stages(project, name, done):
            done[stage.name] = stage
            yield stage
    for name, experiment in project.experiments.items():
        for stage in _experiment_stages(project, name, experiment):
            done[stage.name] = stage
            yield stage
    yield _report_stage(project, done)


def _parents_first(datasets: dict[str, Any]) -> list[str]:
    order: list[str] = []
    for name, dataset in datasets.items():
        for member in (*dataset.parents(), name):
            if member not in order:
                order.append(member)
    return order


def _dataset_stages(project: Project, name: str, done: dict[str, Stage]) -> Iterator[Stage]:
    dataset: Dataset = project.params.datasets[name]
    settings = dataset.model_dump(mode="json", exclude={"shard_jobs"})
    written = dataset.model_fields_set
    source, config = settings["source"], f"config/datasets/{settings['source']}.py"
    seed = project.params.seed if dataset.seed is None else dataset.seed
    seed_key = "seed" if dataset.seed is None else f"datasets.{name}.seed"

    def watched(*fields: str) -> tuple[str, ...]:
        return tuple(f"datasets.{name}.{field}" for field in fields if field in written)

    parents = {}
    if dataset.fetch_fields:
        yield Stage(
            kind="fetch",
            subject=name,
            directory=f"data/raw/{name}",
            code=("data/fetch.py", "data/fetching", config),
            params={field: settings[field] for field in ("source", *dataset.fetch_fields)},
            settings={"params.yaml": watched("source", *dataset.fetch_fields)},
            local_path=dataset.local_path(),
        )
        parents["raw"] = f"fetch-{name}"
    code = (
        "data/records.py",
        "data/splits.py",
        f"data/sources/{source}.py",
        *_SOURCES[source],
        config,
        "config/datasets/base.py",
    )
    for parent in dataset.parents():
        parents["sprites"] = f"records-{parent}"
        parents["raw"] = f"fetch-{parent}"
    record_fields = sorted(set(settings) - {"samples_per_shard", "seed"})
    yield Stage(
        kind="records",
        subject=name,
        directory=f"data/records/{name}",
        code=code,
        params={"seed": seed, **{field: settings[field] for field in record_fields}},
        settings={"params.yaml": (seed_key, *watched(*record_fields))},
        inputs=parents,
        local_path=dataset.local_path(),
        resources=Resources(threads=4 if dataset.local_path() else 1),
    )
    yield Stage(
        kind="shards",
        subject=name,
        directory=f"data/shards/{name}",
        code=(*code, "data/shards.py", "data/sidecars.py"),
        params={"seed": seed, **{field: value for field, value in settings.items() if field != "seed"}},
        settings={"params.yaml": (seed_key, *watched(*record_fields, "samples_per_shard"))},
        inputs={"records": f"records-{name}", **parents},
        local_path=dataset.local_path(),
        jobs=dataset.shard_jobs,
    )


def _experiment_stages(project: Project, name: str, experiment: Experiment) -> Iterator[Stage]:
    dataset, file = experiment.data.dataset, f"experiments/{name}.yaml"
    settings = experiment.model_dump(mode="json", exclude={"execution"})
    written = experiment.model_fields_set
    common = {"seed": project.params.seed, "cpu_isa": project.params.determinism.cpu_isa}
    common_keys = ("seed", "determinism") if "determinism" in project.params.model_fields_set else ("seed",)
    yield Stage(
        kind="tokenizer",
        subject=name,
        directory=f"data/tokenizers/{name}",
        code=("data/tokenizer.py", "data/records.py", "config/experiment.py"),
        params=settings["data"]["tokenizer"],
        settings={file: ("data.tokenizer",) if "tokenizer" in experiment.data.model_fields_set else ()},
        inputs={"records": f"records-{dataset}"},
    )
    reading = ("data/reading", "data/sidecars.py")
    described = ("data/scenes/language.py", "data/scenes/parser.py", "data/splits.py")
    trained = ("task", "data", "model", "optimization", "training")
    configured = tuple(f"config/{name}.py" for name in ("model", "optimization", "training", "experiment"))
    yield Stage(
        kind="train",
        subject=name,
        directory=f"models/{name}",
        code=(*reading, "models", "tasks", "training", *configured),
        params={
            **common,
            "device": project.params.determinism.device,
            **{section: settings[section] for section in trained},
        },
        settings={"params.yaml": common_keys, file: tuple(section for section in trained if section in written)},
        inputs={"shards": f"shards-{dataset}", "tokenizer": f"tokenizer-{name}"},
        resources=Resources(threads=min(8, experiment.training.micro_batches), mem_mb=6000, runtime=240),
    )
    yield Stage(
        kind="evaluate",
        subject=name,
        directory=f"results/{name}",
        code=(*reading, "models", "tasks", "generation", "evaluation", *described, "config/evaluation.py"),
        params={**common, "evaluation": settings["evaluation"], "data": settings["data"]},
        settings={
            "params.yaml": common_keys,
            file: tuple(section for section in ("data", "evaluation") if section in written),
        },
        inputs={"model": f"train-{name}", "shards": f"shards-{dataset}", "tokenizer": f"tokenizer-{name}"},
        resources=Resources(threads=1, mem_mb=4000, runtime=60),
    )


def _report_stage(project: Project, done: dict[str, Stage]) -> Stage:
    """The report shows every parameter, so it watches every YAML file whole; whatever changes in them, `dvc repro` reaches Snakemake at least here."""
    shown = ("records", "shards", "train", "evaluate")
    params = project.params.model_dump(mode="json")
    return Stage(
        kind="report",
        subject="",
        directory="results/report",
        code=("report",),
        params={
            "params": params,
            "experiments": {name: e.model_dump(mode="json") for name, e in project.experiments.items()},
        },
        settings={"params.yaml": (), **{f"experiments/{name}.yaml": () for name in project.experiments}},
        inputs={name: name for name, stage in done.items() if stage.kind in shown},
        reads_recipes=True,
    )
