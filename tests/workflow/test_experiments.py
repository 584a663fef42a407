"""DVC's experiments on the same graph: with other values, in the workspace or in a queue, and either entrance has nothing to do afterwards."""

import csv
import io
import re
import time

import pytest

from ..small_pipeline import Repository
from .test_two_entrances import DOWNSTREAM

STEPS = "experiments/tiny.yaml:training.steps=6"
RESAMPLES = "experiments/tiny.yaml:evaluations.captions.bootstrap=200"


def ran(output: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", output))


def shown(repository: Repository) -> dict[str, dict[str, str]]:
    """The rows of `dvc exp show` by the name of the experiment."""
    table = repository.command("dvc", "exp", "show", "--csv", "--only-changed").stdout
    return {row["Experiment"] or row["rev"]: row for row in csv.DictReader(io.StringIO(table))}


@pytest.mark.slow
def test_an_experiment_in_the_workspace_is_shown_beside_its_baseline(repository):
    output = repository.command("dvc", "exp", "run", "--name", "longer", "--set-param", STEPS).stdout
    assert ran(output) == DOWNSTREAM["train-tiny"]
    assert repository.pending() == set()
    rows = shown(repository)
    assert (rows["longer"]["training.steps"], rows["main"]["training.steps"]) == ("6", "4")
    assert rows["longer"]["perplexity.value"] != rows["main"]["perplexity.value"]
    assert "perplexity.value" in repository.command("dvc", "metrics", "diff", "main", "longer").stdout
    repository.command("dvc", "plots", "diff", "main", "longer", "--out", "curves")
    page = (repository.root / "curves/index.html").read_text()
    assert "loss of tiny" in page and '"rev": "main"' in page and '"rev": "longer"' in page


@pytest.mark.slow
def test_a_queued_experiment_runs_in_a_folder_of_its_own_and_can_be_applied(repository):
    before = repository.manifests()
    repository.command("dvc", "exp", "run", "--queue", "--name", "queued", "--set-param", RESAMPLES)
    repository.command("dvc", "queue", "start")
    end = time.monotonic() + 300
    while re.search(r"queued .*(Queued|Running)", repository.command("dvc", "queue", "status").stdout):
        assert time.monotonic() < end
    output = repository.command("dvc", "queue", "logs", "queued").stdout
    assert ran(output) == DOWNSTREAM["evaluate-tiny-captions"]
    assert ".dvc/tmp/exps" in output
    assert repository.manifests() == before
    repository.command("dvc", "exp", "apply", "queued")
    assert repository.manifests() != before
    assert repository.pending() == set() and repository.dvc_is_clean()


def test_what_snakemake_ran_becomes_an_experiment_without_running_again(repository):
    repository.edit("experiments/tiny.yaml", lambda e: e["evaluations"]["captions"].update(bootstrap=200))
    assert repository.snakemake("all") == DOWNSTREAM["evaluate-tiny-captions"]
    assert ran(repository.command("dvc", "exp", "run", "--name", "by_snakemake").stdout) == set()
    assert shown(repository)["by_snakemake"]["evaluations.captions.bootstrap"] == "200"
