"""Commands that run in a process group of their own: what they are about, how they end, and what is left of them."""

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import psutil
from safetensors.torch import load_file

from glassworks.training.checkpoint import damage

from ..small_pipeline import Repository

RIG = Path(__file__).parent / "rig"
PATIENCE = 120.0
"""Seconds after which a command counts as hanging, on a busy machine too."""


class Command:
    """A command in the root of a repository. With `rig` (rig/sitecustomize.py) it announces what it is about, or is slow or broken."""

    started: ClassVar[list["Command"]] = []

    def __init__(
        self,
        repository: Repository,
        *command: str,
        rig: dict[str, Any] | None = None,
        file_limit: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.root = repository.root
        self.announcements = self.root.with_name(f"announcements-{time.monotonic_ns()}")
        self.shown = self.root.with_name(f"output-{time.monotonic_ns()}")
        self.announcements.touch()
        environment = repository.environment | (environment or {})
        if rig is not None:
            environment["PYTHONPATH"] += f"{os.pathsep}{RIG}"
            environment["GLASSWORKS_RIG"] = json.dumps({"announce": str(self.announcements), **rig})

        def prepare() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell starts what runs in its background without it
            if file_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

        with self.shown.open("w") as shown:
            self.process = subprocess.Popen(
                command,
                cwd=self.root,
                env=environment,
                stdout=shown,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=prepare,
            )
        self.started.append(self)

    @property
    def output(self) -> str:
        return self.shown.read_text()

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, condition: Callable[[], Any]) -> None:
        """Return as soon as the condition holds or the command has ended."""
        end = time.monotonic() + PATIENCE
        while self.running and not condition():
            assert time.monotonic() < end, f"waited in vain; the output so far:\n{self.output}"
            time.sleep(0.002)

    def wait_for_phase(self, phase: str, count: int = 1) -> None:
        """Return when a phase has begun for the `count`-th time, or the command has ended."""
        if phase != "start-up":
            begun = "-fit" if phase == "publication" else f"+{phase}"
            self.wait_for(lambda: self._announced(begun) >= count)

    def phases(self) -> set[str]:
        """What the first worker was last about; a checkpoint is written while it goes on."""
        if self._announced("-fit"):
            return {"publication"}
        if not self._announced("+step"):
            return {"launch" if self._announced("+launch") else "start-up"}
        phases = ("validation", "checkpoint")
        going_on = {phase for phase in phases if self._announced(f"+{phase}") > self._announced(f"-{phase}")}
        return going_on if "validation" in going_on else {"step", *going_on}

    def fork_servers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "multiprocessing.forkserver" in " ".join(child.cmdline())]

    def workers(self) -> list[psutil.Process]:
        """The worker processes, in the order of their ranks; the command itself, when it works alone."""
        found = [worker for server in self.fork_servers() for worker in server.children()]
        found.sort(key=lambda worker: (worker.create_time(), worker.pid))
        return found or [psutil.Process(self.process.pid)]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def send_to_all(self, number: signal.Signals) -> None:
        """To the whole group, as a terminal does, or the end of a batch job."""
        if self.running:
            os.killpg(self.process.pid, number)

    def end(self, seconds: float = PATIENCE) -> int:
        """Wait for the end of the command; its exit code. No process of it may be left."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.send_to_all(signal.SIGKILL)
            raise AssertionError(f"still running after {seconds} seconds; the output so far:\n{self.output}") from None
        end = time.monotonic() + 30  # a fork server that imports notices the end of its command afterwards
        while left := processes_in(self.root):
            assert time.monotonic() < end, f"left behind: {left}"
            time.sleep(0.02)
        return code

    def _announced(self, text: str) -> int:
        return self.announcements.read_text().split().count(text)


def train(repository: Repository, workers: int = 1, *arguments: str, **options: Any) -> Command:
    """`glassworks train tiny`, announcing its phases."""
    command = ("glassworks", "train", "tiny", "--workers", str(workers), *arguments)
    return Command(repository, *command, **{"rig": {}, **options})


def processes_in(folder: Path) -> list[list[str]]:
    """The command lines of all processes whose working directory is `folder` or below."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process.cmdline())
        except psutil.Error:
            continue
    return found


def checkpoints(repository: Repository) -> list[Path]:
    """Every checkpoint of the run, which must be whole and load; the newest last."""
    found = sorted((repository.root / ".work").glob("train-tiny-*/checkpoints/step-*"))
    for directory in found:
        assert damage(directory) is None
        for file in directory.glob("*.safetensors"):
            assert load_file(file)
    return found


def newest_step(repository: Repository) -> int:
    """The step of the newest checkpoint, 0 when there is none."""
    found = checkpoints(repository)
    return int(found[-1].name.removeprefix("step-")) if found else 0
