"""The interface of the Snakefile to the stage table: input functions, resources and freshness.

This code runs while Snakemake parses and schedules; it runs no job.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from glassworks.artifacts.machine import available_cores, check_temporary_folder
from glassworks.config.project import load_project
from glassworks.errors import ConfigError, UserError
from glassworks.pipeline import slurm
from glassworks.pipeline.dvc import check_dvc, in_git, record
from glassworks.pipeline.execution import check_device
from glassworks.pipeline.freshness import drop_stale_locks, forget_manifests, sync
from glassworks.pipeline.job_lines import one_line_a_job
from glassworks.pipeline.stage import Stage, stage_name
from glassworks.pipeline.table import Table

SUBJECTS = ("encoder", "dataset", "experiment", "weights", "evaluation")
"""Wildcards whose values, in this order, form the name of a stage."""
SRUN = "srun --overlap --nodes {0} --ntasks-per-node 1 --cpus-per-task {1} "


WITHOUT_GIT = (
    "note: this folder is in no git repository. snakemake and glassworks work without one; "
    "dvc repro, dvc exp and dvc.lock need it: run `git init`"
)


class Pipeline:
    """The stage table for the Snakefile. Raises no `UserError`: prints the message and exits Snakemake with the exit code of the error."""

    def __init__(self, workflow: Any, config: dict[str, Any]) -> None:
        self.under_dvc, self.workflow = "DVC_STAGE" in os.environ, workflow
        if config:
            self._stop(
                2,
                "--config is not used here, DVC would not see it: edit params.yaml, or `dvc exp run --set-param KEY=VALUE`",
            )
        try:
            check_temporary_folder()
            if not Path("params.yaml").exists():
                raise ConfigError(
                    f"{Path.cwd()}: not the root of the project; `cd {workflow.basedir}` first, or add --directory {workflow.basedir}"
                )
            self.table = Table(load_project(Path.cwd()))
            if workflow.is_main_process:
                if self.under_dvc:
                    check_dvc(self.table)
                else:
                    if not in_git(self.table.project.root):
                        print(WITHOUT_GIT, file=sys.stderr)
                    self._lock = drop_stale_locks(self.table.project.root)
                sync(self.table)
        except UserError as error:
            self._stop(error.exit_code, str(error))
        if workflow.is_main_process:
            one_line_a_job(workflow.output_settings)
        _use_no_more_cores_than_there_are(workflow)
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.final_manifest = self.table["report"].manifest

    def choices(self, *kinds: str) -> str:
        """A regular expression that matches the subjects of all stages of these kinds."""
        return "|".join(sorted({stage.subject for stage in self.table if stage.kind in kinds})) or "(?!)"

    def evaluations(self) -> str:
        """A regular expression that matches the names of all evaluations."""
        return "|".join(sorted({stage.part for stage in self.table if stage.kind == "evaluate"})) or "(?!)"

    def inputs(self, kind: str) -> Callable[[Any], list[str]]:
        """Input function for a stage: its key file and the manifests of its input stages, never the large files."""

        def files(wildcards: Any) -> list[str]:
            stage = self._stage(kind, wildcards)
            return [stage.key_file, *(upstream.manifest for upstream in self.table.inputs(stage))]

        return files

    def jobs(self, kind: str) -> Callable[[Any], list[str]]:
        """Input function for a stage: the files that its parallel jobs write."""

        def files(wildcards: Any) -> list[str]:
            stage = self._stage(kind, wildcards)
            return [stage.job_file(job) for job in range(stage.jobs)]

        return files

    def threads(self, kind: str) -> Callable[[Any], int]:
        return lambda wildcards: self._stage(kind, wildcards).resources.threads

    def resources(self, kind: str) -> dict[str, Callable[..., Any]]:
        """Snakemake resources of a stage: memory, minutes and GPUs, and one task per node if SLURM runs it on several nodes.

        Each retry requests more memory and minutes. Training requests no more minutes, since it resumes from a checkpoint.
        """

        def asker(name: str) -> Callable[[Any, int], int]:
            grows = (kind, name) != ("train", "runtime")
            return lambda wildcards, attempt: (
                (attempt if grows else 1) * getattr(self._stage(kind, wildcards).resources, name)
            )

        def spread(value: Callable[[int], Any]) -> Callable[[Any], Any]:
            return lambda wildcards: value(nodes) if (nodes := self._nodes(kind, wildcards)) > 1 else None

        return {
            "mem_mb": asker("mem_mb"),
            "runtime": asker("runtime"),
            "nodes": spread(lambda nodes: nodes),
            "tasks": spread(lambda nodes: nodes),
            "tasks_per_gpu": spread(lambda nodes: 0),  # otherwise Snakemake's plugin uses `tasks`
            "mpi": spread(lambda nodes: "srun"),
            "gres": lambda wildcards: f"gpu:{gpus}" if (gpus := self._stage(kind, wildcards).resources.gpus) else None,
        }

    def launcher(self, kind: str) -> Callable[..., str]:
        """The `srun` prefix of the command of a stage that SLURM runs on several nodes; empty on one node."""

        def prefix(wildcards: Any, threads: int) -> str:
            nodes = self._nodes(kind, wildcards)
            return SRUN.format(nodes, threads) if nodes > 1 else ""

        return prefix

    def start(self) -> None:
        """Called before the first job. Exits with an error if this machine or the cluster can never run a job."""
        settings = self.workflow.dag_settings
        if settings.forceall or settings.forcetargets or settings.forcerun:
            forget_manifests(self.table)  # the user asks to run stages that may be fresh
        jobs = list(self.workflow.dag.needrun_jobs())
        made = {output for job in jobs for output in job.output}
        try:
            for stage in self.table:
                if stage.manifest in made:
                    check_device(stage)
            if self.workflow.non_local_exec:
                slurm.check(jobs)
        except UserError as error:
            self._stop(error.exit_code, str(error))

    def record(self) -> None:
        """Record the fresh stages in dvc.lock. Called after a run; does nothing if DVC started Snakemake, since DVC records the stages."""
        if self.under_dvc:
            return
        try:
            record(self.table)
        except UserError as error:
            print(f"warning: {error}", file=sys.stderr)

    def _stop(self, code: int, message: str) -> NoReturn:
        """Print the message and exit at once: Snakemake would wrap an exception in its own traceback."""
        for line in message.splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.stderr.flush()
        for folder in (self.workflow._snakemake_tmp_dir, self.workflow.sourcecache.runtime_cache):
            if folder is not None:
                folder.cleanup()
        os._exit(code)

    def _nodes(self, kind: str, wildcards: Any) -> int:
        """Nodes of a stage: more than one only under SLURM, in the main process or in a job that Snakemake submitted."""
        if self.workflow.is_main_process:
            to_slurm = self.workflow.non_local_exec and self.workflow.executor_plugin.name == "slurm"
        else:
            to_slurm = "SLURM_JOB_ID" in os.environ
        return self._stage(kind, wildcards).resources.nodes if to_slurm else 1

    def _stage(self, kind: str, wildcards: Any) -> Stage:
        return self.table[
            stage_name(kind, *(getattr(wildcards, name) for name in SUBJECTS if hasattr(wildcards, name)))
        ]


def _use_no_more_cores_than_there_are(workflow: Any) -> None:
    """Limit Snakemake to the available cores. With `--cores 8` on two cores, four concurrent trainings would each slow down more than fourfold."""
    granted, there = workflow.resource_settings.cores, available_cores()
    if granted and granted > there and not workflow.non_local_exec:
        workflow.register_resource("_cores", there)
