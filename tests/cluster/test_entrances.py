"""The two entrances on a cluster: the bytes of a local run, and jobs that ask for what the profile and the stage table say."""

import re
import shutil
from pathlib import Path

import pytest

from ..faults.commands import Command
from ..small_pipeline import Repository, create
from .conftest import ask, use_cluster

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def entrances(tmp_path_factory: pytest.TempPathFactory, together: None) -> dict[str, Repository]:
    """Two empty repositories, after `snakemake all` and after `dvc repro`, at the same time."""
    folder = tmp_path_factory.mktemp("entrances")
    repositories = {"snakemake": use_cluster(create(folder / "snakemake"))}
    shutil.copytree(folder / "snakemake", folder / "dvc", symlinks=True)
    repositories["dvc"] = use_cluster(Repository(folder / "dvc"))
    commands = [Command(repositories["snakemake"], "snakemake", "all"), Command(repositories["dvc"], "dvc", "repro")]
    for command in commands:
        assert command.process.wait(400) == 0, command.output
    return repositories


@pytest.mark.parametrize("entrance", ["snakemake", "dvc"])
def test_a_cluster_makes_the_bytes_of_a_local_run_and_leaves_nothing_to_do(entrances, entrance, built):
    repository = entrances[entrance]
    assert repository.manifests() == Repository(built).manifests()
    assert repository.pending() == set()
    assert "Nothing to be done" in repository.command("snakemake", "all").stdout
    assert repository.repro() == set()


def test_jobs_ask_for_what_the_profile_and_the_stage_table_say(entrances):
    asked = {rule: job(entrances["snakemake"].root, rule) for rule in ("fetch", "shards_job", "train", "evaluate")}
    assert asked == {
        "fetch": ("COMPLETED", "cpu", "1", "2000M", "00:30:00", None),
        "shards_job": ("COMPLETED", "cpu", "1", "2000M", "00:30:00", None),
        "train": ("COMPLETED", "gpu", "2", "6000M", "04:00:00", "gres:gpu:1"),
        "evaluate": ("COMPLETED", "cpu", "2", "4000M", "01:00:00", None),
    }


def job(root: Path, rule: str) -> tuple[str | None, ...]:
    """What SLURM knows of a rule's job, whose number the name of its log has."""
    log = next(root.glob(f".snakemake/slurm_logs/rule_{rule}/**/*.log"))
    known = ask("scontrol", "show", "job", log.stem)
    names = ("JobState", "Partition", "NumCPUs", "MinMemoryNode", "TimeLimit", "TresPerNode")
    return tuple(found[1] if (found := re.search(rf"\b{name}=(\S+)", known)) else None for name in names)
