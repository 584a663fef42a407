"""The stages of an experiment: tokenizer, packed rows, training and evaluations."""

from collections.abc import Iterator, Mapping

from glassworks.config import registry
from glassworks.config.data import TextData
from glassworks.config.encoder import Encoder
from glassworks.config.experiment import Experiment
from glassworks.config.needs import EncoderWeights, Encoding, Features, Model, Need, Shards, Tokenizer, roles
from glassworks.config.packing import Packing
from glassworks.config.project import Project, evaluation_needs, evaluations_of
from glassworks.pipeline.stage import Resources, Stage
from glassworks.pipeline.watched import watched_encoder, watched_sections, written_keys


def experiment_stages(project: Project, name: str) -> Iterator[Stage]:
    """The stages of an experiment, or of a run of a variant. Several yield the same tokenizer or packed rows, which they share."""
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
    encoders = _encoders_run(project, experiment.needs())
    resolved = {name: encoder.model_dump(mode="json", exclude={"jobs"}) for name, encoder in encoders.items()}
    trained = ("task", "data", "model", "optimization", "training")
    yield Stage(
        kind="train",
        subject=name,
        directory=f"models/{name}",
        entries=("stages.train", *code, *_code(encoders)),
        params={
            **common,
            "seed": project.seed(name),
            "device": project.params.determinism.device,
            **({"encoders": resolved} if resolved else {}),
            **{section: settings[section] for section in trained},
        },
        settings={
            "params.yaml": (*train_keys, *(key for encoder in encoders for key in watched_encoder(project, encoder))),
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
            entries=(
                "stages.evaluate",
                *code,
                *registry.modules("evaluation", evaluation.kind),
                *_code(_encoders_run(project, needs)),
            ),
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
            resources=Resources(
                _threads(experiment), mem_mb=4000, runtime=60, gpus=int(evaluation.device in ("auto", "cuda"))
            ),
        )


def _encoders_run(project: Project, needs: Mapping[str, Need]) -> dict[str, Encoder]:
    """The encoders that a stage with these needs runs itself, by name."""
    names = [need.name for need in needs.values() if isinstance(need, EncoderWeights)]
    return {name: project.params.encoders[name] for name in names}


def _code(encoders: Mapping[str, Encoder]) -> tuple[str, ...]:
    """The modules of encoders."""
    return tuple(module for one in encoders.values() for module in registry.modules("encoders", one.encoder))


def _tokenizer_stage(project: Project, name: str) -> Stage | None:
    """The stage that trains the tokenizer of an experiment; None if the tokenizer is that of another experiment or of weights.

    A variant uses the tokenizer of its experiment unless an override changes it. The runs of a variant share one.
    """
    experiment, run = project.experiments[name], project.runs.get(name)
    if not isinstance(experiment.data, TextData) or experiment.data.tokenizer.of is not None:
        return None
    subject, tokenizer = run.stem if run else name, experiment.data.tokenizer
    datasets = [*experiment.data.datasets, *tokenizer.datasets]
    stage = Stage(
        kind="tokenizer",
        subject=subject,
        directory=f"data/tokenizers/{subject}",
        entries=("stages.tokenizer", "config.data"),
        params=tokenizer.model_dump(mode="json", exclude={"datasets"}),
        settings=watched_sections(project, name, "data.tokenizer"),
        inputs={role: f"records-{name}" for name, role in roles("records", datasets).items()},
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
        settings=watched_sections(project, name, *experiment.packed_by)
        | _watched_encoder(project, packing, experiment),
        inputs={
            "tokenizer": _stage_of(project, Tokenizer("data.tokenizer", name)),
            **{role: f"shards-{dataset}" for dataset, role in roles("shards", splits).items()},
        },
        jobs=experiment.execution.pack_jobs if experiment.execution.pack_jobs > 1 else 0,
        local_path=packing.chat.template if packing.chat else None,
    )
    shared = _pack_stage(project, run.experiment) if run else None
    return shared if shared and (shared.params, shared.inputs) == (stage.params, stage.inputs) else stage


def _watched_encoder(project: Project, packing: Packing, experiment: Experiment) -> dict[str, tuple[str, ...]]:
    """The keys of the frames of clips and of the crops of images, which count their tokens."""
    images = packing.images
    keys = ["clips"] if images and images.frames else []
    keys += ["tiles", "image_size"] if images and images.tiles else []
    needs = dict.fromkeys(need.name for need in experiment.needs().values() if isinstance(need, Encoding))
    found = [
        f"encoders.{name}.{key}"
        for name in needs
        for key in keys
        if key in project.params.encoders[name].model_fields_set
    ]
    return {"params.yaml": tuple(found)} if found else {}


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


def _threads(experiment: Experiment) -> int:
    """Training cores on each node."""
    nodes, most = experiment.execution.nodes, experiment.execution.workers_per_node
    return min(8, experiment.training.micro_batches // nodes, most or 8)
