"""Time profile of any stage but training: `glassworks profile STAGE`.

The stage runs again in a scratch folder, in this process, under cProfile. Nothing is published.
"""

import cProfile
import pstats
import shutil
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from glassworks.errors import ConfigError
from glassworks.pipeline.execution import Runner, check_inputs, rerun
from glassworks.pipeline.stage import Stage
from glassworks.pipeline.table import Table

SHOWN = 12
"""Rows of each table."""
IMPORT = ("<frozen importlib._bootstrap>", "_find_and_load")
PACKAGE = Path(__file__).resolve().parents[1]
PYTHON = "python"

Function = tuple[str, int, str]
"""File, line and name, as in `pstats`. The file of a built-in function is "~"."""


class Row(NamedTuple):
    """A row of a table."""

    name: str
    seconds: float


class StageProfile(NamedTuple):
    """Seconds of one run of a stage, all under cProfile, which slows Python code and leaves compiled code as it is."""

    stage: str
    seconds: float
    imports: float
    """Time spent in import statements. It is also part of the packages."""
    packages: list[Row]
    """Own time by package, longest first. Together they are `seconds`."""
    functions: list[Row]
    """Functions of this project by their time, that of the functions they call included."""


def profile_stage(table: Table, stage: Stage, runner: Callable[[], Runner]) -> StageProfile:
    """Run `stage` in scratch under cProfile, its imports (those of `runner`) included.

    Raises `ConfigError` for a training, which has a profile of its own, and `ArtifactError` if an input is not there.
    """
    if stage.kind == "train":
        raise ConfigError(f"{stage.name}: `glassworks train {stage.subject} --profile` shows the time of its steps")
    check_inputs(table, stage)
    scratch = table.project.root / ".work" / f"profile-{stage.name}"
    profiler = cProfile.Profile()
    try:
        profiler.runcall(lambda: rerun(table, stage, runner(), scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return summary(stage.name, pstats.Stats(profiler))


def summary(stage: str, stats: Any) -> StageProfile:
    """The tables of a profile."""
    packages: Counter[str] = Counter()
    functions: list[Row] = []
    imports = 0.0
    for function, (_, _, own, total, callers) in stats.stats.items():
        file, line, name = function
        if package := package_of(function):
            packages[package] += own
        else:  # such as list.append: the time of the package that calls it
            for caller, (_, _, part, _) in callers.items():
                packages[package_of(caller) or PYTHON] += part
        if (file, name) == IMPORT:
            imports = total
        elif name != "<module>" and file != __file__ and Path(file).is_relative_to(PACKAGE):
            functions.append(Row(f"{Path(file).relative_to(PACKAGE)}:{line} {name}", total))
    ranked = [Row(*item) for item in packages.most_common()]
    return StageProfile(stage, stats.total_tt, imports, ranked, sorted(functions, key=lambda row: -row.seconds))


def package_of(function: Function) -> str | None:
    """The package that a function belongs to: a folder of this project, an installed package or Python. None for a method of a built-in type."""
    file, _, name = function
    if file == "~":
        module = name.removeprefix("<built-in method ").split(".")[0] if "." in name else ""
        if not name.startswith("<built-in method ") or module == "builtins":
            return None
        return PYTHON if module in sys.stdlib_module_names else module.lstrip("_")
    path = Path(file)
    if path.is_relative_to(PACKAGE):
        return f"glassworks.{path.relative_to(PACKAGE).parts[0].removesuffix('.py')}"
    for folder in ("purelib", "platlib"):
        if path.is_relative_to(sysconfig.get_path(folder)):
            return path.relative_to(sysconfig.get_path(folder)).parts[0].removesuffix(".py")
    return PYTHON


def lines(found: StageProfile) -> list[str]:
    """The profile as text."""

    def rows(title: str, some: list[Row]) -> list[str]:
        return [
            f"seconds  share  {title}",
            *(f"{row.seconds:7.2f} {row.seconds / found.seconds:6.1%}  {row.name}" for row in some[:SHOWN]),
        ]

    head = f"{found.stage}: {found.seconds:.1f} s in one process, {found.imports:.1f} s of it imports; cProfile slows Python code; nothing is published"
    return [
        head,
        "",
        *rows("package (own time)", found.packages),
        "",
        *rows("function, with all it calls", found.functions),
    ]
