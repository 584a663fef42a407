"""What happens to the Snakemake on the login node: Ctrl-C, and what it refuses before the first job."""

import shutil
import signal

import pytest

from ..faults.commands import newest_step
from .conftest import Run, use_cluster, wait_for

pytestmark = pytest.mark.cluster


def test_ctrl_c_cancels_the_jobs(training, together):
    shutil.rmtree(training.root / "models/tiny")
    run = Run(use_cluster(training))
    run.wait_for_steps()
    run.command.send_to_all(signal.SIGINT)
    assert run.end() != 0
    wait_for(lambda: run.fact("JobState") != "COMPLETING")
    assert (run.fact("JobState"), run.fact("Restarts")) == ("CANCELLED", "0")
    assert newest_step(training) >= 3


@pytest.mark.parametrize(
    ("path", "train", "code", "line"),
    [
        ("", {}, 2, "sbatch is not on the PATH; run this on a login node of the cluster, or without the SLURM profile"),
        (None, {"slurm_partition": "gpus"}, 2, "rule train asks for partition 'gpus', which sinfo does not show; did you mean 'gpu'?"),
        (None, {"gres": "", "gpu": 2, "nodes": 2}, 2, "rule train asks for gpu: 2 on 2 nodes, which SLURM takes for the whole job; use gres: gpu:NUMBER, which is for each node"),
        (None, {"gres": "gpu:5"}, 2, "rule train asks for 5 GPUs; a node of partition gpu has 4"),
        (None, {"runtime": 241}, 2, "rule train asks for up to 241 minutes; partition gpu allows 240"),
    ],
)  # fmt: skip
def test_what_the_cluster_would_never_run_is_one_line(training, tmp_path, together, path, train, code, line):
    shutil.rmtree(training.root / "models/tiny")
    use_cluster(training, **train)
    if path is not None:
        for program in ("bash", "env", "git", "which"):
            (tmp_path / program).symlink_to(shutil.which(program))
        training.environment["PATH"] = f"{training.environment['PATH'].split(':')[0]}:{tmp_path}"
    run = training.command("snakemake", "all", succeeds=False)
    assert run.returncode == code
    assert run.stdout.splitlines()[-1] == f"error: {line}"
    assert "has been submitted" not in run.stdout
