"""Time profile of a training step: `glassworks train NAME --profile`.

The training loop runs a few steps in a scratch folder, with rank 0 under torch.profiler. The profile publishes and resumes nothing, takes no lock,
and does not touch the work directory of the run. A training in progress only has to share the cores.
"""

import gzip
import os
import tempfile
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, schedule
from torch.profiler import profile as torch_profiler

from glassworks.artifacts.digests import disk_errors, write_bytes
from glassworks.artifacts.machine import available_cores
from glassworks.config.training import Execution, Training
from glassworks.data.reading.loader import PREFETCH
from glassworks.errors import ConfigError, Interrupted, ResourceError
from glassworks.pipeline.execution import Context, check_inputs
from glassworks.pipeline.stage import Stage
from glassworks.pipeline.table import Table
from glassworks.runtime.launch import device_kind, run_workers, worker_count
from glassworks.runtime.signals import StopRequest
from glassworks.stages.train import describe
from glassworks.training.loop import fit
from glassworks.training.validation import HeldOut
from glassworks.training.workers import Workers

WARM_UP, PROFILED = 3, 10
"""Maximum number of warm-up steps and of profiled steps."""
VALIDATED = 4
"""Held-out micro-batches that each worker validates, the first as warm-up. More would only enlarge the trace."""
OPERATORS, WIDTH = 10, 60
"""Number of operators listed, and maximum width of a name. Names of compiled graphs contain a digest."""
WORTH_A_WORD = 0.2
"""Minimum share of a step at which an avoidable part is reported as the bottleneck."""

EVERY_STEP = ("data", "embed", "couple", "forward", "backward", "reduce", "optimize")
"""Ranges that the loop marks in every step, in order of execution; `embed` and `couple` only for losses that couple the batch."""
NOW_AND_THEN = ("validate", "checkpoint")
OTHER = "other"
MODEL = ("embed", "couple", "forward", "backward")
EXCHANGES = ("c10d::", "gloo:", "nccl:", "record_param_comms")
RUNTIMES = ("cu", "hip")
"""Prefixes of GPU runtime calls."""


@dataclass(frozen=True)
class Plan:
    """Number of steps of a profile."""

    warm_up: int
    """Steps that are not profiled. They absorb caches, first allocations, compilation, and batches prefetched while the model was built."""
    profiled: int
    """Profiled steps. One more step follows, which validates and saves."""

    @property
    def steps(self) -> int:
        return self.warm_up + self.profiled + 1


class Interval(NamedTuple):
    """A named time interval, in µs."""

    name: str
    start: float
    end: float


def profile(table: Table, stage: Stage, threads: int = 1, workers: int | None = None) -> str:
    """A human-readable time profile of some steps of a training stage.

    Writes the trace to logs/profile/STAGE.json.gz. Raises the same errors as the stage.
    """
    root = table.project.root
    check_inputs(table, stage)
    inputs = {role: root / table[name].directory for role, name in stage.inputs.items()}
    experiment = table.project.experiments[stage.subject]
    device = device_kind(stage.params["device"])
    count = worker_count(experiment.training.micro_batches, threads, device, workers)
    plan = plan_steps(experiment.training, experiment.execution, count)
    (root / ".work").mkdir(exist_ok=True)
    prefix = f"profile-{stage.name}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=root / ".work", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        context = Context(root, stage, inputs, scratch, scratch / "output", threads, workers)
        with disk_errors(scratch):
            try:
                found = run_workers(_profiled, context, plan, count=count, device=device, folder=scratch / "workers")
            except Interrupted as stopped:
                name = str(stopped).partition(":")[0]
                raise Interrupted(f"{name}: stopped before the profile was there; nothing is left of it") from None
            trace = root / "logs/profile" / f"{stage.name}.json.gz"
            _keep_trace(scratch / "trace.json", trace)
    training, execution = experiment.training, experiment.execution
    every = {"validate": training.validate_every, "checkpoint": execution.checkpoint_every}
    every = {name: min(steps, training.steps) for name, steps in every.items()}
    parts = _per_step(found, every)
    speed = training.batch_size / sum(parts.values()) * 1e3
    lines = [
        f"{stage.name}: {count} {'worker' if count == 1 else 'workers'} on {device}, {training.batch_size} samples a step in "
        f"{training.micro_batches} micro-batches; {plan.profiled} steps profiled after {plan.warm_up} to warm up",
        "",
        *_part_rows(parts, found, every, count),
        "",
        *_operator_rows(found),
        "",
        f"{speed:,.0f} samples/s while profiled; peak memory {found['memory']:.2f} GB in the first worker",
        f"trace: {trace.relative_to(root)} (open it in ui.perfetto.dev or chrome://tracing)",
    ]
    if device == "cuda" and not found["kernels"]:
        lines.append("the driver does not let this user record the GPU: times are those of the CPU, which waits for it")
    waiting = found["waiting"] if count > 1 else 0.0
    return "\n".join([*lines, what_bounds(parts, waiting, execution.loader_workers, count, device)])


def plan_steps(training: Training, execution: Execution, workers: int) -> Plan:
    """The plan that fits into the steps of the experiment.

    The warm-up consumes all batches that loader workers prefetched before the first step. Until then, even the slowest loader looks fast.
    """
    if training.steps < 3:
        raise ConfigError(
            f"--profile takes 3 steps at least (one to warm up, one to look at, one that saves); training.steps is {training.steps}"
        )
    ready = -(-PREFETCH * execution.loader_workers * workers // training.micro_batches)
    warm_up = max(1, min(WARM_UP + ready, training.steps // 4))
    return Plan(warm_up, min(PROFILED, training.steps - warm_up - 1))


class _Done(Exception):
    """Raised after the last step of the plan."""


class _Notes:
    """A logger that records the time of the last row and the peak memory at `step`. Later peaks include the records of the profiler."""

    def __init__(self, step: int) -> None:
        self.step, self.gigabytes, self.last = step, 0.0, 0.0

    def log(self, row: dict[str, Any]) -> None:
        self.last = time.perf_counter()
        if row["step"] == self.step:
            self.gigabytes = row.get("memory_gb", self.gigabytes)

    def close(self) -> None:
        pass


def _profiled(workers: Workers, stop: StopRequest, context: Context, plan: Plan) -> dict[str, Any]:
    """The measurements of rank 0; {} on other ranks. Runs the plan on every rank. Rank 0 writes trace.json to the work directory."""
    described = describe(context)
    held_out = described.held_out
    notes, saving = _Notes(plan.warm_up), 0.0
    validations: list[float] = []
    profiler: Any = nullcontext()
    if workers.first:
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # Kineto logs its start and stop to stderr
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if workers.device.type == "cuda" else [])]
        steps = schedule(wait=0, warmup=plan.warm_up, active=plan.profiled + 1, repeat=1)
        profiler = torch_profiler(activities=activities, schedule=steps, acc_events=True)

    def after_step(step: int) -> None:
        nonlocal saving
        saving = time.perf_counter() - notes.last  # the checkpoint has no range; it follows the last row of a step
        if workers.first:
            profiler.step()
        if step == plan.steps:
            raise _Done

    run = replace(
        described,
        name=f"profile of {described.name} ({plan.steps} steps)",  # the progress count does not end with this number
        held_out=held_out and _timed(held_out, VALIDATED * workers.size, validations),
        training=described.training.model_copy(update={"validate_every": plan.steps}),
        execution=described.execution.model_copy(update={"checkpoint_every": plan.steps}),
        loggers=lambda step: [notes],
        after_step=after_step,
    )
    with profiler, suppress(_Done):
        fit(run, workers, stop)
    if not workers.first:
        return {}
    profiler.export_chrome_trace(str(context.work / "trace.json"))
    each = {"checkpoint": saving * 1e3}
    if held_out:
        each["validate"] = median(validations[1:] or validations) * len(workers.part(held_out.count)) * 1e3
    return {**account(profiler.events()), "each": each, "memory": notes.gigabytes}


def _timed(held_out: HeldOut, most: int, seconds: list[float]) -> HeldOut:
    """The first micro-batches of `held_out`. The time to read and validate each of them is appended to `seconds`."""

    def read(batches: range) -> Iterator[Any]:
        before = time.perf_counter()
        for batch in held_out.read(batches):
            yield batch
            seconds.append(time.perf_counter() - before)
            before += seconds[-1]

    return HeldOut(min(held_out.count, most), read)


def account(events: Sequence[Any]) -> dict[str, Any]:
    """Milliseconds per step by part, and the most expensive operators, from the events of torch's profiler.

    The last step, which validates and saves, is excluded.
    """
    host = [event for event in events if event.device_type == DeviceType.CPU]
    marks = [event for event in host if event.is_user_annotation]
    ranges = [_interval(event) for event in marks if event.name in EVERY_STEP]
    layers = [*_on_device(events, ranges), *ranges]
    windows = [_interval(event) for event in marks if event.name.startswith("ProfilerStep")]
    end = max(window.start for window in windows)
    steps = [paint(window, layers) for window in windows if window.start < end]
    parts = {name: median(step[name] for step in steps) / 1e3 for name in (*EVERY_STEP, OTHER)}
    waits = [_waiting(event) / 1e3 for event in marks if event.name == "reduce" and event.time_range.start < end]
    kernels = bool(_kernels(events))
    operators = _operators([event for event in host if event.time_range.start < end], kernels)
    return {
        "parts": {name: spent for name, spent in parts.items() if spent or name == OTHER},
        "waiting": min(median(waits), parts["reduce"]),
        "operators": [(name, spent / 1e3 / len(steps), calls / len(steps)) for name, spent, calls in operators],
        "kernels": kernels,
    }


def paint(window: Interval, layers: Iterable[Interval]) -> dict[str, float]:
    """Time of `window` covered by each name. Where intervals overlap, the earlier layer counts; uncovered time counts as `other`."""
    inside = [layer for layer in layers if layer.start < window.end and layer.end > window.start]
    edges = {min(max(edge, window.start), window.end) for layer in inside for edge in layer[1:]}
    covered: dict[str, float] = defaultdict(float)
    for start, end in pairwise(sorted({window.start, window.end, *edges})):
        name = next((layer.name for layer in inside if layer.start <= start and end <= layer.end), OTHER)
        covered[name] += end - start
    return covered


def _interval(event: Any) -> Interval:
    return Interval(event.name, event.time_range.start, event.time_range.end)


def _kernels(events: Sequence[Any]) -> list[Any]:
    return [event for event in events if event.device_type != DeviceType.CPU and not event.is_user_annotation]


def _on_device(events: Sequence[Any], ranges: list[Interval]) -> list[Interval]:
    """GPU activity: intervals of consecutive kernels launched in the same range, whenever they ran and whichever thread launched them.

    The host does not wait for a kernel where it launches the kernel, but sometimes in a later range.
    """
    ranges = sorted(ranges, key=lambda interval: interval.start)
    starts = [interval.start for interval in ranges]
    launches = [event for event in events if event.device_type == DeviceType.CPU and event.name.startswith(RUNTIMES)]
    launched = {event.id: event.time_range.start for event in launches}
    stretches: list[Interval] = []
    for kernel in sorted(_kernels(events), key=lambda event: event.time_range.start):
        at = launched.get(kernel.id, -1.0)
        index = bisect_right(starts, at) - 1
        if index < 0 or at > ranges[index].end:
            continue
        stretch = _interval(kernel)._replace(name=ranges[index].name)
        if stretches and stretches[-1].name == stretch.name:
            stretch = stretch._replace(start=stretches.pop().start)
        stretches.append(stretch)
    return stretches


def _waiting(reduce: Any) -> float:
    """Time in µs that this thread waited in a `reduce` for communication or for the device."""

    def waits(event: Any) -> float:
        if event.name.startswith(EXCHANGES) or "Synchronize" in event.name:
            return event.time_range.elapsed_us()
        return sum(waits(child) for child in event.cpu_children)

    return reduce.self_cpu_time_total + sum(waits(child) for child in reduce.cpu_children)


def _operators(events: Iterable[Any], on_device: bool) -> list[tuple[str, float, int]]:
    """Name, self time in µs and number of calls of the most expensive operators. Uses device time if `on_device`, else CPU time."""
    spent, calls = defaultdict(float), defaultdict(int)
    for event in events:
        if not event.is_user_annotation and not event.is_async:
            spent[event.name] += event.self_device_time_total if on_device else event.self_cpu_time_total
            calls[event.name] += 1
    dearest = sorted(spent, key=lambda name: -spent[name])[:OPERATORS]
    return [(name, spent[name], calls[name]) for name in dearest if spent[name]]


def _per_step(found: dict[str, Any], every: dict[str, int]) -> dict[str, float]:
    """Milliseconds per step by part, in order of execution. Validation and checkpoints are amortised over their interval in steps."""
    times = found["parts"] | {name: spent / every[name] for name, spent in found["each"].items()}
    return {name: times[name] for name in (*EVERY_STEP, *NOW_AND_THEN, OTHER) if name in times}


def _part_rows(parts: dict[str, float], found: dict[str, Any], every: dict[str, int], workers: int) -> Iterator[str]:
    notes = {name: f"{spent:,.1f} ms every {_steps(every[name])}" for name, spent in found["each"].items()}
    if workers > 1:
        notes["reduce"] = f"{found['waiting']:,.1f} ms of it waiting for other workers"
    notes[OTHER] = "logging, moving batches, Python"
    total = sum(parts.values())
    yield f"{'part':12}{'ms/step':>10}{'share':>10}"
    for name, spent in parts.items():
        row = f"{name:12}{spent:10,.2f}{spent / total:10.1%}"
        yield f"{row}   {notes[name]}" if name in notes else row
    yield f"{'step':12}{total:10,.2f}{1:10.1%}"


def _operator_rows(found: dict[str, Any]) -> Iterator[str]:
    width = min(max(len(name) for name, _, _ in found["operators"]), WIDTH) + 2
    yield f"{'operator':{width}}{'GPU' if found['kernels'] else 'CPU':>6} ms/step{'calls/step':>12}"
    for name, spent, calls in found["operators"]:
        yield f"{name[:WIDTH]:{width}}{spent:14,.2f}{calls:12,.0f}"


def what_bounds(parts: dict[str, float], waiting: float, loader_workers: int, workers: int, device: str) -> str:
    """One line that names the bottleneck: an avoidable part with a remedy, or else the model."""
    total = sum(parts.values())
    cores = available_cores()
    spare = cores - workers * (loader_workers + (device == "cpu"))
    reading = f"raise execution.loader_workers (now {loader_workers})"
    if spare < workers:
        reading += f" where there are more cores than the {cores} here, or store smaller images"
    remedies = {
        "data": ("the data takes", reading),
        "optimize": ("the optimizer takes", "raise training.batch_size, for fewer steps over as many samples"),
        "waiting": ("waiting for other workers takes", "give the run a core for each worker, or use fewer --workers"),
        "validate": ("validation takes", "raise training.validate_every"),
        "checkpoint": ("saving takes", "raise execution.checkpoint_every"),
        OTHER: ("what surrounds the model takes", "raise training.batch_size, or look at the trace"),
    }
    times = parts | {"waiting": waiting}
    worst = max(remedies, key=lambda name: times.get(name, 0.0))
    if times.get(worst, 0.0) >= WORTH_A_WORD * total:
        what, remedy = remedies[worst]
        return f"{what} {times[worst] / total:.0%} of a step: {remedy}"
    model = sum(parts.get(name, 0.0) for name in MODEL)
    return f"the model bounds this run: its forward and backward passes take {model / total:.0%} of a step"


def _steps(count: int) -> str:
    return "step" if count == 1 else f"{count:,} steps"


def _keep_trace(written: Path, path: Path) -> None:
    """Compress the trace to `path`. Raises `ResourceError` if the trace is truncated, since the profiler does not report a full disk."""
    content = written.read_bytes() if written.exists() else b""
    if not content.rstrip().endswith(b"}"):
        raise ResourceError(f"{written.name}: the trace was not written to its end; free some space and run it again")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, gzip.compress(content, compresslevel=6))
