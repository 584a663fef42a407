"""The stage table: the single definition of the pipeline graph.

The table derives every stage from params.yaml and experiments/: inputs, resolved parameters, entry modules, output directory and resources. The
Snakefile, dvc.yaml and the freshness keys are all computed from the table. It runs no stage.
"""

from collections.abc import Iterator

from glassworks.config import registry
from glassworks.config.base import nearest
from glassworks.config.project import Project
from glassworks.config.weights import PUBLISHED, WheelWeights
from glassworks.errors import ConfigError
from glassworks.pipeline.data_stages import dataset_stages, features_stages, weights_stage
from glassworks.pipeline.experiment_stages import experiment_stages
from glassworks.pipeline.stage import Stage, inputs_first


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
    made = [stage for name in inputs_first(datasets) for stage in dataset_stages(project, name)]
    made += [weights_stage(project, name) for name in params.weights]
    made += features_stages(project)
    made += [stage for name in inputs_first(experiments) for stage in experiment_stages(project, name)]
    return [*made, _report_stage(project, made)]


def _has_rows(stage: Stage) -> bool:
    """Whether a stage writes rows of conversations or images that the report shows."""
    return stage.kind == "pack" and bool({"chat", "images"} & stage.params["rows"].keys())


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
        inputs={stage.name: stage.name for stage in made if stage.kind in shown or _has_rows(stage)},
        reads_recipes=True,
    )
