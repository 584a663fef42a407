"""One stage of the graph, and what it asks of a scheduler."""

from dataclasses import dataclass, field
from typing import Any

from glassworks.config.training import Execution

PACKAGE = "src/glassworks"


@dataclass(frozen=True)
class Resources:
    """What a stage asks of a scheduler."""

    threads: int = 1
    mem_mb: int = 2000
    runtime: int = 30
    """Minutes."""
    nodes: int = 1
    """Machines, each with so many threads and so much memory."""
    gpus: int = 0
    """GPUs of a node that the stage asks SLURM for, unless the profile says otherwise."""


def stage_name(kind: str, subject: str = "", part: str = "") -> str:
    """The name of a stage: `train-caption_scenes`, `evaluate-caption_scenes-captions`, `report`."""
    return "-".join(filter(None, (kind, subject, part)))


@dataclass(frozen=True)
class Stage:
    """One stage: a directory that is a pure function of its inputs, parameters and code."""

    kind: str
    """What it does: fetch, records, shards, weights, tokenizer, train, evaluate, report. Also its verb on the command line and its Snakemake rule."""
    subject: str
    """The dataset or the experiment that it is for; empty for the report."""
    directory: str
    """Where its artefact stands, relative to the project."""
    entries: tuple[str, ...]
    """Modules that it runs, such as `stages.train`; its source code is their import closure (`pipeline.closure`)."""
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
    part: str = ""
    """Which of several stages of this kind and subject: the name of an evaluation."""
    jobs: int = 0
    """Parallel jobs that prepare parts of it (shards); 0 for none."""
    resources: Resources = Resources()
    """What it asks of a scheduler."""
    execution: Execution | None = None
    """How a training is carried out; no part of its key."""

    @property
    def name(self) -> str:
        return stage_name(self.kind, self.subject, self.part)

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
