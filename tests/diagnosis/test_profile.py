"""`train --profile`: a few real steps, measured, beside everything that is there and without a trace in it but for the trace."""

import fcntl
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest
from torch.autograd import DeviceType

from glassworks.config.training import Execution, Training
from glassworks.diagnosis.profile import Interval, account, paint, plan_steps, what_bounds

from ..small_pipeline import Repository

RANGES = ["data", "forward", "backward", "reduce", "optimize"]
ROW = re.compile(r"^(\w+) +([\d.,]+) +([\d.]+)%", re.MULTILINE)


def shares(output: str) -> dict[str, float]:
    """Per cent of a step by part, in the order of the table."""
    return {name: float(share) for name, _, share in ROW.findall(output)}


def everything(repository: Repository) -> dict[str, tuple[int, bytes]]:
    """Time and content of every file of the project but source code, logs and git's own."""
    folders = ("data", "models", "provenance", "results", ".work")
    files = [path for folder in folders for path in sorted((repository.root / folder).rglob("*"))]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in files}


def slow_reading(repository: Repository, seconds: float) -> None:
    """Make every sample of this repository take that long to read."""
    path = repository.root / "src/glassworks/data/reading/loader.py"
    code, line = path.read_text(), "        row = self.datasets["
    assert code.count(line) == 1
    path.write_text(code.replace(line, f"        __import__('time').sleep({seconds})\n{line}"))


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_shows_every_part_and_touches_nothing_but_the_trace(repository, workers):
    before = everything(repository)
    output = repository.command("glassworks", "train", "tiny", "--profile", "--workers", str(workers)).stdout
    assert everything(repository) == before
    parts = shares(output)
    assert list(parts) == [*RANGES, "validate", "checkpoint", "other", "step"]
    assert parts.pop("step") == 100
    assert sum(parts.values()) == pytest.approx(100, abs=1)
    assert ("waiting for other workers" in output.splitlines()[6]) == (workers > 1)
    assert "2 steps profiled after 1 to warm up" in output  # of the 4 that the experiment has
    assert re.search(r"^operator .*CPU ms.step.*(\n\S.* \d+){10}$", output, re.MULTILINE)
    assert re.search(r"^[\d,]+ samples/s while profiled; peak memory \d+\.\d+ GB", output, re.MULTILINE)
    assert "trace: logs/profile/train-tiny.json.gz" in output
    assert "Warning" not in output and "ERROR" not in output
    with gzip.open(repository.root / "logs/profile/train-tiny.json.gz") as file:
        names = [event["name"] for event in json.load(file)["traceEvents"]]
    assert {*RANGES, "validate"} <= set(names)
    assert names.count("optimize") == 3  # and that of the step that validates and saves


def test_a_run_that_waits_for_data_is_told_to_read_with_more_processes(repository):
    slow_reading(repository, 0.02)
    repository.edit("experiments/tiny.yaml", lambda e: e["training"].update(steps=100, validate_every=50))
    output = repository.command("glassworks", "train", "tiny", "--profile").stdout
    assert "10 steps profiled after 3 to warm up" in output
    assert re.search(r"^validate .* ms every 50 steps$", output, re.MULTILINE)
    assert re.search(r"^checkpoint .* ms every step$", output, re.MULTILINE)
    last = output.splitlines()[-1]
    assert re.fullmatch(r"the data takes \d\d% of a step: raise execution.loader_workers \(now 0\).*", last)
    assert int(re.search(r"(\d+)%", last)[1]) == pytest.approx(shares(output)["data"], abs=0.6)


def test_does_not_wait_for_a_training_that_is_going_on(repository):
    with (repository.root / ".work/train-tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert (
            "is being run by another process"
            in repository.command("glassworks", "train", "tiny", succeeds=False).stdout
        )
        assert "samples/s" in repository.command("glassworks", "train", "tiny", "--profile").stdout


def test_missing_inputs_are_the_same_line_as_without_the_profile(repository):
    shutil.rmtree(repository.root / "data/tokenizers")
    wanted = repository.command("glassworks", "train", "tiny", succeeds=False)
    found = repository.command("glassworks", "train", "tiny", "--profile", succeeds=False)
    assert (found.returncode, found.stdout) == (wanted.returncode, wanted.stdout)
    assert found.returncode == 4 and len(found.stdout.splitlines()) == 1
    assert not (repository.root / "logs/profile").exists()


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ctrl_c_leaves_no_folder_no_process_and_no_trace(repository, workers):
    slow_reading(repository, 0.02)
    repository.edit("experiments/tiny.yaml", lambda e: e["training"].update(steps=100))
    repository.edit("experiments/tiny.yaml", lambda e: e["execution"].update(loader_workers=1))
    command = ["glassworks", "train", "tiny", "--profile", "--workers", str(workers)]
    process = subprocess.Popen(
        command,
        cwd=repository.root,
        env=repository.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not list((repository.root / ".work").glob("profile-*/metrics.jsonl")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert not list((repository.root / ".work").glob("profile-*"))
    assert not (repository.root / "logs/profile").exists()
    limit = time.monotonic() + 20  # init takes a while to bury orphans
    while group_exists(process.pid):
        assert time.monotonic() < limit
        time.sleep(0.1)


def test_an_experiment_of_two_steps_has_none_to_look_at(repository):
    repository.edit("experiments/tiny.yaml", lambda e: e["training"].update(steps=2))
    run = repository.command("glassworks", "train", "tiny", "--profile", succeeds=False)
    assert run.returncode == 2
    assert "training.steps is 2" in run.stdout and len(run.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("steps", "loaders", "workers", "warm_up", "profiled"),
    [
        (3, 0, 1, 1, 1),
        (13, 0, 1, 3, 9),
        (14, 0, 1, 3, 10),
        (1000, 0, 1, 3, 10),
        (1000, 2, 1, 5, 10),
        (1000, 2, 4, 11, 10),
    ],
)
def test_the_warm_up_uses_up_what_the_loaders_had_ready(steps, loaders, workers, warm_up, profiled):
    training = Training(steps=steps, batch_size=16, micro_batches=4)
    plan = plan_steps(training, Execution(loader_workers=loaders), workers)
    assert (plan.warm_up, plan.profiled) == (warm_up, profiled)
    assert plan.steps <= steps


def test_painting_shows_the_earlier_layer_and_accounts_for_all_of_the_window():
    layers = [Interval("device", 40, 130), Interval("host", 20, 50), Interval("host", 60, 70), Interval("out", 0, 10)]
    assert paint(Interval("step", 10, 100), layers) == {"other": 10, "host": 20, "device": 60}


def event(name: str, start: float, end: float, *, mark: bool = False, device: bool = False, number: int = 0, **more):
    span = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
    kind = DeviceType.CUDA if device else DeviceType.CPU
    times = {"self_cpu_time_total": end - start, "self_device_time_total": 0.0, "cpu_children": []}
    fixed = {"name": name, "time_range": span, "device_type": kind, "is_user_annotation": mark, "is_async": False}
    return SimpleNamespace(**fixed, id=number, **{**times, **more})


def test_on_a_gpu_a_part_lasts_while_its_kernels_run():
    """The host launches in no time and waits for the device at the end of the optimizer."""
    events = []
    for number, start in enumerate((0, 10_000, 20_000)):
        events += [
            event("ProfilerStep*", start, start + 10_000, mark=True),
            event("data", start, start + 1000, mark=True),
            event("forward", start + 1000, start + 1100, mark=True),
            event("cudaLaunchKernel", start + 1010, start + 1020, number=3 * number),
            event("aten::mm", start + 1005, start + 1025, self_device_time_total=2900.0),
            event("backward", start + 1100, start + 1200, mark=True),
            event("cudaLaunchKernel", start + 1110, start + 1120, number=3 * number + 1),
            event("cuLaunchKernelEx", start + 1130, start + 1140, number=3 * number + 2),
            event("reduce", start + 1200, start + 1300, mark=True),
            event("optimize", start + 1300, start + 9900, mark=True),
            event("gemm", start + 1100, start + 4000, device=True, number=3 * number),
            event("gemm", start + 4000, start + 8000, device=True, number=3 * number + 1),
            event("gelu", start + 8100, start + 9000, device=True, number=3 * number + 2),
        ]
    found = account(events)
    assert found["parts"] == pytest.approx({"data": 1, "forward": 3, "backward": 5, "optimize": 0.9, "other": 0.1})
    assert found["operators"] == [("aten::mm", pytest.approx(2.9), 1)]
    assert found["kernels"]


@pytest.mark.parametrize(
    ("parts", "waiting", "beginning"),
    [
        (
            {"data": 14, "forward": 40, "backward": 46},
            0,
            "the model bounds this run: its forward and backward passes take 86%",
        ),
        (
            {"data": 40, "forward": 20, "backward": 40},
            0,
            "the data takes 40% of a step: raise execution.loader_workers",
        ),
        ({"data": 20, "forward": 20, "reduce": 60}, 50, "waiting for other workers takes 50% of a step"),
        (
            {"data": 5, "forward": 45, "validate": 50},
            0,
            "validation takes 50% of a step: raise training.validate_every",
        ),
        (
            {"data": 5, "forward": 45, "checkpoint": 50},
            0,
            "saving takes 50% of a step: raise execution.checkpoint_every",
        ),
    ],
)
def test_the_last_line_says_what_bounds_the_run(parts, waiting, beginning):
    assert what_bounds(parts, waiting, loader_workers=0, workers=1, device="cuda").startswith(beginning)
