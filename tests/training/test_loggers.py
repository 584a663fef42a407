"""TensorBoard and Weights & Biases show the rows of metrics.jsonl, across kills and resumes, and never get in the way of training."""

import http.server
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from glassworks.runtime import loggers
from glassworks.runtime.loggers import Logger, open_loggers, scalars

KEY = "0" * 40


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the account or the network of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home/.netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def opened(folder: Path, *names: str, first_step: int = 0) -> list[Logger]:
    return open_loggers(
        names,
        experiment="tiny",
        folder=folder,
        settings={"optimization": {"learning_rate": 0.001}},
        run_id="tiny/run:1",
        first_step=first_step,
        rows=[{"step": step, "loss": float(step), "tokens": 64} for step in range(1, first_step + 1)],
    )


def show(logger: Logger, steps: range, offset: float = 0.0) -> None:
    for step in steps:
        logger.log({"step": step, "loss": step + offset, "tokens": 64})


def tensorboard(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard/tiny/tiny/run:1")).Reload()


def tensorboard_scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in tensorboard(folder).Scalars(name)]


def wandb_records(folder: Path, kind: str) -> list[Any]:
    """The records of a kind in the newest run recorded under `folder`."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    store, records = DataStore(), []
    store.open_for_scan(str(max(folder.glob("wandb/*run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)))
    while data := store.scan_data():
        record = wandb_internal_pb2.Record.FromString(data)
        if record.WhichOneof("record_type") == kind:
            records.append(getattr(record, kind))
    store.close()
    return records


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    """What was logged, without wandb's own columns other than _step."""
    rows = [
        {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in history.item}
        for history in wandb_records(folder, "history")
    ]
    return [{name: value for name, value in row.items() if name == "_step" or not name.startswith("_")} for row in rows]


def test_only_numbers_are_shown_and_validation_apart() -> None:
    row = {"step": 3, "loss": 2.5, "learning_rate.vision": 1e-4, "validation_loss": 3.5, "stopped": True, "note": "x"}
    assert scalars(row) == {"train/loss": 2.5, "train/learning_rate.vision": 1e-4, "validation/loss": 3.5}


def test_tensorboard_shows_the_rows_and_the_settings(tmp_path: Path) -> None:
    (logger,) = opened(tmp_path, "tensorboard")
    logger.log({"step": 1, "loss": 2.5, "learning_rate": 0.5})
    logger.log({"step": 1, "validation_loss": 3.5})
    logger.close()
    shown = tensorboard(tmp_path)
    assert sorted(shown.Tags()["scalars"]) == ["train/learning_rate", "train/loss", "validation/loss"]
    assert tensorboard_scalars(tmp_path, "train/loss") == [(1, 2.5)]
    assert tensorboard_scalars(tmp_path, "validation/loss") == [(1, 3.5)]
    (text,) = shown.Tensors("settings/text_summary")
    assert '"learning_rate": 0.001' in text.tensor_proto.string_val[0].decode()


def test_a_resumed_run_replaces_the_steps_after_its_checkpoint_in_tensorboard(tmp_path: Path) -> None:
    (killed,) = opened(tmp_path, "tensorboard")
    show(killed, range(1, 8))  # never closed, like a killed one
    (resumed,) = opened(tmp_path, "tensorboard", first_step=4)
    show(resumed, range(5, 10), offset=0.5)
    resumed.close()
    expected = [(step, float(step)) for step in range(1, 5)] + [(step, step + 0.5) for step in range(5, 10)]
    assert tensorboard_scalars(tmp_path, "train/loss") == expected
    assert len(tensorboard(tmp_path).Tensors("settings/text_summary")) == 1
    killed.close()


def test_wandb_records_rows_and_settings_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    (logger,) = opened(tmp_path, "wandb")
    show(logger, range(1, 3))
    logger.log({"step": 2, "validation_loss": 3.5})
    logger.close()
    first = {"_step": 1, "train/loss": 1.0, "train/tokens": 64}
    assert wandb_rows(tmp_path) == [first, {"_step": 2, "train/loss": 2.0, "train/tokens": 64, "validation/loss": 3.5}]
    (run,) = wandb_records(tmp_path, "run")
    assert (run.project, run.display_name, run.run_id) == ("glassworks", "tiny", "tiny-run-1")
    assert {item.key: item.value_json for item in run.config.update}["optimization"] == '{"learning_rate":0.001}'
    for kind in ("environment", "files", "stats", "output_raw"):
        assert wandb_records(tmp_path, kind) == []
    assert "".join(capfd.readouterr()) == ""


def test_a_run_resumed_offline_is_recorded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    (logger,) = opened(tmp_path, "wandb", first_step=4)
    show(logger, range(5, 7))
    logger.close()
    assert [(row["_step"], row["train/loss"]) for row in wandb_rows(tmp_path)] == [(n, float(n)) for n in range(1, 7)]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_logger_leaves_signals_exits_and_random_numbers_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def state() -> list[Any]:
        handlers = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
        return [handlers, sys.exit, sys.excepthook, random.getstate(), torch.get_rng_state().tolist()]

    monkeypatch.setenv("WANDB_MODE", "offline")
    before = state()
    (logger,) = opened(tmp_path, name)
    show(logger, range(1, 3))
    assert state() == before
    logger.close()
    assert state() == before


def test_wandb_without_a_key_records_offline(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (logger,) = opened(tmp_path, "wandb")
    show(logger, range(1, 3))
    logger.close()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"warning: wandb: No API key configured. Use `wandb login` to log in; recording offline, for `wandb sync {tmp_path}/wandb/offline-run-")  # fmt: skip
    assert [row["_step"] for row in wandb_rows(tmp_path)] == [1, 2]


def test_wandb_without_a_network_records_offline_after_a_bounded_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loggers, "WAIT", 1.0)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    started = time.monotonic()
    (logger,) = opened(tmp_path, "wandb")
    assert time.monotonic() - started < 15
    show(logger, range(1, 3))
    logger.close()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: wandb: ") and "recording offline" in line
    assert [row["_step"] for row in wandb_rows(tmp_path)] == [1, 2]


class Server(http.server.BaseHTTPRequestHandler):
    """As much of W&B's server as a run talks to; it has the steps up to 6 of that run already."""

    sent: list[int]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        project = {"id": "p", "name": "glassworks", "entity": {"id": "e", "name": "someone"}}
        bucket = {
            "id": "b",
            "name": "tiny-run-1",
            "displayName": "tiny",
            "config": "{}",
            "eventsTail": "[]",
            "tags": [],
        }
        history = {"historyLineCount": 6, "eventsLineCount": 0, "logLineCount": 0, "summaryMetrics": '{"_step": 6}'}
        tail = {"historyTail": json.dumps([json.dumps({"_step": 6, "_runtime": 1})]), "wandbConfig": '{"t": 1}'}
        answers = {
            "RunResumeStatus": {"model": project | {"bucket": bucket | history | tail}},
            "UpsertBucket": {"upsertBucket": {"bucket": bucket | {"project": project}, "inserted": False}},
            "CreateRunFiles": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}},
        }
        rows = body.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
        self.sent.extend(json.loads(row)["_step"] for row in rows)
        answer = json.dumps({"data": answers.get(body.get("operationName", ""), {})}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.ThreadingHTTPServer]:
    monkeypatch.setattr(Server, "sent", [], raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("first_step", [4, 8])
def test_a_resumed_run_sends_wandb_the_steps_it_lacks(
    first_step: int, server: http.server.ThreadingHTTPServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (logger,) = opened(tmp_path, "wandb", first_step=first_step)
    show(logger, range(first_step + 1, 11))
    logger.close()
    assert Server.sent == [7, 8, 9, 10]
    (line,) = capfd.readouterr().err.splitlines()
    assert line == f"wandb: http://127.0.0.1:{server.server_port}/someone/glassworks/runs/tiny-run-1"


def test_a_server_that_went_away_holds_up_the_end_for_a_bounded_time(
    server: http.server.ThreadingHTTPServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(loggers, "WAIT", 2.0)
    (logger,) = opened(tmp_path, "wandb")
    server.shutdown()
    server.server_close()
    show(logger, range(7, 9))
    started = time.monotonic()
    logger.close()
    assert time.monotonic() - started < 15
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith(f"warning: wandb: the server does not answer; `wandb sync {tmp_path}/wandb/run-")
    assert [row["_step"] for row in wandb_rows(tmp_path)] == [7, 8]


def test_a_logger_that_fails_is_dropped_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setenv("WANDB_MODE", "offline")
    broken, whole = opened(tmp_path, "tensorboard", "wandb")
    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    for logger in (broken, whole):
        show(logger, range(1, 4))
        logger.close()
    assert capfd.readouterr().err == "warning: tensorboard: no space left on device (metrics.jsonl has every row)\n"
    assert [row["_step"] for row in wandb_rows(tmp_path)] == [1, 2, 3]


def test_training_goes_on_when_wandbs_service_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    (logger,) = opened(tmp_path, "wandb")
    (service,) = [child for child in psutil.Process().children() if child.name() == "wandb-core"]
    service.kill()
    service.wait()
    deadline = time.monotonic() + 10
    while not (printed := capfd.readouterr().err) and time.monotonic() < deadline:
        show(logger, range(1, 4))
    logger.close()
    assert re.fullmatch(r"warning: wandb: .*Connection.* \(metrics\.jsonl has every row\)\n", printed)


def test_a_logger_that_cannot_be_opened_is_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tensorboard").write_text("not a folder")
    assert opened(tmp_path, "tensorboard") == []
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: tensorboard: ")


TRAINING = """
import multiprocessing, os, sys, time
from pathlib import Path
from glassworks.runtime.loggers import open_loggers

def work():
    names = ["tensorboard", "wandb"]
    loggers = open_loggers(names, experiment="tiny", folder=Path(sys.argv[1]), settings={}, run_id="tiny/run:1", first_step=0)
    for step in range(1, 51):
        for logger in loggers:
            logger.log({"step": step, "loss": float(step)})
    print(os.getpid(), flush=True)
    if sys.argv[2] == "killed":
        time.sleep(60)
    for logger in loggers:
        logger.close()

worker = multiprocessing.get_context("fork").Process(target=work)
worker.start()
worker.join()
sys.exit(worker.exitcode)
"""


@pytest.mark.parametrize("end", ["closed", "killed"])
def test_a_forked_worker_leaves_its_rows_and_no_process_behind(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    command = [sys.executable, "-c", TRAINING, str(tmp_path), end]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as training:
        worker = int(training.stdout.readline())
        if end == "killed":
            services = psutil.Process(worker).children()
            assert services
            os.kill(worker, signal.SIGKILL)
            assert psutil.wait_procs(services, timeout=20)[1] == []
        # wandb's service holds the pipes as well: their end is its end.
        assert training.communicate(timeout=20) == ("", "")
    assert training.returncode == (0 if end == "closed" else -signal.SIGKILL % 256)
    assert [step for step, _ in tensorboard_scalars(tmp_path, "train/loss")] == list(range(1, 51))
    if end == "closed":
        assert [row["_step"] for row in wandb_rows(tmp_path)] == list(range(1, 51))
