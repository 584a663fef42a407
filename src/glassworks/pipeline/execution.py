"""Runs one stage: work directory, lock, atomic publication, recipe, provenance.

Each kind of stage is a function `run(context) -> counts` in another module. The function reads `context.inputs`, keeps unfinished work in
`context.work` and fills `context.output`. Everything common to all stages is here.
"""

import fcntl
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from glassworks.artifacts import attempts
from glassworks.artifacts.digests import disk_errors, write_json
from glassworks.artifacts.machine import NodeRank, node_rank
from glassworks.artifacts.manifest import MANIFEST, await_files
from glassworks.artifacts.provenance import Provenance, fingerprint
from glassworks.artifacts.publication import publish, seal
from glassworks.errors import ArtifactError, ConfigError
from glassworks.pipeline.freshness import Ingredients, Keys
from glassworks.pipeline.stage import Stage
from glassworks.pipeline.table import Table


@dataclass(frozen=True)
class Context:
    """Arguments of a stage's `run` function."""

    root: Path
    """The project folder."""
    stage: Stage
    inputs: dict[str, Path]
    """Directories of the input artefacts, by role."""
    work: Path
    """Directory for unfinished work. It survives a kill: the next run of the stage with the same key gets the same directory."""
    output: Path
    """Empty directory to fill. It becomes the artefact."""
    threads: int = 1
    """Cores granted by the scheduler."""
    workers: int | None = None
    """Training processes per node, as given by the user; None uses all granted cores or devices."""
    node: NodeRank = field(default_factory=NodeRank)
    """Rank of this node, and the number of nodes."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Output for the provenance, never for the artefact: timings, resumed steps."""
    fingerprint: dict[str, Any] = field(default_factory=dict)
    """Output for the fingerprint: stage-specific facts that may change bytes, such as device and reduction."""

    @property
    def params(self) -> dict[str, Any]:
        return self.stage.params

    @property
    def local_path(self) -> Path:
        """The user's folder that the stage reads."""
        assert self.stage.local_path is not None
        return self.root / self.stage.local_path


Runner = Callable[[Context], dict[str, Any]]


def execute(table: Table, stage: Stage, run: Runner, threads: int = 1, workers: int | None = None) -> Path:
    """Run `stage` and publish its artefact; returns the directory of the artefact.

    On nodes other than the first, only calls `run`, which must exit the process.
    """
    if not _place(stage).first:
        _take_part(table, stage, run, threads, workers)
    with _opened(table, stage, threads, workers) as (context, ingredients, provenance):
        attempts.begin(context.work)
        target = table.project.root / stage.directory
        _produce(table, context, run, ingredients)
        publish(context.output, target, context.work / "replaced")
        earlier = [asdict(attempt) for attempt in attempts.read_attempts(context.work)]
        note = {**provenance.as_json(), **context.notes, "key": ingredients.key, "attempts": earlier}
        folder = table.project.root / "provenance"
        folder.mkdir(exist_ok=True)
        write_json(folder / f"{stage.name}.json", note)
        _remove_work(table, stage)
    return target


def skip(table: Table, stage: Stage, job: int | None) -> None:
    """End a stage, or one of its jobs, whose artefact is fresh: a job writes its file, the stage removes the files of its jobs."""
    if job is None:
        _remove_work(table, stage)
    else:
        _write_job_file(table, stage, job, {"unchanged": True})


def execute_job(
    table: Table, stage: Stage, job: int, run: Callable[[Context, int], dict[str, Any]], threads: int = 1
) -> None:
    """Run parallel job number `job` of a stage in the stage's work directory, where `execute` collects it. Writes `stage.job_file(job)`."""
    with _opened(table, stage, threads, lock=f"{stage.name}-{job}") as (context, ingredients, _):
        _write_job_file(table, stage, job, {"key": ingredients.key, **run(context, job)})


def _remove_work(table: Table, stage: Stage) -> None:
    for leftover in work_directories(table.project.root, stage):
        shutil.rmtree(leftover, ignore_errors=True)


def _write_job_file(table: Table, stage: Stage, job: int, content: dict[str, Any]) -> None:
    file = table.project.root / stage.job_file(job)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, content)


def rerun(table: Table, stage: Stage, run: Runner, scratch: Path, threads: int = 1) -> Path:
    """Run `stage` again from scratch in `scratch`; returns the sealed directory. The published artefact is not touched."""
    shutil.rmtree(scratch, ignore_errors=True)
    ingredients = Keys(table).ingredients(stage)
    context = _context(table, stage, scratch, threads)
    scratch.mkdir(parents=True)
    _produce(table, context, run, ingredients)
    return context.output


def check_inputs(table: Table, stage: Stage) -> None:
    """Raise `ArtifactError` unless every input of a stage exists and its files are visible on this machine."""
    root = table.project.root
    for upstream in table.inputs(stage):
        if not (root / upstream.directory / MANIFEST).is_file():
            raise ArtifactError(
                f"{stage.name} needs {upstream.manifest}, which is not there; run `snakemake {stage.manifest}`"
            )
        await_files(root / upstream.directory)


def check_device(stage: Stage) -> None:
    """Raise `ConfigError` for a stage on `mps` where there can be none, without the import of torch. The stage itself asks torch."""
    devices = {
        "determinism.device": stage.params.get("device"),
        f"evaluations.{stage.part}.device": stage.params.get("evaluation", {}).get("device"),
    }
    for key, device in devices.items():
        if device == "mps" and sys.platform != "darwin":
            raise ConfigError(f"{stage.name}: {key}: mps is for Apple's computers; use auto, cpu or cuda")


def work_directories(root: Path, stage: Stage) -> list[Path]:
    """The work directories of a stage for all keys, and the folder of its job files."""
    hexadecimal = "[0-9a-f]" * 16
    return [*(root / ".work").glob(f"{stage.name}-{hexadecimal}"), *(root / ".work").glob(stage.name)]


def recipe(table: Table, stage: Stage, ingredients: Ingredients, **more: Any) -> dict[str, Any]:
    """The recipe of an artefact: parameters, code, inputs, fingerprint. Two identical runs have equal recipes."""
    return {
        "stage": stage.name,
        "key": ingredients.key,
        "params": stage.params,
        "code": ingredients.code,
        "inputs": ingredients.inputs,
        "fingerprint": {**fingerprint(table.project.params.determinism.cpu_isa), **more},
    }


def _take_part(table: Table, stage: Stage, run: Runner, threads: int, workers: int | None) -> NoReturn:
    """Run the stage on a node other than the first, without lock and publication, which belong to the first node."""
    check_inputs(table, stage)
    run(_context(table, stage, _work_directory(table, stage, Keys(table).ingredients(stage)), threads, workers))
    raise AssertionError(f"{stage.name} went on where only its first node should")


@contextmanager
def _opened(
    table: Table, stage: Stage, threads: int, workers: int | None = None, lock: str | None = None
) -> Iterator[tuple[Context, Ingredients, Provenance]]:
    root = table.project.root
    check_inputs(table, stage)
    provenance, ingredients = Provenance(root, stage.name), Keys(table).ingredients(stage)
    work = _work_directory(table, stage, ingredients)
    work.mkdir(parents=True, exist_ok=True)
    with (root / ".work" / f"{lock or stage.name}.lock").open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtifactError(f"{stage.name} is being run by another process here; wait for it to end") from None
        attempts.hold(held)
        try:
            with disk_errors(work):
                yield _context(table, stage, work, threads, workers), ingredients, provenance
        finally:
            attempts.release(held)


def _context(table: Table, stage: Stage, work: Path, threads: int, workers: int | None = None) -> Context:
    inputs = {role: table.project.root / table[name].directory for role, name in stage.inputs.items()}
    return Context(table.project.root, stage, inputs, work, work / "output", threads, workers, _place(stage))


def _work_directory(table: Table, stage: Stage, ingredients: Ingredients) -> Path:
    return table.project.root / ".work" / f"{stage.name}-{ingredients.key[:16]}"


def _place(stage: Stage) -> NodeRank:
    """The rank of this node for `stage`. A single-node stage may run on the first of several nodes."""
    here, nodes = node_rank(), stage.resources.nodes
    if here.nodes in (1, nodes):
        return here
    if nodes == 1 and here.first:
        return NodeRank()
    raise ConfigError(
        f"{stage.name} runs on {nodes} nodes, but srun started it on {here.nodes}; execution.nodes of its experiment says on how many"
    )


def _produce(table: Table, context: Context, run: Runner, ingredients: Ingredients) -> None:
    shutil.rmtree(context.output, ignore_errors=True)
    context.output.mkdir(parents=True)
    counts = run(context)
    made = recipe(table, context.stage, ingredients, **context.fingerprint)
    seal(context.output, counts, made)
