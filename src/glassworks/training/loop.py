"""The training loop: steps, logs, validations, checkpoints, and an end that is the same whatever happened on the way."""

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function
from torch.utils.checkpoint import checkpoint as recomputed

from glassworks.config.optimization import Optimization
from glassworks.config.training import Execution, Training
from glassworks.progress import Progress
from glassworks.training import signals
from glassworks.training.checkpoint import Checkpoints, load, load_weights, snapshot
from glassworks.training.digests import DigestLog
from glassworks.training.loggers import Logger
from glassworks.training.metrics_log import MetricsLog, read_metrics
from glassworks.training.sharding import whole
from glassworks.training.step import StepResult, Trainer, seed_generators
from glassworks.training.validation import HeldOut, Progression, validate
from glassworks.training.workers import Workers
from glassworks.watchdog import beat

METRICS, DIGESTS, CHECKPOINTS = "metrics.jsonl", "digests.jsonl", "checkpoints"


@dataclass(frozen=True)
class Run:
    """What is trained, on what, and how; the same on all workers."""

    name: str
    """For people: shown beside the progress."""
    folder: Path
    """Work in progress: logs and checkpoints; survives a kill."""
    task: Any
    batches: Callable[[int, range], Iterator[Sequence[Any]]]
    """batches(first, part) yields, for each step from `first` on, the micro-batches `part` of its global batch."""
    held_out: HeldOut | None
    seed: int
    optimization: Optimization
    training: Training
    execution: Execution
    loggers: Callable[[int], list[Logger]] = lambda step: []
    """Opens further loggers for a run that goes on after `step`; asked by the first worker only."""
    after_step: Callable[[int], None] = lambda step: None
    """Called by every worker after each step, when it has logged, validated and saved."""


@dataclass(frozen=True)
class Fitted:
    """A finished run."""

    weights: dict[str, Tensor]
    """What is to be published, by name, on the CPU; of the first worker only."""
    step: int
    """Steps taken: fewer than configured after an early stop."""
    published_step: int
    """The step whose weights these are."""
    resumed_step: int
    samples_per_second: float


def fit(run: Run, workers: Workers, stop: signals.StopRequest) -> Fitted:
    """Train to the end, or to a signal; goes on from the newest whole checkpoint. What comes out depends on neither."""
    torch.set_num_threads(1)  # thread counts change bits
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing reads it, and filling it costs time
    with Checkpoints(run.folder / CHECKPOINTS, run.execution.keep_checkpoints) as checkpoints:
        return _fit(run, workers, stop, make_trainer(run, workers), checkpoints)


def _fit(run: Run, workers: Workers, stop: signals.StopRequest, trainer: Trainer, checkpoints: Checkpoints) -> Fitted:
    progression = Progression(run.training.selection)
    first = workers.from_first(_resumable_step(run, checkpoints, progression) if workers.first else 0)
    if first:
        load(checkpoints.at(first), trainer)
    if not workers.first:
        for row in _rows_until(run, first):
            progression.add(row)
    speed, step = _Speed(), first
    batches = iter(run.batches(first, workers.part(run.training.micro_batches)))
    # loader processes are forked when the first batch is asked for: before the loggers start threads
    upcoming = next(batches) if step < run.training.steps and not progression.exhausted else None
    with _Logs(run, workers, first) as logs:
        while step < run.training.steps and not progression.exhausted:
            with record_function("data"):
                batch, upcoming = upcoming or next(batches), None
            result = trainer.step(batch, step, stop.counts)
            beat()
            step += 1
            speed.samples += run.training.batch_size
            last = step == run.training.steps
            logs.step(result, step, speed, trainer)
            if run.held_out and (last or step % run.training.validate_every == 0):
                row = {"step": step, **_validated(run, trainer, workers)}
                logs.row(row)
                progression.add(row)
                last |= progression.exhausted
            stopping = any(result.signals)
            best = progression.best_step == step
            if last or stopping or best or step % run.execution.checkpoint_every == 0:
                with record_function("checkpoint"):
                    logs.flush()
                    state = snapshot(trainer, step)
                    if state:
                        checkpoints.save(state, progression.best_step)
            run.after_step(step)
            if stopping:
                checkpoints.wait()
                workers.wait_for_all()
                signals.stop(result.signals, step)
            checkpoints.check()
    checkpoints.wait()
    workers.wait_for_all()
    published = _choose(run, trainer, checkpoints, progression, step)
    weights = {name: whole(tensor.detach()).cpu() for name, tensor in trainer.model.state_dict().items()}
    return Fitted(weights if workers.first else {}, step, published, first, speed.rate)


def make_trainer(run: Run, workers: Workers) -> Trainer:
    """The model with its initial weights, and what trains it."""
    seed_generators(run.seed, "initial weights")
    model = run.task.build().to(workers.device)
    trainer = Trainer(model, run.task, run.optimization, run.training, run.seed, workers)
    if run.execution.gradient_checkpointing:
        recompute(model.blocks())
    if run.training.compile:
        model.compile(dynamic=False)
    return trainer


def recompute(blocks: Iterator[nn.Module]) -> None:
    """Gradient checkpointing (Chen et al., 2016): these modules keep their inputs only, and compute again in the backward pass, dropout included."""
    for block in blocks:
        forward = block.forward

        def again(*arguments: Any, _forward: Any = forward, **options: Any) -> Any:
            if not torch.is_grad_enabled():
                return _forward(*arguments, **options)
            return recomputed(_forward, *arguments, use_reentrant=False, **options)

        block.forward = again  # type: ignore[method-assign]


def _resumable_step(run: Run, checkpoints: Checkpoints, progression: Progression) -> int:
    """The step after which the run goes on, its validations in `progression`: the newest whole checkpoint with a whole log and, if it will be asked for, the best."""
    while True:
        newest = checkpoints.newest()
        step = newest.step if newest else 0
        rows = _rows_until(run, step)
        progression.__init__(run.training.selection)  # type: ignore[misc]
        for row in rows:
            progression.add(row)
        if not newest:
            return 0
        best = progression.best_step
        if [row["step"] for row in rows if "loss" in row] != list(range(1, step + 1)):
            print(f"warning: {run.folder / METRICS}: rows are missing; starting again", file=sys.stderr, flush=True)
            checkpoints.drop_after(0)
        elif run.training.selection.publish == "best" and best and not checkpoints.is_whole(best):
            print(f"warning: the best checkpoint (step {best}) is damaged; going back", file=sys.stderr, flush=True)
            checkpoints.drop_after(best - 1)
        else:
            print(f"{run.name}: continuing after step {step}", file=sys.stderr, flush=True)
            return step


def _rows_until(run: Run, step: int) -> list[dict[str, Any]]:
    path = run.folder / METRICS
    return [row for row in read_metrics(path) if row["step"] <= step] if path.exists() else []


def _validated(run: Run, trainer: Trainer, workers: Workers) -> dict[str, float]:
    """Validate the weights that would be published."""
    assert run.held_out
    if trainer.average:
        trainer.average.swap()
    with record_function("validate"):
        found = validate(trainer.model, run.task, run.held_out, trainer.precision, workers)
    if trainer.average:
        trainer.average.swap()
    return found


def _choose(run: Run, trainer: Trainer, checkpoints: Checkpoints, progression: Progression, step: int) -> int:
    """Put the weights to publish into the model; the step they are of."""
    if run.training.selection.publish == "best" and progression.best_step:
        best = checkpoints.at(progression.best_step)
        load_weights(best, trainer.model, averaged=trainer.average is not None)
        return best.step
    if trainer.average:
        trainer.average.swap()
    return step


class _Speed:
    """Samples per second of this run since its first step."""

    def __init__(self) -> None:
        self.start, self.samples = time.monotonic(), 0

    @property
    def rate(self) -> float:
        return self.samples / max(time.monotonic() - self.start, 1e-9)


class _Logs:
    """What the first worker writes down and shows; the others only give what is spread."""

    def __init__(self, run: Run, workers: Workers, first: int) -> None:
        self.run, self.workers = run, workers
        if workers.first:
            run.folder.mkdir(parents=True, exist_ok=True)
            self.metrics = MetricsLog(run.folder / METRICS, first)
            self.digests = DigestLog(run.folder / DIGESTS, first)
            self.loggers = run.loggers(first)
            self.progress = Progress(run.name, run.training.steps, "steps", initial=first)

    def __enter__(self) -> "_Logs":
        if self.workers.first:
            self.progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.workers.first:
            self.progress.__exit__(*error)
            for logger in self.loggers:
                logger.close()
            self.metrics.close()
            self.digests.close()

    def step(self, result: StepResult, step: int, speed: _Speed, trainer: Trainer) -> None:
        rates = {"learning_rate": result.rates["default"]}
        rates |= {f"learning_rate.{name}": rate for name, rate in result.rates.items() if name != "default"}
        row = {
            "step": step,
            "loss": result.loss,
            **rates,
            "gradient_norm": result.gradient_norm if math.isfinite(result.gradient_norm) else None,  # fp16 overflowed
            "tokens": result.weight,
            "samples": step * self.run.training.batch_size,
        }
        if result.loss_scale is not None:
            row["loss_scale"] = result.loss_scale
        memory = _peak_memory(self.workers.device)
        self.row(row, {"samples_per_second": speed.rate, "memory_gb": memory / 1e9})
        if step % self.run.training.digest_every == 0 or step == self.run.training.steps:
            tensors = [(name, whole(parameter.detach())) for name, parameter in trainer.groups.parameters.items()]
            if self.workers.first:
                self.digests.write(step, tensors)
        if self.workers.first:
            note = f"loss {result.loss:.3f}  {speed.rate:,.0f} samples/s  {memory / 1e9:.1f} GB"
            self.progress.advance(note=note)

    def row(self, row: dict[str, Any], passing: dict[str, float] | None = None) -> None:
        """Write a row; `passing` is shown by loggers but is no part of the record, for it varies between equal runs."""
        if self.workers.first:
            self.metrics.write(row)
            for logger in self.loggers:
                logger.log({**row, **(passing or {})})

    def flush(self) -> None:
        """To disk: a checkpoint must never be newer than the log before it."""
        if self.workers.first:
            self.metrics.flush()
            self.digests.flush()


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
