"""A device that this machine cannot have is refused before any work: by the workflow before its first job, by a stage before torch is imported."""

import subprocess
import sys

import pytest

from glassworks.errors import ConfigError
from glassworks.pipeline.execution import check_device

MPS = "mps is for Apple's computers; use auto, cpu or cuda"
PARAMS = {
    "datasets": {"boards": {"source": "sudoku", "samples": {"train": 24, "validation": 6, "test": 10}}},
    "determinism": {"device": "mps"},
}
EXPERIMENT = {
    "task": "puzzles",
    "data": {"dataset": "boards"},
    "model": {"width": 8, "heads": 2, "inner": 16},
    "training": {"steps": 4, "batch_size": 8, "micro_batches": 2},
    "evaluations": {"boards": {"device": "mps"}},
}


@pytest.mark.parametrize(
    ("stage", "key"),
    [("train-solver", "determinism.device"), ("evaluate-solver-boards", "evaluations.boards.device")],
)
def test_mps_is_refused_where_there_can_be_none(project, monkeypatch, stage, key):
    table = project.configure(PARAMS, solver=EXPERIMENT)
    monkeypatch.setattr(sys, "platform", "darwin")
    check_device(table[stage])
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(ConfigError, match=f"^{stage}: {key}: {MPS}$"):
        check_device(table[stage])
    check_device(table["shards-boards"])


@pytest.mark.skipif(sys.platform == "darwin", reason="mps may be there")
def test_the_workflow_refuses_mps_before_its_first_job(project):
    project.configure(PARAMS, solver=EXPERIMENT)
    for name in ("Snakefile", "workflow", "profiles"):
        (project.root / name).symlink_to(project.root.joinpath("src").resolve().parent / name)
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "all"]
    ended = subprocess.run(command, cwd=project.root, capture_output=True, text=True)
    assert ended.returncode == 2
    assert f"error: train-solver: determinism.device: {MPS}\n" in ended.stderr
    assert not (project.root / "data").exists()
