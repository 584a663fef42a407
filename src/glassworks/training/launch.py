"""Starts the workers of a run with torch's elastic launcher, and turns what became of them into one result or one line.

Each worker leaves an outcome in a file; exit codes alone do not say who was first. One that dies takes the others down: they notice within a step that a peer is
gone, and the launcher ends whoever does not. On several nodes there is a launcher on each; the first reports what became of all workers, from their files.
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
from glassworks.artifacts.machine import Place, available_cores
from glassworks.console import appended_to_log, uninterrupted
from glassworks.errors import ConfigError, ResourceError, Stopped, UserError
from glassworks.training import fork_server
from glassworks.training.nodes import Meeting, meeting
from glassworks.training.signals import SIGNALS, StopRequest
from glassworks.training.workers import PeerLost, Workers, joined
from glassworks.watchdog import Watchdog, unwatched

Function = Callable[..., Any]
"""function(workers, stop, *arguments) -> a JSON value"""
LOCK = "workers.lock"
"""Held by every worker as long as it lives."""
SHUTDOWN_SECONDS = 24 * 3600
"""How long workers may take to save after a signal; whoever sent it has limits of their own."""
OUTCOME_SECONDS = 5
"""How long the outcome of a worker on another node is waited for, once one is known to have failed."""


@dataclass(frozen=True)
class Crew:
    """What the workers of a run have in common."""

    function: Function
    arguments: tuple[Any, ...]
    folder: Path
    """Where they leave their outcomes; shared by all nodes."""
    environment: dict[str, str]
    """Variables that a worker sets; the server that forks it was started before they were known."""
    stall_seconds: float | None
    """Time without progress after which a worker ends."""


def device_kind(wanted: str) -> str:
    """ "cuda" or "cpu": what the configuration asks for, or with "auto" what is there."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # asking must not start CUDA in a process that will be forked
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ConfigError("determinism.device: cuda, but this machine has no CUDA device; use auto or cpu")
    return "cuda" if there and wanted != "cpu" else "cpu"


def worker_count(micro_batches: int, threads: int, device: str, wanted: int | None = None) -> int:
    """How many workers to start on a node, whose share are so many micro-batches: the largest power of two for which there are cores granted (or devices),
    cores at all, and micro-batches."""
    if wanted is not None:
        if wanted & (wanted - 1) or not 1 <= wanted <= micro_batches:
            powers = [1 << n for n in range(micro_batches.bit_length())]
            raise ConfigError(
                f"--workers {wanted}: with {micro_batches} micro-batches it may be {', '.join(map(str, powers))}"
            )
        return wanted
    limit = torch.cuda.device_count() if device == "cuda" else min(threads, available_cores())
    return 1 << (max(1, min(limit, micro_batches)).bit_length() - 1)


ALONE = Place()


def run_workers(
    function: Function, *arguments: Any, count: int, device: str, folder: Path, place: Place = ALONE
) -> Any:
    """Run `function` in `count` workers, equally many on each node, and return what the first of them returned.

    Raises what a worker raised if a user can put it right; otherwise one line that says which worker failed, its traceback being in the log. `folder` is
    used for outcomes. One worker runs in this process; to more of them, `function` and `arguments` travel by pickle. On every node but the first, this
    process ends with its workers, without a word.
    """
    if place.first:
        _wait_for_orphans(folder.parent / LOCK)
    if count == 1:
        with StopRequest() as stop:
            return function(Workers(device=torch.device(device)), stop, *arguments)
    fork_server.start()
    folder.mkdir(parents=True, exist_ok=True)
    if place.first:
        for outcome in _outcome_files(folder):
            outcome.unlink()
    met = meeting() if place.nodes > 1 else None
    crew = Crew(function, arguments, folder, _environment(device, met), watchdog.limit())
    try:
        with _kept_handlers(), unwatched(), _silent_unless(place.first):
            _launch(crew, count, place, met)
        if not place.first:
            raise SystemExit(0)
        return _outcomes(folder)[0]["value"]
    finally:
        for child in multiprocessing.active_children():
            child.kill()
        if place.nodes == 1:  # else another node may still want to know
            shutil.rmtree(folder, ignore_errors=True)


def _environment(device: str, met: Meeting | None) -> dict[str, str]:
    found = {"GLASSWORKS_DEVICE": device}
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        found["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
    if sys.platform == "linux" and (met is None or met.on_one_machine):
        found["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    return found


def _wait_for_orphans(lock: Path) -> None:
    """Workers whose launcher was killed save and end by themselves; until then their folder is theirs."""
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
    """What the first node reports need not be said by all: the others end with the same code."""
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


def _launch(crew: Crew, count: int, place: Place, met: Meeting | None) -> None:
    with uninterrupted():
        from torch.distributed import DistError
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):  # each of them has a level of its own
        if name.startswith(("torch.distributed", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    alone = {
        "rdzv_backend": "c10d",
        "rdzv_endpoint": "localhost:0",
        "local_addr": "localhost",
        "run_id": "glassworks",
    }
    config = LaunchConfig(
        min_nodes=place.nodes,
        max_nodes=place.nodes,
        nproc_per_node=count // place.nodes,
        max_restarts=0,
        start_method="forkserver",
        logs_specs=DefaultLogsSpecs(log_dir=str(crew.folder / f"launcher-{place.node}")),
        signals_to_handle="SIGTERM,SIGUSR2",
        shutdown_timeout=SHUTDOWN_SECONDS,
        **(met.options(place) if met else alone),
    )
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        elastic_launch(config, _work)(crew)
    except SignalException as stopped:
        _raise_first_error(crew.folder)
        raise Stopped(f"{stopped.sigval.name}: stopped; the same command continues from there") from None
    except (EOFError, ConnectionError):
        raise ResourceError(
            "the server that starts workers was killed, mostly for want of memory; the same command continues from the last checkpoint"
        ) from None
    except DistError as failure:
        assert met
        raise ResourceError(
            f"the nodes of this run did not meet at {met.host}:{met.port} ({str(failure).splitlines()[0]}); the same command tries again"
        ) from None
    except ChildFailedError as failure:
        if met:
            _await_outcomes(crew.folder, count)
        _raise_first_error(crew.folder)
        outcomes = _outcomes(crew.folder)
        if all(rank in outcomes and outcomes[rank]["status"] == "done" for rank in range(count)):
            return
        silent = sorted(set(range(count)) - set(outcomes))  # whoever is not killed says something
        rank = silent[0] if silent else min(failure.failures)
        raise ResourceError(
            f"worker {rank} was killed, mostly for want of memory; the same command continues from the last checkpoint"
        ) from None


def _work(crew: Crew) -> None:
    """What a worker process does. Never raises: torch's launcher would end the others before they have said what they know."""
    os.environ.update(crew.environment)
    own = crew.folder / f"worker-{os.environ['RANK']}.json"
    outcome: dict[str, Any]
    with (
        StopRequest() as stop,
        appended_to_log(),
        (crew.folder.parent / LOCK).open() as lock,
        Watchdog(crew.stall_seconds, partial(_end_stalled, own)),
    ):
        fcntl.flock(lock, fcntl.LOCK_SH)
        # the fork server holds signals back; Ctrl-C reaches the launcher, which sends TERM
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS[:2])
        try:
            with joined() as workers:
                outcome = {"status": "done", "value": crew.function(workers, stop, *crew.arguments)}
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
            os._exit(1)  # the launcher, if it is still there to see it, takes this for a failure and reads the outcomes


def _end_stalled(own: Path, message: str) -> None:
    """What the watchdog of a worker does; the launcher ends the others, heedless ones with SIGKILL."""
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
    """Workers on other nodes end at the same time as ours, give or take; one that was killed leaves nothing."""
    end = time.monotonic() + OUTCOME_SECONDS
    while len(_outcome_files(folder)) < count and time.monotonic() < end:
        time.sleep(0.1)


def _raise_first_error(folder: Path) -> None:
    """Raise the error that a worker met, if one did: what a user can put right before what is a fault of ours."""
    outcomes = sorted(_outcomes(folder).items())
    for _, outcome in sorted(outcomes, key=lambda item: item[1].get("error") == "Interrupted"):
        if outcome["status"] == "error":
            raise getattr(errors, outcome["error"])(outcome["message"])
    for rank, outcome in outcomes:
        if outcome["status"] == "crashed":
            raise UserError(f"worker {rank} failed: {outcome['message']} (its traceback stands above, and in the log)")


@contextmanager
def _kept_handlers() -> Iterator[None]:
    """The launcher sets signal handlers and leaves them behind."""
    numbers = (signal.SIGTERM, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
