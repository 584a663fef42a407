"""Killed, interrupted, out of space: no half-made artefact, one clear line, and the next run ends with the same bytes."""

import json
import os
import random
import shutil
import signal
import time
from typing import Any

import pydantic
import pytest

from glassworks import cli

from ..small_pipeline import DIRECTORIES, STAGES, Repository
from .commands import Command, checkpoints, train

COMMANDS = {
    "fetch-pictures": ["fetch", "pictures"],
    "records-pictures": ["records", "pictures"],
    "shards-pictures": ["shards", "pictures"],
    "tokenizer-tiny": ["tokenizer", "tiny"],
    "train-tiny": ["train", "tiny"],
    "evaluate-tiny-captions": ["evaluate", "tiny"],
    "report": ["report"],
}


def often(*stages: str) -> list[Any]:
    """Every stage; those that are not named run in `make test-slow` only."""
    return [pytest.param(stage, marks=() if stage in stages else pytest.mark.slow) for stage in STAGES]


def seconds_of(repository: Repository, *command: str) -> float:
    before = time.monotonic()
    repository.command(*command)
    return time.monotonic() - before


@pytest.mark.parametrize("stage", often("shards-pictures", "train-tiny"))
def test_ctrl_c_leaves_no_half_made_artefact(repository, stage):
    directory = repository.root / DIRECTORIES[stage]
    command = ["glassworks", *COMMANDS[stage]]
    wanted = (directory / "manifest.json").read_bytes()
    duration = seconds_of(repository, *command)
    draw = random.Random(stage)
    for share in (draw.uniform(0.3, 0.95), draw.uniform(0.6, 1.0)):
        shutil.rmtree(directory, ignore_errors=True)
        interrupted = Command(repository, *command)
        time.sleep(share * duration)
        interrupted.send(signal.SIGINT)
        code = interrupted.end()
        if code == 0:  # it was done before the signal came
            assert (directory / "manifest.json").read_bytes() == wanted
            continue
        assert code in (130, -signal.SIGINT), interrupted.output  # the latter while Python itself was still starting
        assert not directory.exists() or (directory / "manifest.json").read_bytes() == wanted
        if code == 130:
            assert interrupted.output.splitlines()[-1] == "interrupted; the same command continues where it can"
            assert "Traceback" not in interrupted.output
    repository.command(*command)
    assert (directory / "manifest.json").read_bytes() == wanted


@pytest.mark.parametrize("stage", often("train-tiny", "report"))
def test_a_full_disk_is_one_clear_line(repository, stage):
    """The limit on the size of a file stands in for the disk: the kernel refuses the write in the same place."""
    directory = repository.root / DIRECTORIES[stage]
    wanted = (directory / "manifest.json").read_bytes()
    largest = max(path.stat().st_size for path in directory.iterdir() if path.is_file())
    shutil.rmtree(directory)
    command = Command(repository, "glassworks", *COMMANDS[stage], file_limit=largest // 2)
    assert command.end() == 6, command.output
    assert "free some space and run the same command again" in command.output
    assert "Traceback" not in command.output
    assert not directory.exists()
    repository.command("glassworks", *COMMANDS[stage])
    assert (directory / "manifest.json").read_bytes() == wanted


ENTRANCES = {"snakemake": ["snakemake", "--cores", "2", "all"], "dvc": ["dvc", "repro"]}


@pytest.mark.parametrize(
    ("entrance", "first"),
    [
        pytest.param("snakemake", ("start-up", 1), id="snakemake"),
        pytest.param("dvc", ("step", 1), id="dvc", marks=pytest.mark.slow),
    ],
)
def test_an_entrance_killed_as_a_whole_goes_on_without_being_told(repository, entrance, first):
    """Killed early, and in a checkpoint of training by two workers."""
    before, draw = repository.manifests(), random.Random(entrance)
    for folder in ("data/shards", "models", "results", ".dvc/cache"):  # with the cache DVC would have nothing to do
        shutil.rmtree(repository.root / folder)
    rig = {"slow": {"step": 0.3, "flush": 0.1}}
    killed_in = []
    for phase, count in (first, ("checkpoint", 2)):
        command = Command(repository, *ENTRANCES[entrance], rig=rig)
        command.wait_for_phase(phase, count)
        time.sleep(draw.uniform(3, 8) if phase == "start-up" else draw.uniform(0, 0.2))
        command.send_to_all(signal.SIGKILL)
        assert command.end() == -signal.SIGKILL, command.output
        checkpoints(repository)
        killed_in.append(command.phases())
    assert "checkpoint" in killed_in[1]
    repository.command(*ENTRANCES[entrance])
    assert repository.manifests() == before
    assert repository.pending() == set()
    assert repository.dvc_is_clean()
    provenance = json.loads((repository.root / "provenance/train-tiny.json").read_text())
    assert provenance["resumed_after_step"] > 0
    assert provenance["workers"] == min(2, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("entrance", [pytest.param("snakemake", marks=pytest.mark.slow), "dvc"])
def test_ctrl_c_at_either_entrance_loses_nothing(repository, entrance):
    """A terminal sends the signal to the whole group: the entrance, its Snakemake, and the stage."""
    before = repository.manifests()
    repository.edit("experiments/tiny.yaml", lambda e: e["training"].update(steps=3000))
    command = Command(repository, *ENTRANCES[entrance], rig={})
    command.wait_for_phase("checkpoint")
    command.send_to_all(signal.SIGINT)
    assert command.end() != 0
    assert "Traceback" not in command.output
    assert checkpoints(repository), "what was done is kept for the next run"
    repository.edit("experiments/tiny.yaml", lambda e: e["training"].update(steps=4))
    repository.command(*ENTRANCES[entrance])
    assert repository.manifests() == before
    assert repository.pending() == set()


def test_two_runs_of_one_stage_at_once_do_not_meet(repository):
    repository.edit("experiments/tiny.yaml", lambda e: e["training"].update(steps=3000))
    first = train(repository)
    first.wait_for_phase("step")
    second = repository.command("glassworks", "train", "tiny", succeeds=False)
    assert second.returncode == 4 and "is being run by another process here" in second.stdout
    first.send(signal.SIGKILL)
    first.end()


def test_ctrl_c_in_the_middle_of_a_library_is_an_interruption(monkeypatch, capsys):
    """Pydantic raises an error of its own from the KeyboardInterrupt."""

    class Settings(pydantic.BaseModel):
        @pydantic.model_serializer
        def write(self) -> str:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", lambda **options: Settings().model_dump())
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted; the same command continues where it can\n"
