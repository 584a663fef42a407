"""Killed, interrupted, out of space: no half-made artefact, one clear line, and the next run ends with the same bytes."""

import os
import random
import resource
import shutil
import signal
import subprocess
import time

import pytest

from ..small_pipeline import DIRECTORIES, STAGES, Repository

COMMANDS = {
    "fetch-pictures": ["fetch", "pictures"],
    "records-pictures": ["records", "pictures"],
    "shards-pictures": ["shards", "pictures"],
    "tokenizer-tiny": ["tokenizer", "tiny"],
    "train-tiny": ["train", "tiny"],
    "evaluate-tiny": ["evaluate", "tiny"],
    "report": ["report"],
}


def start(repository: Repository, *command: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        command,
        cwd=repository.root,
        env=repository.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    )


def seconds_of(repository: Repository, *command: str) -> float:
    before = time.monotonic()
    repository.command(*command)
    return time.monotonic() - before


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_leaves_no_half_made_artefact(repository, stage):
    directory = repository.root / DIRECTORIES[stage]
    command = ["glassworks", *COMMANDS[stage]]
    wanted = (directory / "manifest.json").read_bytes()
    duration = seconds_of(repository, *command)
    draw = random.Random(stage)
    for share in (draw.uniform(0.3, 0.95), draw.uniform(0.6, 1.0)):
        shutil.rmtree(directory, ignore_errors=True)
        process = start(repository, *command)
        time.sleep(share * duration)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        if process.returncode == 0:  # it was done before the signal came
            assert (directory / "manifest.json").read_bytes() == wanted
            continue
        assert process.returncode in (130, -signal.SIGINT), output  # the latter while Python itself was still starting
        assert not directory.exists() or (directory / "manifest.json").read_bytes() == wanted
        if process.returncode == 130:
            assert output.strip().splitlines()[-1] == "interrupted; the same command continues where it can"
            assert "Traceback" not in output
    repository.command(*command)
    assert (directory / "manifest.json").read_bytes() == wanted


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_clear_line(repository, stage):
    """The limit on the size of a file stands in for the disk: the kernel refuses the write in the same place."""
    directory = repository.root / DIRECTORIES[stage]
    wanted = (directory / "manifest.json").read_bytes()
    largest = max(path.stat().st_size for path in directory.iterdir() if path.is_file())
    shutil.rmtree(directory)
    limit = largest // 2
    process = start(
        repository,
        "glassworks",
        *COMMANDS[stage],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 6, output
    assert "free some space and run the same command again" in output
    assert "Traceback" not in output
    assert not directory.exists()
    repository.command("glassworks", *COMMANDS[stage])
    assert (directory / "manifest.json").read_bytes() == wanted


def test_killed_training_resumes_to_the_same_bytes(repository):
    repository.edit("experiments/tiny.yaml", lambda e: e["training"].update(steps=150))
    repository.command("glassworks", "train", "tiny")
    wanted = (repository.root / "models/tiny/manifest.json").read_bytes()
    draw, resumed = random.Random(0), 0
    shutil.rmtree(repository.root / "models")
    for _ in range(4):  # each time it gets a little further, is killed, and goes on
        seen = set(checkpoints(repository))
        process = start(repository, "glassworks", "train", "tiny")
        while process.poll() is None and len(set(checkpoints(repository)) - seen) < 1:
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        resumed += "continuing after step" in output
    assert resumed >= 2, "no kill hit the training itself"
    assert "continuing after step" in repository.command("glassworks", "train", "tiny").stdout
    assert (repository.root / "models/tiny/manifest.json").read_bytes() == wanted


def checkpoints(repository: Repository) -> list[str]:
    return [path.name for path in (repository.root / ".work").glob("train-tiny-*/checkpoints/step-*")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_polite_signal_saves_and_ends_with_the_code_that_is_retried(repository, number):
    wanted = (repository.root / "models/tiny/manifest.json").read_bytes()
    repository.edit("experiments/tiny.yaml", lambda e: e["execution"].update(checkpoint_every=100_000))
    repository.edit("experiments/tiny.yaml", lambda e: e["training"].update(steps=3000))
    process = start(repository, "glassworks", "train", "tiny")
    metrics = lambda: list((repository.root / ".work").glob("train-tiny-*/metrics.jsonl"))  # noqa: E731
    while not metrics() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert f"{number.name}: saved after step" in output
    assert list((repository.root / ".work").glob("train-tiny-*/checkpoints/step-*"))
    assert (repository.root / "models/tiny/manifest.json").read_bytes() == wanted  # what was published before stays


def test_snakemake_killed_as_a_whole_goes_on_without_being_told(repository):
    before = repository.manifests()
    for folder in ("data/shards", "models", "results"):
        shutil.rmtree(repository.root / folder)
    draw = random.Random(1)
    for _ in range(3):
        process = start(repository, "snakemake", "--cores", "2", "all")
        time.sleep(draw.uniform(3, 8))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    repository.snakemake("all")
    assert repository.manifests() == before
    assert repository.pending() == set()


def test_dvc_repro_killed_as_a_whole_goes_on_without_being_told(repository):
    before = repository.manifests()
    for folder in ("models", "results"):
        shutil.rmtree(repository.root / folder)
    repository.edit("experiments/tiny.yaml", lambda e: e["training"].update(steps=5))
    process = start(repository, "dvc", "repro")
    time.sleep(6)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    repository.edit("experiments/tiny.yaml", lambda e: e["training"].update(steps=4))
    repository.repro()
    assert repository.manifests() == before
    assert repository.pending() == set()


@pytest.mark.parametrize("command", [["snakemake", "--cores", "2", "all"], ["dvc", "repro"]])
def test_ctrl_c_at_either_entrance_loses_nothing(repository, command):
    """A terminal sends the signal to the whole group: the entrance, its Snakemake, and the stage."""
    before = repository.manifests()
    repository.edit("experiments/tiny.yaml", lambda e: e["training"].update(steps=3000))
    process = start(repository, *command)
    while not checkpoints(repository) and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in output
    assert checkpoints(repository), "what was done is kept for the next run"
    repository.edit("experiments/tiny.yaml", lambda e: e["training"].update(steps=4))
    repository.command(*command)
    assert repository.manifests() == before
    assert repository.pending() == set()


def test_two_runs_of_one_stage_at_once_do_not_meet(repository):
    repository.edit("experiments/tiny.yaml", lambda e: e["training"].update(steps=3000))
    first = start(repository, "glassworks", "train", "tiny")
    lock = repository.root / ".work"
    while not list(lock.glob("train-tiny-*/metrics.jsonl")) and first.poll() is None:
        time.sleep(0.05)
    second = repository.command("glassworks", "train", "tiny", succeeds=False)
    assert second.returncode == 4 and "is being run by another process here" in second.stdout
    first.kill()
    first.communicate()
