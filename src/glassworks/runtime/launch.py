"""Starts the workers of a run with torch's elastic launcher, and reduces their outcomes to one result or one error.

Each worker writes its outcome to a file, since exit codes do not tell which worker failed first. When a worker dies, its peers notice within a step, and the
launcher kills the rest. Every node has a launcher; that of the first node reports the outcomes of all workers.
"""

import fcntl
import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from glassworks import errors, watchdog
from glassworks.artifacts.digests import write_json
from glassworks.artifacts.machine import NodeRank, available_cores
from glassworks.console import appended_to_log, uninterrupted
from glassworks.errors import ConfigError, ResourceError, Stopped, UserError
from glassworks.runtime import fork_server
from glassworks.runtime.nodes import Rendezvous, slurm_rendezvous
from glassworks.runtime.signals import SIGNALS, StopRequest
from glassworks.training.workers import PeerLost, Workers, joined
from glassworks.watchdog import Watchdog, unwatched

Function = Callable[..., Any]
"""function(workers, stop, *arguments) -> a JSON value"""
LOCK = "workers.lock"
"""Locked by every worker until its process ends."""
SHUTDOWN_SECONDS = 24 * 3600
"""Timeout for saving after a signal; the sender usually has a shorter one."""
OUTCOME_SECONDS = 5
"""Timeout for outcomes from other nodes after a worker failed."""


@dataclass(frozen=True)
class WorkerSpec:
    """The function that all workers of a run execute, and its environment."""

    function: Function
    arguments: tuple[Any, ...]
    folder: Path
    """The folder of outcomes, shared by all nodes."""
    environment: dict[str, str]
    """Variables set in a worker: the fork server starts before they are known."""
    stall_seconds: float | None
    """Seconds without progress after which the watchdog ends a worker."""


def device_kind(wanted: str, key: str = "determinism.device") -> str:
    """ "cuda", "mps" or "cpu": the device configured under `key`, or with "auto" a CUDA device if there is one."""
    if wanted == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError(f"{key}: mps, but this machine has no Apple GPU that torch can use; use auto or cpu")
        return "mps"
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # the check must not initialize CUDA before a fork
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ConfigError(f"{key}: cuda, but this machine has no CUDA device; use auto or cpu")
    return "cuda" if there and wanted != "cpu" else "cpu"


def process_count(threads: int, device: str) -> int:
    """The number of processes: one per CUDA device of this machine, one on mps, or one per granted core."""
    return max(1, min(threads, available_cores())) if device == "cpu" else device_count(device)


def device_count(device: str) -> int:
    """The number of devices of a kind, CUDA or mps, that this process sees."""
    return torch.cuda.device_count() if device == "cuda" else 1


def card(device: torch.device) -> dict[str, str]:
    """The name of a CUDA device, for the fingerprint: GPUs of two models round differently. Empty for other devices."""
    return {"card": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}


def worker_count(micro_batches: int, threads: int, device: str, wanted: int | None = None) -> int:
    """The number of workers on a node with a share of `micro_batches`: the largest power of two within granted cores (or devices), available cores and
    micro-batches."""
    if wanted is not None:
        if wanted & (wanted - 1) or not 1 <= wanted <= micro_batches:
            powers = [1 << n for n in range(micro_batches.bit_length())]
            raise ConfigError(
                f"--workers {wanted}: with {micro_batches} micro-batches it may be {', '.join(map(str, powers))}"
            )
        return wanted
    limit = process_count(threads, device)
    return 1 << (max(1, min(limit, micro_batches)).bit_length() - 1)


ALONE = NodeRank()


def run_workers(
    function: Function, *arguments: Any, count: int, device: str, folder: Path, node: NodeRank = ALONE
) -> Any:
    """The value that `function` returns on rank 0 of `count` workers, spread evenly over the nodes.

    Raises the `UserError` of a worker, or else one line that names the failed worker; its traceback is in the log. `folder` holds the outcomes. A single worker
    runs in this process. For several, `function` and `arguments` are pickled. On other nodes than the first, this process exits silently with its workers.
    """
    if device != "cpu" and (local := count // node.nodes) > device_count(device):
        raise ConfigError(f"--workers {local}: {device} has {device_count(device)} here, and every worker needs one")
    if node.first:
        _wait_for_orphans(folder.parent / LOCK)
    if count == 1:
        with StopRequest() as stop:
            return function(Workers(device=torch.device(device)), stop, *arguments)
    fork_server.start()
    folder.mkdir(parents=True, exist_ok=True)
    if node.first:
        for outcome in _outcome_files(folder):
            outcome.unlink()
    rendezvous = slurm_rendezvous() if node.nodes > 1 else None
    spec = WorkerSpec(function, arguments, folder, _environment(device, rendezvous), watchdog.limit())
    try:
        with _kept_handlers(), unwatched(), _silent_unless(node.first):
            _launch(spec, count, node, rendezvous)
        if not node.first:
            raise SystemExit(0)
        return _outcomes(folder)[0]["value"]
    finally:
        for child in multiprocessing.active_children():
            child.kill()
        if node.nodes == 1:  # other nodes may still read it
            shutil.rmtree(folder, ignore_errors=True)


def _environment(device: str, rendezvous: Rendezvous | None) -> dict[str, str]:
    found = {"GLASSWORKS_DEVICE": device}
    found |= {
        name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG") if name in os.environ
    }
    if sys.platform == "linux" and (rendezvous is None or rendezvous.on_one_machine):
        found["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    return found


def _wait_for_orphans(lock: Path) -> None:
    """Wait for the workers of a killed launcher: they save and exit by themselves, and use the folder until then."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for the workers of a killed run to save and end", file=sys.stderr, flush=True)
            with unwatched():
                fcntl.flock(held, fcntl.LOCK_EX)


@contextmanager
def _silent_unless(first: bool) -> Iterator[None]:
    """Exit silently with the code of an error, except on the first node, which reports it."""
    try:
        yield
    except UserError as error:
        if first:
            raise
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        if first:
            raise
        raise SystemExit(128 + signal.SIGINT) from None


def _launch(spec: WorkerSpec, count: int, node: NodeRank, rendezvous: Rendezvous | None) -> None:
    with uninterrupted():
        from torch.distributed import DistError
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):  # every logger has its own level
        if name.startswith(("torch.distributed", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    alone = {
        "rdzv_backend": "c10d",
        "rdzv_endpoint": "localhost:0",
        "local_addr": "localhost",
        "run_id": "glassworks",
    }
    config = LaunchConfig(
        min_nodes=node.nodes,
        max_nodes=node.nodes,
        nproc_per_node=count // node.nodes,
        max_restarts=0,
        start_method="forkserver",
        logs_specs=DefaultLogsSpecs(log_dir=str(spec.folder / f"launcher-{node.node}")),
        signals_to_handle="SIGTERM,SIGUSR2",
        shutdown_timeout=SHUTDOWN_SECONDS,
        **(rendezvous.options(node) if rendezvous else alone),
    )
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        elastic_launch(config, _work)(spec)
    except SignalException as stopped:
        _raise_first_error(spec.folder)
        raise Stopped(f"{stopped.sigval.name}: stopped; the same command continues from there") from None
    except (EOFError, ConnectionError):
        raise ResourceError(
            "the server that starts workers was killed, usually for lack of memory; the same command continues from the last checkpoint"
        ) from None
    except DistError as failure:
        assert rendezvous
        raise ResourceError(
            f"the nodes of this run did not meet at {rendezvous.host}:{rendezvous.port} ({str(failure).splitlines()[0]}); the same command tries again"
        ) from None
    except ChildFailedError as failure:
        if rendezvous:
            _await_outcomes(spec.folder, count)
        _raise_first_error(spec.folder)
        outcomes = _outcomes(spec.folder)
        if all(rank in outcomes and outcomes[rank]["status"] == "done" for rank in range(count)):
            return
        silent = sorted(set(range(count)) - set(outcomes))  # only a killed worker leaves no outcome
        rank = silent[0] if silent else min(failure.failures)
        raise ResourceError(
            f"worker {rank} was killed, usually for lack of memory; the same command continues from the last checkpoint"
        ) from None


def _work(spec: WorkerSpec) -> None:
    """The main function of a worker process. Never raises: torch's launcher would kill the peers before they write their outcomes."""
    os.environ.update(spec.environment)
    own = spec.folder / f"worker-{os.environ['RANK']}.json"
    outcome: dict[str, Any]
    with (
        StopRequest() as stop,
        appended_to_log(),
        (spec.folder.parent / LOCK).open() as lock,
        Watchdog(spec.stall_seconds, partial(_end_stalled, own)),
    ):
        fcntl.flock(lock, fcntl.LOCK_SH)
        # the fork server blocks signals; Ctrl-C reaches the launcher, which sends TERM
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS[:2])
        try:
            with joined() as workers:
                outcome = {"status": "done", "value": spec.function(workers, stop, *spec.arguments)}
        except PeerLost:
            outcome = {"status": "lost"}
        except UserError as error:
            outcome = {"status": "error", "error": type(error).__name__, "message": str(error)}
        except BaseException as error:
            traceback.print_exc()
            outcome = {"status": "crashed", "message": f"{type(error).__name__}: {error}".splitlines()[0]}
        sys.stdout.flush()
        sys.stderr.flush()
        write_json(own, outcome)
        for number in SIGNALS[:2]:
            signal.signal(number, signal.SIG_DFL)
        if outcome["status"] != "done" or any(stop.counts()):
            os._exit(1)  # a failure to the launcher, which then reads the outcomes


def _end_stalled(own: Path, message: str) -> None:
    """End a stalled worker with an outcome. The launcher ends its peers, by SIGKILL if necessary."""
    write_json(own, {"status": "error", "error": "Stalled", "message": message})
    os._exit(1)


def _outcome_files(folder: Path) -> list[Path]:
    return list(folder.glob("worker-*.json"))


def _outcomes(folder: Path) -> dict[int, dict[str, Any]]:
    return {
        int(path.stem.removeprefix("worker-")): json.loads(path.read_text(encoding="utf-8"))
        for path in _outcome_files(folder)
    }


def _await_outcomes(folder: Path, count: int) -> None:
    """Wait briefly for the outcomes of workers on other nodes; a killed worker leaves none."""
    end = time.monotonic() + OUTCOME_SECONDS
    while len(_outcome_files(folder)) < count and time.monotonic() < end:
        time.sleep(0.1)


def _raise_first_error(folder: Path) -> None:
    """Raise the error that a worker reported, if any. A `UserError` takes precedence over a crash."""
    outcomes = sorted(_outcomes(folder).items())
    for _, outcome in sorted(outcomes, key=lambda item: item[1].get("error") == "Interrupted"):
        if outcome["status"] == "error":
            raise getattr(errors, outcome["error"])(outcome["message"])
    for rank, outcome in outcomes:
        if outcome["status"] == "crashed":
            raise UserError(f"worker {rank} failed: {outcome['message']} (its traceback stands above, and in the log)")


@contextmanager
def _kept_handlers() -> Iterator[None]:
    """Restore the signal handlers, which torch's launcher replaces."""
    numbers = (signal.SIGTERM, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
