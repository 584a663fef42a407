"""Whatever ends the jobs of a training run, one Snakemake sees it through, to the bytes of an undisturbed local run."""

import shutil

import pytest

from .conftest import Run, ask, use_cluster, wait_for

pytestmark = pytest.mark.cluster


def preempt(run: Run) -> None:
    """By a job that comes first and needs the whole node."""
    ask("sbatch", "-p", "urgent", "-w", run.fact("NodeList"), "--gres", "gpu:4", "-o", "/dev/null", "--wrap", "sleep 3")


def reach_the_time_limit(run: Run) -> None:
    """SLURM looks at limits twice a minute; the job's next life has the old one again."""
    limit = run.fact("TimeLimit")
    ask("scontrol", "update", f"JobId={run.job}", "TimeLimit=1")
    wait_for(lambda: run.fact("JobState") != "RUNNING")
    ask("scontrol", "update", f"JobId={run.job}", f"TimeLimit={limit}")


def requeue(run: Run) -> None:
    ask("scontrol", "requeue", run.job)


def lose_the_node(run: Run) -> None:
    """Draining lets the job go on; when the node goes down, another one runs it."""
    node = run.fact("NodeList")
    ask("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=a test")
    run.wait_for_steps(2)
    assert run.fact("JobState") == "RUNNING"
    ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=a test")
    wait_for(lambda: run.fact("JobState") == "RUNNING" and run.fact("NodeList") != node)
    ask("scontrol", "update", f"NodeName={node}", "State=RESUME")


def test_one_run_whose_jobs_are_ended_again_and_again(training, together):
    use_cluster(training, slurm_partition="spot", slurm_extra="--open-mode=append --signal=TERM@30")
    run = Run(training, seconds=3)  # the limit comes after 60 s at most, when half of the 40 steps are left
    wanted = run.manifest.read_bytes()
    shutil.rmtree(run.manifest.parent)
    for number, disturb in enumerate((reach_the_time_limit, preempt, requeue, lose_the_node), start=1):
        run.wait_for_steps(2)
        disturb(run)
        wait_for(lambda restarts=str(number): run.fact("Restarts") == restarts)
    run.hurry()
    assert run.end() == 0, run.command.output
    assert run.command.output.count("has been submitted") == 1, "no retry was needed"
    assert run.job_log().count("continuing after step") == 4
    assert run.manifest.read_bytes() == wanted
