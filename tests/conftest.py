"""Fixtures shared by all tests: a small project whose stages run in this process, and (small_pipeline.py) one that the real tools run."""

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
import yaml
from typer.testing import CliRunner

from glassworks.cli.app import app
from glassworks.cli.running import OPTIMIZERS, runner
from glassworks.config.project import load_project
from glassworks.errors import UserError
from glassworks.pipeline.execution import Context, execute, execute_job
from glassworks.pipeline.table import Table
from glassworks.runtime import fork_server

from .small_pipeline import REPOSITORY, built, empty_repository, repository

# for the processes that tests start
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each command would compile the package anew
torch.set_num_threads(1)  # with more test processes than cores, threads wait for each other at every operation

hypothesis.settings.register_profile("patient", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("patient")
fork_server.PRELOADED += ["tests.training.engine", "tests.training.pictures", OPTIMIZERS]  # or each worker imports them

__all__ = ["built", "empty_repository", "repository"]


class SmallProject:
    """A project folder without code of its own: `source code` is this repository's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "src").symlink_to(REPOSITORY / "src")
        (root / "experiments").mkdir()

    def configure(self, params: dict[str, Any], **experiments: dict[str, Any]) -> Table:
        (self.root / "params.yaml").write_text(yaml.safe_dump({"experiments": list(experiments), **params}))
        for name, experiment in experiments.items():
            (self.root / "experiments" / f"{name}.yaml").write_text(yaml.safe_dump(experiment))
        return self.table

    @property
    def table(self) -> Table:
        return Table(load_project(self.root))

    def copy(self, root: Path) -> "SmallProject":
        """The same project in another folder, without what stages left in `.work`."""
        shutil.copytree(self.root, root, symlinks=True, ignore=shutil.ignore_patterns(".work"))
        found = object.__new__(SmallProject)
        found.root = root
        return found

    def run(self, name: str, threads: int = 1, workers: int | None = None) -> Path:
        """Run a stage as the command line does; returns its artefact."""
        stage = self.table[name]
        return execute(self.table, stage, runner(stage.kind), threads, workers)

    def run_job(self, name: str, job: int) -> None:
        stage = self.table[name]
        execute_job(self.table, stage, job, runner(stage.kind, "run_job"))

    def context(self, name: str, work: Path) -> Context:
        """The context of a stage, for calling parts of it directly."""
        stage, table = self.table[name], self.table
        inputs = {role: self.root / table[other].directory for role, other in stage.inputs.items()}
        output = work / "output"
        output.mkdir(parents=True)
        return Context(table.project.root, stage, inputs, work, output)


@pytest.fixture
def project(tmp_path: Path) -> SmallProject:
    return SmallProject(tmp_path)


@pytest.fixture
def write_image() -> Callable[..., None]:
    """Writes a small image with a pattern that depends on `seed`."""

    def write(path: Path, size: tuple[int, int] = (48, 32), seed: int = 0) -> None:
        import numpy as np
        from PIL import Image

        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    return write


@pytest.fixture
def glassworks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Calls the command line; returns what it prints. An error of the user is printed as `error: …`."""
    for name in ("CUBLAS_WORKSPACE_CONFIG", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))  # the commands set them for good

    def call(*arguments: object) -> str:
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if isinstance(done.exception, UserError):
            return f"{done.stdout}error: {done.exception}"
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output

    return call


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-docs", action="store_true", help="write what tests make of docs/: tables, outputs, pictures"
    )


TABLES = {
    "exactness": ("task", "precision", "workers", "loader processes", "uninterrupted", "killed and resumed"),
    "gpu": ("run", "card", "workers", "uninterrupted", "killed and resumed", "peak memory"),
    "parity": ("model", "source of the weights", "what was compared", "largest relative difference"),
    "exports": ("model", "program", "what was compared", "equal"),
    "instruction": ("adapter", "rows x micro-batches", "workers", "uninterrupted", "killed and resumed"),
    "packing": ("what was packed", "implementation", "relative difference of the loss", "largest of a gradient"),
}


@pytest.fixture
def record_row(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Collects rows of a table; with --write-docs they replace those of its task and precision in TABLE.md, in a folder of docs/."""
    rows: list[tuple[str, ...]] = []

    def record(table: str, *cells: Any) -> None:
        rows.append((table, *map(str, cells)))

    yield record
    if request.config.getoption("--write-docs"):
        for table, group in itertools.groupby(rows, key=lambda row: row[0]):
            [file] = (REPOSITORY / "docs").glob(f"*/{table}.md")
            write_table(file, TABLES[table], [row[1:] for row in group])


def write_table(file: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Put rows into the file's table in place of those with the same first two cells, or at its end."""
    lines = file.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {header[0]} |")) + 2
    end = next((number for number in range(start, len(lines)) if not lines[number].startswith("|")), len(lines))
    mine = {row[:2] for row in rows}
    kept = [line for line in lines[start:end] if tuple(line.strip("| ").split(" | ")[:2]) not in mine]
    table = sorted([*kept, *(f"| {' | '.join(row)} |" for row in rows)])
    file.write_text("\n".join([*lines[:start], *table, *lines[end:]]) + "\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the files with most of the time, set-up and tear-down included."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    if len(seconds) > 1:
        total = sum(seconds.values())
        terminalreporter.section(f"slowest files of {len(seconds)}: {total:,.0f} s in all")
        for file, some in seconds.most_common(20):
            terminalreporter.write_line(f"{some:7.1f} s  {some / total:5.1%}  {file}")
