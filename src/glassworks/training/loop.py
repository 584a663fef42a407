"""The training loop: steps, logs, validation, checkpoints, resume. The result does not depend on interruptions."""

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NoReturn, Protocol, cast

import torch
from torch import nn
from torch.profiler import record_function
from torch.utils.checkpoint import checkpoint as recomputed

from glassworks.config.optimization import Optimization
from glassworks.config.training import Execution, Training
from glassworks.models.saving import Matches
from glassworks.progress import Progress
from glassworks.training.checkpoint import Checkpoints, load, load_weights, snapshot
from glassworks.training.determinism import make_deterministic
from glassworks.training.digests import DigestLog
from glassworks.training.metrics_log import Logger, LogRow, MetricsLog, read_metrics, step_of
from glassworks.training.sharding import to_cpu, whole
from glassworks.training.start import as_built
from glassworks.training.step import StepResult, Trainer, seed_generators
from glassworks.training.task import B, M, Network, Trainable
from glassworks.training.validation import HeldOut, ValidationHistory, validate
from glassworks.training.workers import Workers
from glassworks.watchdog import beat

METRICS, DIGESTS, CHECKPOINTS = "metrics.jsonl", "digests.jsonl", "checkpoints"


class Stop(Protocol):
    """An asynchronous request to stop, such as a signal (`glassworks.runtime.signals`)."""

    def counts(self) -> list[int]:
        """For each reason to stop, 1 if it applies to this rank, else 0. The loop sums the counts over ranks."""
        ...

    def end(self, counts: list[int], step: int) -> NoReturn:
        """End the run for the reasons in `counts`. The state after `step` steps is on disk."""
        ...


@dataclass(frozen=True)
class Run(Generic[M, B]):
    """The definition of a run: task, data and settings, identical on all ranks."""

    name: str
    """The label of the progress bar."""
    folder: Path
    """Logs and checkpoints; survives a kill."""
    task: Trainable[M, B]
    batches: Callable[[int, range], Iterator[Sequence[B]]]
    """batches(first, part) yields, for each step from `first` on, the micro-batches `part` of its global batch."""
    held_out: HeldOut[B] | None
    seed: int
    optimization: Optimization
    training: Training
    execution: Execution
    start: Callable[[nn.Module], Matches | None] = as_built
    """Replaces the initial weights of the built model, such as by those of another run, and returns their origin."""
    loggers: Callable[[int], list[Logger]] = lambda step: []
    """Opens further loggers for a run that continues after `step`. Called on rank 0 only."""
    after_step: Callable[[int], None] = lambda step: None
    """Called on every rank after each step, once it is logged, validated and saved."""


@dataclass(frozen=True)
class Fitted(Generic[M]):
    """A finished run."""

    model: M
    """The model with the weights to publish, on the CPU."""
    step: int
    """Steps taken; fewer than configured after an early stop."""
    published_step: int
    """The step of the published weights."""
    resumed_step: int
    """The step of the checkpoint that the run resumed from; 0 for a new run."""
    samples_per_second: float
    start: Matches | None = None
    """The origin of the initial weights; None if the task has built them."""


def fit(run: Run[M, B], workers: Workers, stop: Stop) -> Fitted[M]:
    """The trained model. Resumes from the newest undamaged checkpoint; the bytes do not depend on interruptions.

    A request to stop saves a checkpoint and ends the run by `stop.end`.
    """
    make_deterministic(run.training.compile)
    with Checkpoints(run.folder / CHECKPOINTS, run.execution.keep_checkpoints) as checkpoints:
        return _fit(run, workers, stop, make_trainer(run, workers), checkpoints)


def _fit(run: Run[M, B], workers: Workers, stop: Stop, trainer: Trainer[M, B], checkpoints: Checkpoints) -> Fitted[M]:
    history = ValidationHistory(run.training.selection)
    first = workers.broadcast(_resumable_step(run, checkpoints, history) if workers.first else 0)
    if first:
        load(checkpoints.at(first), trainer)
    if not workers.first:
        for row in _rows_until(run, first):
            history.add(row)
    speed, step = _Speed(), first
    batches = iter(run.batches(first, workers.part(run.training.micro_batches)))
    # the first batch forks the loader processes: fetch it before the loggers start threads
    upcoming = next(batches) if step < run.training.steps and not history.exhausted else None
    with _Logs(run, workers, first) as logs:
        while step < run.training.steps and not history.exhausted:
            with record_function("data"):
                batch, upcoming = upcoming or next(batches), None
            result = trainer.step(batch, step, stop.counts)
            beat()
            step += 1
            speed.samples += run.training.batch_size
            last = step == run.training.steps
            logs.step(result, step, speed, trainer)
            if run.held_out and (last or step % run.training.validate_every == 0):
                scores = {"step": step, **_validated(run, trainer, workers, step)}
                logs.row(scores)
                history.add(scores)
                last |= history.exhausted
            stopping = any(result.signals)
            best = history.best_step == step
            if last or stopping or best or step % run.execution.checkpoint_every == 0:
                with record_function("checkpoint"):
                    logs.flush()
                    state = snapshot(trainer, step)
                    if state:
                        checkpoints.save(state, history.best_step)
            run.after_step(step)
            if stopping:
                checkpoints.wait()
                workers.barrier()
                stop.end(result.signals, step)
            checkpoints.check()
    checkpoints.wait()
    workers.barrier()
    published = _choose(run, trainer, checkpoints, history, step)
    to_cpu(trainer.model)
    return Fitted(trainer.model, step, published, first, speed.rate, trainer.start)


def make_trainer(run: Run[M, B], workers: Workers) -> Trainer[M, B]:
    """A trainer around the model with its initial weights."""
    seed_generators(run.seed, "initial weights")
    model = run.task.build()
    start = run.start(model)
    if start and workers.first:
        print(f"{run.name}: {start}", file=sys.stderr, flush=True)
    model.to(workers.device)
    trainer = Trainer(model, run.task, run.optimization, run.training, run.seed, workers)
    trainer.start = start
    if run.execution.gradient_checkpointing:
        recompute(cast(Network, model).blocks())
    if run.training.compile:
        model.compile(dynamic=False)
    return trainer


def recompute(blocks: Iterator[nn.Module]) -> None:
    """Apply gradient checkpointing (Chen et al., 2016) to these modules.

    A module saves only its inputs, and the backward pass recomputes the rest, dropout included.
    """
    for block in blocks:
        forward = block.forward

        def again(*arguments: Any, _forward: Any = forward, **options: Any) -> Any:
            if not torch.is_grad_enabled():
                return _forward(*arguments, **options)
            return recomputed(_forward, *arguments, use_reentrant=False, **options)

        block.forward = again


def _resumable_step(run: Run[M, B], checkpoints: Checkpoints, history: ValidationHistory) -> int:
    """The step of the checkpoint to resume from, 0 for none. Replays its validations into `history`.

    It is the newest undamaged checkpoint with a complete log. If the best weights are published, their checkpoint must be undamaged, too.
    """
    while True:
        newest = checkpoints.newest()
        step = newest.step if newest else 0
        rows = _rows_until(run, step)
        history.clear()
        for row in rows:
            history.add(row)
        if not newest:
            return 0
        best = history.best_step
        if [step_of(row) for row in rows if "loss" in row] != list(range(1, step + 1)):
            print(f"warning: {run.folder / METRICS}: rows are missing; starting again", file=sys.stderr, flush=True)
            checkpoints.drop_after(0)
        elif run.training.selection.publish == "best" and best and not checkpoints.is_whole(best):
            print(f"warning: the best checkpoint (step {best}) is damaged; going back", file=sys.stderr, flush=True)
            checkpoints.drop_after(best - 1)
        else:
            print(f"{run.name}: continuing after step {step}", file=sys.stderr, flush=True)
            return step


def _rows_until(run: Run[M, B], step: int) -> list[LogRow]:
    path = run.folder / METRICS
    return [row for row in read_metrics(path) if step_of(row) <= step] if path.exists() else []


def _validated(run: Run[M, B], trainer: Trainer[M, B], workers: Workers, step: int) -> dict[str, float]:
    """The metrics of the current weights, or of their average if the run keeps one."""
    assert run.held_out
    if trainer.average:
        trainer.average.swap()
    with record_function("validate"):
        found = validate(trainer.model, run.task, run.held_out, trainer.precision, workers, step)
    if trainer.average:
        trainer.average.swap()
    return found


def _choose(
    run: Run[M, B], trainer: Trainer[M, B], checkpoints: Checkpoints, history: ValidationHistory, step: int
) -> int:
    """The step of the weights to publish, which are loaded into the model."""
    if run.training.selection.publish == "best" and history.best_step:
        best = checkpoints.at(history.best_step)
        load_weights(best, trainer, averaged=trainer.average is not None)
        return best.step
    if trainer.average:
        trainer.average.swap()
    return step


class _Speed:
    """Samples per second since this process started training."""

    def __init__(self) -> None:
        self.start, self.samples = time.monotonic(), 0

    @property
    def rate(self) -> float:
        return self.samples / max(time.monotonic() - self.start, 1e-9)


class _Logs(Generic[M, B]):
    """Metrics, digests and progress, written by rank 0; other ranks only contribute shards."""

    def __init__(self, run: Run[M, B], workers: Workers, first: int) -> None:
        self.run, self.workers = run, workers
        if workers.first:
            run.folder.mkdir(parents=True, exist_ok=True)
            self.metrics = MetricsLog(run.folder / METRICS, first)
            self.digests = DigestLog(run.folder / DIGESTS, first)
            self.loggers = run.loggers(first)
            self.progress = Progress(run.name, run.training.steps, "steps", initial=first)

    def __enter__(self) -> "_Logs[M, B]":
        if self.workers.first:
            self.progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.workers.first:
            self.progress.__exit__(kind, error, trace)
            for logger in self.loggers:
                logger.close()
            self.metrics.close()
            self.digests.close()

    def step(self, result: StepResult, step: int, speed: _Speed, trainer: Trainer[M, B]) -> None:
        """Log a step. Every rank must call this."""
        rates = {"learning_rate": result.rates["default"]}
        rates |= {f"learning_rate.{name}": rate for name, rate in result.rates.items() if name != "default"}
        row: dict[str, object] = {
            "step": step,
            "loss": result.loss,
            **{f"loss.{name}": part for name, part in result.parts.items()},
            **rates,
            "gradient_norm": result.gradient_norm
            if math.isfinite(result.gradient_norm)
            else None,  # None: fp16 overflow
            "tokens": int(result.weight) if result.weight.is_integer() else result.weight,
            "samples": step * self.run.training.batch_size,
        }
        if result.loss_scale is not None:
            row["loss_scale"] = result.loss_scale
        memory = _peak_memory(self.workers.device)
        self.row(row, {"samples_per_second": speed.rate, "memory_gb": memory / 1e9})
        if step % self.run.training.digest_every == 0 or step == self.run.training.steps:
            tensors = [(name, whole(parameter.detach())) for name, parameter in trainer.groups.trainable.items()]
            if self.workers.first:
                self.digests.write(step, tensors)
        if self.workers.first:
            note = f"loss {result.loss:.3f}  {speed.rate:,.0f} samples/s  {memory / 1e9:.1f} GB"
            self.progress.advance(note=note)

    def row(self, row: LogRow, volatile: LogRow | None = None) -> None:
        """Write a row. Loggers also show `volatile` values, which differ between equal runs and stay out of the record."""
        if self.workers.first:
            self.metrics.write(row)
            for logger in self.loggers:
                logger.log({**row, **(volatile or {})})

    def flush(self) -> None:
        """Flush to disk: a checkpoint must never be newer than its log."""
        if self.workers.first:
            self.metrics.flush()
            self.digests.flush()


def _peak_memory(device: torch.device) -> int:
    """Peak memory in bytes, of a CUDA device or else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
