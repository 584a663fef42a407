"""Trainings on a device: one sha256 for whole, killed and resumed runs and for every number of workers, and the losses of the CPU.

Every test runs on the CPU in `make test`, and on CUDA in `make test-gpu`. docs/records/gpu.md has the figures of a card.
"""

import json
import os
from functools import partialmethod

import pytest
import torch
from torch import nn

from glassworks.runtime.signals import StopRequest
from glassworks.training.loop import METRICS, fit
from glassworks.training.metrics_log import read_metrics
from glassworks.training.workers import Workers

from ..training.engine import finish, kill
from ..training.pictures import picture_run
from ..training.test_devices import Holder
from .measures import GRADIENT, LOSS, difference, measure
from .runs import GPU, RUNS, cases, counts, maker

KILLED_AT = 5
"""After the checkpoint of step 4 is begun, which waits until an earlier one is on disk."""


@pytest.mark.parametrize(("name", "device", "precision"), cases(*RUNS))
def test_whole_killed_and_resumed_runs_have_one_sha256(name, device, precision, tmp_path, request, record_row):
    make, found = maker(name, tmp_path, precision, request), set()
    for workers in counts(device):
        whole = finish(make, {"folder": tmp_path / f"whole-{workers}"}, workers, device)
        cut = {"folder": tmp_path / f"killed-{workers}"}
        kill(make, {**cut, "killed_at": KILLED_AT, "rank": workers - 1}, workers, device)
        resumed = finish(make, cut, workers, device)
        found |= {whole["sha256"], resumed["sha256"]}
        assert 0 < resumed["resumed"] < KILLED_AT and not whole["resumed"]
        assert whole["deterministic"] and not whole["tf32"] and whole["workspace"] == ":4096:8"
        if device == "cuda":
            assert whole["megabytes"] > 0
            how = f"{resumed['sha256'][:16]} (killed after step {KILLED_AT})"
            card = torch.cuda.get_device_name()
            megabytes = f"{whole['megabytes']:.0f} MB"
            record_row("gpu", f"{name}, {precision}", card, workers, whole["sha256"][:16], how, megabytes)
    assert len(found) == 1, found


@GPU
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", RUNS)
def test_losses_and_gradients_are_those_of_the_cpu(name, precision, tmp_path, request):
    """Without dropout, whose random numbers depend on the device."""
    make = maker(name, tmp_path, precision, request)
    cpu, cuda = (
        measure(make(folder=tmp_path / device), Workers(device=torch.device(device))) for device in ("cpu", "cuda")
    )
    assert cuda.loss == pytest.approx(cpu.loss, rel=LOSS[precision])
    assert difference(cuda.gradient, cpu.gradient) < GRADIENT[precision]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("name", "device", "precision"), cases("captioner", "language"))
def test_a_compiled_training_has_one_graph(name, device, precision, tmp_path, request, monkeypatch):
    """One for training, and one for each size of a validation batch; none breaks. The compiler behind it runs on CUDA only."""
    if device == "cpu":
        monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    make = maker(name, tmp_path, precision, request, compile=True)
    torch.compiler.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    fit(make(folder=tmp_path / "run"), Workers(device=torch.device(device)), StopRequest())
    losses = [row["loss"] for row in read_metrics(tmp_path / "run" / METRICS) if "loss" in row]
    torch.compiler.reset()
    assert len(losses) == 6
    assert not counters["graph_break"], json.dumps(counters["graph_break"], indent=1)
    assert counters["stats"]["unique_graphs"] == 3  # 9 held-out samples in batches of 2


@GPU
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this machine has fewer than two CUDA devices")
def test_two_trainings_at_once_hold_two_devices(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    first, second = Holder(environment, 1), Holder(environment, 1)
    assert first.devices() != second.devices()
    assert [first.end(), second.end()] == ["", ""]


@GPU
def test_loader_processes_may_be_forked_beside_a_device(tmp_path, inputs):
    settings = {"shards": inputs, "task": "captioner", "precision": "fp32"}
    found = {
        finish(picture_run, {**settings, "folder": tmp_path / str(loaders), "loader_workers": loaders}, 1, "cuda")[
            "sha256"
        ]
        for loaders in (0, 2)
    }
    assert len(found) == 1
