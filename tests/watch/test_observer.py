"""What is seen of a training that runs, is killed, is resumed and finishes; and of files that are damaged at any byte."""

import json
import os
import random
import shutil
import signal
import time

import pytest

from glassworks.artifacts.attempts import read_attempts, read_holder
from glassworks.errors import ConfigError
from glassworks.progress import Progress, ProgressLine, read_line
from glassworks.watch.files import POINTS, Metrics
from glassworks.watch.observer import Observer

from .conftest import STEPS, TRAIN, look, training, wait_for


def copied(killed, tmp_path):
    """A copy of the project that may be damaged."""
    shutil.copytree(killed[0].root, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def tree(root):
    """Every file and folder of the project with its times and its size."""
    found = [root, *(path for path in root.rglob("*") if "src" not in path.relative_to(root).parts)]
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in found}


def test_a_running_training_has_its_process_its_curves_and_is_one_stage_of_the_graph(killed):
    project, seen = killed
    assert seen["before"] == "missing" and seen["look"].state == "running"
    assert seen["look"].host == os.uname().nodename and seen["look"].quiet < 60
    steps = [step for step, _ in seen["details"]["training"]]
    assert steps[0] == 1 and seen["details"]["validation"][0][0] == 20 and seen["details"]["ended_at"] is None
    stages = {stage["name"]: stage for stage in Observer(project.root).summary()["stages"]}
    assert "shards-words" in stages[TRAIN]["reads"] and stages["shards-words"]["state"] == "fresh"


def test_a_kill_is_seen_at_once_and_leaves_the_curve(killed):
    project, seen = killed
    observer = Observer(project.root)
    assert (look(observer).state, look(observer).why) == (
        "killed",
        "its process is gone; the same command continues it",
    )
    holder = read_holder(project.root / f".work/{TRAIN}.lock")
    assert holder.pid == seen["pid"] and not holder.is_alive()
    details = observer.details(TRAIN)
    assert details["ended_at"] >= details["validation"][-1][0] and len(details["attempts"]) == 1


def test_a_resumed_training_has_a_mark_until_it_is_done_and_after_it(killed, tmp_path):
    root = copied(killed, tmp_path)
    observer = Observer(root)
    ended = observer.details(TRAIN)["ended_at"]
    with training(root) as process:
        wait_for(lambda: look(observer).state == "running" and observer.details(TRAIN)["resumed_after"])
        [resumed] = observer.details(TRAIN)["resumed_after"]
        assert 20 <= resumed <= ended, "the newest checkpoint before the kill"
        assert [one.resumed_after for one in look(observer).attempts] == [[], [resumed]]
        [line] = wait_for(lambda: look(observer).progress)
        assert (line.total, line.unit) == (STEPS, "steps") and resumed < line.done < STEPS and line.rate > 0
        assert observer.summary()["stages"][-3]["progress"][0]["memory"] > 0
        assert process.wait() == 0
    done = wait_for(lambda: look(observer).state == "fresh" and observer.details(TRAIN))
    assert done["resumed_after"] == [resumed] and len(done["attempts"]) == 2 and done["cost"]["seconds"] > 0
    assert POINTS / 2 < len(done["training"]) <= POINTS and done["validation"][-1][0] > 0.9 * STEPS
    assert not read_holder(root / f".work/{TRAIN}.lock") and look(observer).work is None


@pytest.mark.slow
def test_a_signal_is_no_kill_and_its_message_is_shown(killed, tmp_path):
    root = copied(killed, tmp_path)
    observer = Observer(root)
    with training(root) as process:
        wait_for(lambda: look(observer).state == "running" and observer.details(TRAIN)["resumed_after"])
        process.send_signal(signal.SIGTERM)
        process.wait()
    assert look(observer).state == "stopped" and "SIGTERM" in look(observer).why


def test_on_another_machine_the_times_of_the_files_decide(killed, tmp_path):
    root = copied(killed, tmp_path)
    lock, now = root / f".work/{TRAIN}.lock", time.time()
    lock.write_text(json.dumps({"host": "node7", "pid": 1, "started": now - 9000}))
    observer = Observer(root)
    assert (look(observer).state, look(observer).host) == ("running", "node7")
    [work] = (root / ".work").glob(f"{TRAIN}-*")
    minutes = observer._table.project.params.watchdog_minutes
    for path in [*(root / "logs").iterdir(), *work.rglob("*")]:
        os.utime(path, (now - 60 * minutes - 60,) * 2)
    assert (look(observer).state, look(observer).why) == ("stopped", "no sign of life on node7")


def test_nothing_is_written_and_an_unchanged_project_costs_little(killed):
    root = killed[0].root
    before = tree(root)
    observer = Observer(root)
    observer.summary(), observer.details(TRAIN), observer.details("shards-words")
    began = time.process_time()
    for _ in range(20):
        look(observer)
    assert (time.process_time() - began) / 20 < 0.1
    assert tree(root) == before


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_files_that_are_cut_at_any_byte_emptied_or_gone_are_survived(killed, tmp_path, seed):
    root, draw = copied(killed, tmp_path), random.Random(seed)
    observer = Observer(root)
    files = [path for folder in (".work", "logs", "provenance", "data") for path in (root / folder).rglob("*")]
    files = sorted(path for path in files if path.is_file() and path.suffix in (".json", ".jsonl", ".log", ".lock"))
    draw.shuffle(files)
    for path in files:
        if not path.exists():
            continue
        content = path.read_bytes()
        damaged = draw.choice(
            [content[: draw.randrange(len(content) + 1)], b"", b"[1]\n", b"\xff\xfe{", b'{"step": "x"}\n', None]
        )
        path.unlink() if damaged is None else path.write_bytes(damaged)
        look(observer), observer.summary()
        assert all(observer.details(stage.name) for stage in observer._table)
    shutil.rmtree(root / ".work"), shutil.rmtree(root / "data")
    assert observer.details(TRAIN)["training"] == [] or look(observer).state != "running"
    assert set(observer.summary()["counts"]) >= {"missing"}


def test_a_log_of_metrics_is_read_on_from_where_it_ended_and_anew_when_it_is_replaced(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    metrics.read()
    assert metrics.training.points() == []
    with path.open("a") as file:
        for cut in (
            '{"step": 1, "loss": 3.0}\n{"step": 2, "lo',
            'ss": 2.0}\n{"step": 3, "loss": NaN}\n',
            '{"step": 4}\nnot JSON\n',
        ):
            file.write(cut)
            file.flush()
            metrics.read()
    assert metrics.training.points() == [(1, 3.0), (2, 2.0)] and metrics.last_step == 4
    path.with_name("new").write_text('{"step": 1, "loss": 3.5}\n')
    path.with_name("new").replace(path)
    metrics.read()
    assert metrics.training.points() == [(1, 3.5)] and metrics.last_step == 1
    path.write_text("")
    metrics.read()
    assert metrics.training.points() == []


def test_a_fault_in_the_settings_is_a_message_and_the_project_of_before_stays(killed, tmp_path):
    root = copied(killed, tmp_path)
    observer = Observer(root)
    settings = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(settings.replace("seed", "sead") + "\nsead: 3\n")
    look(observer)
    assert "sead" in observer.message and "\n" not in observer.message and TRAIN in observer.looks()
    with pytest.raises(ConfigError, match="sead"):
        Observer(root)
    (root / "params.yaml").write_text(settings)
    assert look(observer) and observer.message is None


def test_a_line_of_progress_is_read_as_it_is_written(capfd, monkeypatch):
    monkeypatch.setattr("glassworks.progress.LINE_SECONDS", 0.0)
    with Progress("train-a job 1", 2_000, "steps", silent=False) as progress:
        progress.start -= 100
        progress.advance(1_500, "loss 0.805  2,150 samples/s  0.9 GB")
    line = read_line(capfd.readouterr().err.splitlines()[0])
    assert line == ProgressLine("train-a job 1", 1_500, 2_000, "loss 0.805  2,150 samples/s  0.9 GB", 15.0, "steps", 33)
    for text in ("", "error: no", "a  1/2", "train-a  done in 3:05", "x  1/2  3 it/s  left"):
        assert read_line(text) is None


def test_an_attempt_that_cannot_be_noted_is_left_out(tmp_path):
    (tmp_path / "attempts.jsonl").write_text(
        '{"resumed_after": 3}\n{"started": 1, "host": "a"}\n{"resumed_after": 5}\n{"sta'
    )
    [attempt] = read_attempts(tmp_path)
    assert (attempt.host, attempt.resumed_after) == ("a", [5])
