"""What a project does, from its files: the state of every stage, its progress, its curves, the end of its log.

A stage that holds its lock on this machine is looked for among the processes. On another machine, as on a cluster, the times of its log and its work say
whether it runs: a stage that writes nothing for as long as its watchdog waits has ended.
"""

import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glassworks.artifacts.attempts import Attempt, Holder, read_attempts, read_holder
from glassworks.artifacts.manifest import MANIFEST, RECIPE
from glassworks.config.project import PARAMS, load_project
from glassworks.errors import UserError
from glassworks.pipeline.freshness import Keys, file_digests
from glassworks.pipeline.stage import Stage
from glassworks.pipeline.table import Table
from glassworks.progress import DONE, ProgressLine, read_line
from glassworks.project.listing import States, scores
from glassworks.report.view import timing
from glassworks.watch.files import Metrics, Tails, read_json, scan, signature

LOOKS = 1.0
"""Seconds for which a look at the project is valid."""
KEYS = 60.0
"""Seconds after which the keys are computed again, though no artefact and no setting has changed: source code may have."""
SILENCE = 1800.0
"""Seconds without a sign of life on another machine after which a stage has ended, in a project without a watchdog."""
UNKNOWN = 60.0
"""The same for a stage whose lock names nobody."""
LINES = 14
"""Lines of a log that are shown."""
LOSS, MEMORY, SAMPLES = re.compile(r"\bloss (\S+)"), re.compile(r"([\d.]+) GB\b"), re.compile(r"([\d,.]+) samples/s")
CONTINUED = re.compile(r"continuing after step (\d+)$")
ACTIVE, STATES = ("running", "killed", "stopped"), ("running", "killed", "stopped", "stale", "missing", "fresh")


@dataclass
class Look:
    """The state of a stage at an instant."""

    stage: Stage
    state: str
    """One of `STATES`."""
    work: Path | None = None
    """Its newest work directory."""
    logs: list[Path] = field(default_factory=list)
    """Its logs and those of its jobs, the newest first."""
    progress: list[ProgressLine] = field(default_factory=list)
    """Of the stage or its jobs, while it runs."""
    jobs_done: int | None = None
    host: str | None = None
    quiet: float | None = None
    """Seconds since its last sign of life, while it runs."""
    why: str | None = None
    """Why it does not run any more."""
    attempts: list[Attempt] = field(default_factory=list)


class Observer:
    """Looks at the project in `root`. Writes nothing; an unreadable file is like a missing one. May be used by several threads.

    Raises `ConfigError` for a project that cannot be read at the start. Later, `message` says what is wrong with it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.message: str | None = None
        self._table, self._settings = Table(load_project(root)), self._settings_seen()
        self._digests = file_digests(root)
        self._tails = Tails()
        self._metrics: dict[Path, Metrics] = {}
        self._lock = threading.RLock()
        self._states: dict[str, str] = {}
        self._artefacts_seen: Any = None
        self._keys_at = self._looked_at = -KEYS
        self._looks: dict[str, Look] = {}

    def looks(self) -> dict[str, Look]:
        """The state of every stage by name, in topological order."""
        with self._lock:
            if time.monotonic() - self._looked_at >= LOOKS:
                self._refresh()
                self._looked_at = time.monotonic()
            return self._looks

    def summary(self) -> dict[str, Any]:
        """The state of the project, as JSON."""
        looks = self.looks()
        counts = Counter(look.state for look in looks.values())
        return {
            "project": self.root.resolve().name,
            "time": time.time(),
            "message": self.message,
            "counts": {state: counts[state] for state in STATES},
            "stages": [_summary(look) for look in looks.values()],
        }

    def details(self, name: str) -> dict[str, Any] | None:
        """More about a stage, as JSON: curves, marks, the end of its log, scores, cost. None for an unknown stage."""
        with self._lock:
            look = self.looks().get(name)
            if look is None:
                return None
            note = timing(self.root, look.stage) if look.state not in ACTIVE else {}
            return {
                "stage": name,
                "directory": look.stage.directory,
                **self.curves(look),
                "log": [
                    {"name": path.name, "lines": self._tails.of(path, _stat(path))[-LINES:]} for path in look.logs[:2]
                ],
                "attempts": [{"started": one.started, "host": one.host} for one in self._attempts(look)],
                "scores": scores(self.root / look.stage.directory) if look.stage.kind == "evaluate" else [],
                "cost": {key: note.get(key) for key in ("started", "seconds", "peak_memory_bytes", "host")},
            }

    def curves(self, look: Look) -> dict[str, Any]:
        """The losses of a training, with the newest ones of its log, and the steps after which it was resumed or ended."""
        if look.stage.kind != "train":
            return {"training": [], "validation": [], "resumed_after": [], "ended_at": None, "steps": None}
        folder = look.work if look.state in ACTIVE and look.work else self.root / look.stage.directory
        with self._lock:
            for path in [path for path in self._metrics if not path.exists()]:
                del self._metrics[path]
            metrics = self._metrics.setdefault(folder / "metrics.jsonl", Metrics(folder / "metrics.jsonl"))
            metrics.read()
            training, last = metrics.training.points(), metrics.last_step
            total = None
            if look.state in ACTIVE:  # the log of metrics is written in blocks; the lines of progress are newer
                found = [read_line(line) for path in look.logs[:1] for line in self._tails.of(path, _stat(path))]
                for line in filter(None, found):
                    loss = loss_of(line)
                    if line.done > last and loss is not None and (not training or line.done > training[-1][0]):
                        training.append((line.done, loss))
                    total = line.total
            resumed = {step for one in self._attempts(look) for step in one.resumed_after}
            return {
                "training": training,
                "validation": metrics.validation.points(),
                "resumed_after": sorted(resumed),
                "ended_at": training[-1][0] if look.state in ("killed", "stopped") and training else None,
                "steps": total,
            }

    def log(self, look: Look) -> list[str]:
        """The end of the newest log of a stage."""
        with self._lock:
            return self._tails.of(look.logs[0], _stat(look.logs[0]))[-LINES:] if look.logs else []

    def _attempts(self, look: Look) -> list[Attempt]:
        """Those of the unfinished work, or of the run that made the artefact."""
        if look.state in ACTIVE:
            return look.attempts
        note = read_json(self.root / "provenance" / f"{look.stage.name}.json")
        found = []
        for entry in note.get("attempts") or []:
            try:
                found.append(
                    Attempt(float(entry["started"]), str(entry["host"]), list(map(int, entry["resumed_after"])))
                )
            except (KeyError, TypeError, ValueError):
                continue
        return found

    def _refresh(self) -> None:
        self._read_settings()
        self._read_states()
        work, logs = scan(self.root / ".work"), scan(self.root / "logs")
        self._looks = {stage.name: self._look(stage, work, logs) for stage in self._table}

    def _settings_seen(self) -> list[Any]:
        files = [self.root / PARAMS, *sorted((self.root / "experiments").glob("*"))]
        return [(path.name, signature(_stat(path))) for path in files]

    def _read_settings(self) -> None:
        """Read the project again if a setting has changed; a fault leaves the project of before."""
        seen = self._settings_seen()
        if seen == self._settings:
            return
        self._settings = seen
        try:
            self._table = Table(load_project(self.root))
        except (UserError, OSError, ValueError) as error:
            self.message = " ".join(str(error).split())
        else:
            self.message, self._artefacts_seen = None, None

    def _read_states(self) -> None:
        """Compute the keys again if an artefact has changed, or after `KEYS` seconds."""
        small = [self.root / stage.directory / name for stage in self._table for name in (MANIFEST, RECIPE)]
        seen = [signature(_stat(path)) for path in small]
        if seen == self._artefacts_seen and time.monotonic() - self._keys_at < KEYS:
            return
        try:
            states = States(self._table, Keys(self._table, self._digests))
            self._states = {stage.name: states.of(stage) for stage in self._table}
        except (UserError, OSError):  # a stage is published at this instant, or the user's folder is away
            return
        self._artefacts_seen, self._keys_at = seen, time.monotonic()

    def _look(self, stage: Stage, work: dict[str, Any], logs: dict[str, Any]) -> Look:
        state = self._states.get(stage.name, "missing")
        directories = [name for name in work if re.fullmatch(f"{re.escape(stage.name)}-[0-9a-f]{{16}}", name)]
        newest = max(directories, key=lambda name: work[name].st_mtime, default=None)
        mine = [f"{stage.name}.log", *(f"{stage.name}-{job:05d}.log" for job in range(stage.jobs))]
        names = sorted((name for name in mine if name in logs), key=lambda name: -logs[name].st_mtime)
        look = Look(
            stage, state, self.root / ".work" / newest if newest else None, [self.root / "logs" / n for n in names]
        )
        if stage.jobs:
            look.jobs_done = len(scan(self.root / ".work" / stage.name))
        holders = self._holders(stage, work)
        if look.work:
            look.attempts = read_attempts(look.work)
        if state == "fresh" and not any(one.is_here and one.is_alive() for one in holders):
            return look
        self._judge(look, holders, max((logs[name].st_mtime for name in names), default=0.0))
        if look.state == "running":
            look.progress = self._progress(look)
        return look

    def _holders(self, stage: Stage, work: dict[str, Any]) -> list[Holder]:
        locks = [f"{stage.name}.lock", *(f"{stage.name}-{job}.lock" for job in range(stage.jobs))]
        found = [read_holder(self.root / ".work" / name) for name in locks if name in work and work[name].st_size]
        return [holder for holder in found if holder]

    def _judge(self, look: Look, holders: list[Holder], logged: float) -> None:
        """Decide whether a stage that is not fresh runs, and if not, why it ended."""
        signs = [logged, *(one.started for one in holders)]
        if look.work:
            signs += [
                stat.st_mtime for folder in (look.work, look.work / "checkpoints") for stat in scan(folder).values()
            ]
        quiet = max(0.0, time.time() - max(signs))
        alive = next((one for one in holders if one.is_here and one.is_alive()), None)
        away = next((one for one in holders if not one.is_here), None)
        error = _error(self.log(look))
        if alive:
            look.state, look.host, look.quiet = "running", alive.host, quiet
        elif away:
            minutes = self._table.project.params.watchdog_minutes
            limit = SILENCE if minutes is None else 60 * minutes
            look.host, look.quiet = away.host, quiet
            look.state = "running" if quiet <= limit else "stopped"
            look.why = None if quiet <= limit else f"no sign of life on {away.host}"
        elif holders:
            look.state, look.why, look.host = (
                "killed",
                "its process is gone; the same command continues it",
                holders[0].host,
            )
        elif error:
            look.state, look.why = "stopped", error
        elif look.work and not look.attempts and quiet <= UNKNOWN:
            look.state, look.quiet = "running", quiet
        elif look.work and not look.stage.jobs:  # jobs may wait for cores
            look.state, look.why = "stopped", "it ended before it was finished"

    def _progress(self, look: Look) -> list[ProgressLine]:
        """The newest progress in each log of a running stage, but of jobs that are done."""
        done = scan(self.root / ".work" / look.stage.name) if look.stage.jobs else {}
        found = []
        for path in look.logs:
            job = path.stem.removeprefix(look.stage.name).strip("-")
            if job and f"job-{job}.json" in done:
                continue
            line = newest(self._tails.of(path, _stat(path)))
            if line:
                found.append(line)
        return found


def newest(lines: list[str]) -> ProgressLine | None:
    """The last progress of a log; None after the end of that work."""
    for line in reversed(lines):
        if DONE.fullmatch(line):
            return None
        if found := read_line(line):
            return found
    return None


def _error(lines: list[str]) -> str | None:
    """The error at the end of a log."""
    for line in reversed(lines):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
        if read_line(line) or DONE.fullmatch(line):
            return None
    return None


def loss_of(line: ProgressLine) -> float | None:
    """The loss in a line of progress."""
    found = LOSS.search(line.note)
    try:
        value = float(found.group(1)) if found else None
    except ValueError:
        return None
    return value if value is not None and abs(value) < float("inf") else None


def _summary(look: Look) -> dict[str, Any]:
    return {
        "name": look.stage.name,
        "kind": look.stage.kind,
        "state": look.state,
        "reads": sorted(set(look.stage.inputs.values())),
        "host": look.host,
        "quiet": look.quiet,
        "why": look.why,
        "attempts": len(look.attempts),
        "jobs": {"done": look.jobs_done, "all": look.stage.jobs} if look.stage.jobs else None,
        "progress": [as_json(line) for line in look.progress],
    }


def as_json(line: ProgressLine) -> dict[str, Any]:
    """A line of progress with the numbers in its note."""
    memory, samples = MEMORY.search(line.note), SAMPLES.search(line.note)
    return {
        "label": line.label,
        "done": line.done,
        "total": line.total,
        "rate": line.rate,
        "unit": line.unit,
        "left": line.left,
        "loss": loss_of(line),
        "memory": float(memory.group(1)) if memory else None,
        "samples": samples.group(1) if samples else None,
    }


def _stat(path: Path) -> Any:
    try:
        return path.stat()
    except OSError:
        return None
