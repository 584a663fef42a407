"""The benchmarks run: nothing else calls them, so a change of the code would break them unseen."""

import ast
import importlib
import subprocess
import sys

import pytest

from .small_pipeline import REPOSITORY

BENCHMARKS = sorted((REPOSITORY / "benchmarks").glob("*.py"))
WITHOUT_DATA = {"decoding": (), "losses": (), "packing": (), "shards": (), "training": ("--part", "a", "--part", "b")}
"""Those that need no artefact, and their options."""


@pytest.mark.parametrize("file", BENCHMARKS, ids=[file.stem for file in BENCHMARKS])
def test_everything_that_a_benchmark_imports_from_the_package_exists(file):
    imports = [
        (node.module, [alias.name for alias in node.names])
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "glassworks"
    ]
    for module, names in imports:
        there = importlib.import_module(module)
        for name in names:
            assert hasattr(there, name) or importlib.util.find_spec(f"{module}.{name}"), f"{module}.{name}"
    assert imports or file.stem == "demo"


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_DATA)
def test_a_short_run_ends_with_parity(name):
    command = [sys.executable, REPOSITORY / "benchmarks" / f"{name}.py", "--quick", *WITHOUT_DATA[name]]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "parity: " in run.stdout
