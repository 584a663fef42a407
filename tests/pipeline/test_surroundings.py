"""The folder for temporary files and the current folder: what is wrong with them is one line with the remedy, and nothing is left behind."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ..data.robustness import compare_row
from ..small_pipeline import BIN, REPOSITORY

FULL = 'mount -t tmpfs -o size=64k tmpfs "$TMPDIR" && head -c 65536 /dev/zero > "$TMPDIR/x"; exec "$@"'


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY / "src"), "HOME": str(folder)}
    return subprocess.run(
        command, cwd=folder, env={**known, **environment}, capture_output=True, text=True, check=False, timeout=120
    )


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "params.yaml").write_text("datasets: {d: {source: kjv}}\nexperiments: []\n")
    return root


@pytest.mark.parametrize("name", ["full", "missing", "not writable"])
def test_a_temporary_folder_that_takes_nothing_is_one_line(name, project, tmp_path, request):
    folder = {"full": tmp_path / "full", "missing": tmp_path / "gone", "not writable": Path("/sys")}[name]
    command = ["glassworks", "fetch", "d"]
    if name == "full":
        folder.mkdir()
        if shutil.which("unshare") is None or run(tmp_path, "unshare", "-rm", "true").returncode:
            pytest.skip("no mount namespaces here")
        command = ["unshare", "-rm", "sh", "-c", FULL, "sh", *command]
    done = run(project, *command, TMPDIR=str(folder))
    (line,) = errors(done)
    assert done.returncode == 6 and line.endswith("; run the same command with another folder: TMPDIR=FOLDER")
    assert [path.name for path in project.iterdir()] == ["params.yaml"]
    compare_row(request, 32, f"TMPDIR that is {name}", f"refused: {line[7:].replace(str(tmp_path), '')}")


def test_snakemake_names_the_temporary_folder_and_the_root_of_the_project(tmp_path, request):
    snakemake = ("snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--dry-run")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (tmp_path / "elsewhere").mkdir()
    done = run(tmp_path / "elsewhere", *snakemake, TMPDIR=str(temporary))
    (line,) = errors(done)
    assert done.returncode == 2 and list(temporary.iterdir()) == []
    assert line.endswith(f"`cd {REPOSITORY}` first, or add --directory {REPOSITORY}")
    shown = line[7:].replace(str(tmp_path), "").replace(str(REPOSITORY), "/project")
    compare_row(request, 32, "snakemake outside the root of the project", f"refused: {shown}")
    (line,) = errors(run(tmp_path / "elsewhere", *snakemake, TMPDIR=str(tmp_path / "gone")))
    assert "/gone: temporary files cannot be written there: there is no such folder; run the same command" in line


def test_glassworks_below_the_root_of_the_project_names_it(project, request):
    (project / "src").mkdir()
    done = run(project / "src", "glassworks", "fetch", "d")
    (line,) = errors(done)
    assert done.returncode == 2
    shown = line[7:].replace(str(project), "/project")
    compare_row(request, 32, "glassworks below the root of the project", f"refused: {shown}")
    assert shown == "/project/src: no params.yaml in this folder; `cd /project` first"
