"""A stage of the pipeline, and the resources it requests from a scheduler."""

from dataclasses import dataclass, field
from typing import Any

from glassworks.config.datasets import Downloads
from glassworks.config.training import Execution

PACKAGE = "src/glassworks"


@dataclass(frozen=True)
class Resources:
    """Resources that a stage requests from a scheduler."""

    threads: int = 1
    mem_mb: int = 2000
    runtime: int = 30
    """Minutes."""
    nodes: int = 1
    """Number of nodes; `threads`, `mem_mb` and `gpus` are per node."""
    gpus: int = 0
    """GPUs per node requested from SLURM, unless the profile overrides it."""


def stage_name(kind: str, subject: str = "", part: str = "") -> str:
    """The name of a stage, such as `train-caption_scenes`, `evaluate-caption_scenes-captions` or `report`."""
    return "-".join(filter(None, (kind, subject, part)))


@dataclass(frozen=True)
class Stage:
    """A stage: it makes a directory that is a pure function of its inputs, parameters and code."""

    kind: str
    """fetch, records, shards, weights, features, tokenizer, pack, train, evaluate or report. Also the name of the command and of the Snakemake rule."""
    subject: str
    """Name of the dataset, weights, encoder or experiment; empty for the report."""
    directory: str
    """Directory of the artefact, relative to the project."""
    entries: tuple[str, ...]
    """Entry modules, such as `stages.train`. Their import closure is the source code of the stage (`pipeline.closure`)."""
    params: dict[str, Any]
    """Resolved parameters, including defaults."""
    settings: dict[str, tuple[str, ...]]
    """Origin of the parameters: for each YAML file, the key paths that DVC watches."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Names of the input stages, by role."""
    reads_recipes: bool = False
    """Whether the stage also reads recipe.json of its inputs."""
    local_path: str | None = None
    """The user's folder that the stage reads, if any."""
    part: str = ""
    """Name of the evaluation, or of the dataset of features; distinguishes stages of the same kind and subject."""
    jobs: int = 0
    """Number of parallel jobs that prepare parts of the artefact (shards, features, pack); 0 for none."""
    resources: Resources = Resources()
    """Resources requested from a scheduler."""
    execution: Execution | None = None
    """Execution settings of a training stage; not in its key."""
    downloads: Downloads | None = None
    """How a stage that fetches images downloads them; not in its key."""

    @property
    def name(self) -> str:
        return stage_name(self.kind, self.subject, self.part)

    @property
    def manifest(self) -> str:
        return f"{self.directory}/manifest.json"

    def small_files(self, with_recipe: bool) -> list[str]:
        """The manifest, and optionally the recipe; never tars or weights."""
        return [self.manifest, f"{self.directory}/recipe.json"] if with_recipe else [self.manifest]

    @property
    def key_file(self) -> str:
        return f".work/keys/{self.name}.json"

    @property
    def kept_manifest(self) -> str:
        """The copy of the manifest of a stale stage, with the key of its artefact."""
        return f".work/kept/{self.name}.json"

    def job_file(self, job: int) -> str:
        """The file that job number `job` of the stage writes when it is done."""
        return f".work/{self.name}/job-{job:05d}.json"


def inputs_first(reads: dict[str, list[str]]) -> list[str]:
    """The names in topological order. `reads` maps each name to the names of its inputs."""
    order: list[str] = []

    def add(name: str) -> None:
        if name in reads and name not in order:
            for other in reads[name]:
                add(other)
            order.append(name)

    for name in reads:
        add(name)
    return order
