"""The stage `train`: builds the run of an experiment, trains it in worker processes and publishes the weights."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from torch import nn

from glassworks.config.experiment import Experiment, experiment_of
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.loader import micro_batches
from glassworks.data.reading.order import Order, sample_seed
from glassworks.data.reading.rows import Keyed, Rows
from glassworks.pipeline.execution import Context
from glassworks.runtime.devices import held_devices
from glassworks.runtime.launch import device_kind, run_workers, worker_count
from glassworks.runtime.loggers import Logger, open_loggers
from glassworks.runtime.signals import StopRequest
from glassworks.tasks.protocol import AnyTask, load_task_module
from glassworks.training.loop import DIGESTS, METRICS, Run, fit
from glassworks.training.metrics_log import read_metrics, step_of, write_curves
from glassworks.training.start import as_built, continue_from
from glassworks.training.task import Batch
from glassworks.training.validation import HeldOut
from glassworks.training.workers import Workers


def run(context: Context) -> dict[str, Any]:
    """The counts of a trained experiment.

    The artefact depends on parameters, data and code alone. With exact reduction it depends neither on interruptions nor on the number of workers.
    """
    experiment, node = _experiment(context), context.node
    training, execution = experiment.training, experiment.execution
    device = device_kind(context.params["device"])
    share = training.micro_batches // node.nodes
    most = min(share, execution.workers_per_node or share)
    with held_devices(most, context.workers) if device == "cuda" else nullcontext():
        local = worker_count(share if context.workers else most, context.threads, device, context.workers)
        count = local * node.nodes
        context.fingerprint.update(device=device, reduction=training.reduction)
        if training.reduction != "exact":
            context.fingerprint["workers"] = count
        folder = context.work / "workers"
        notes = run_workers(_train, context, count=count, device=device, folder=folder, node=node)
    context.notes.update(notes, workers=count, nodes=node.nodes)
    for name in (METRICS, DIGESTS):
        (context.output / name).write_bytes((context.work / name).read_bytes())
    write_curves(read_metrics(context.work / METRICS), context.output / "plots")
    return {name: notes[name] for name in ("parameters", "steps", "published_step")} | {
        "samples": notes["steps"] * training.batch_size
    }


def _train(workers: Workers, stop: StopRequest, context: Context) -> dict[str, Any]:
    """The notes of the run on rank 0, which writes the model; other ranks return none."""
    task = _task(context)
    fitted = fit(_run(context, task), workers, stop)
    if not workers.first:
        return {}
    task.save(fitted.model, context.output)
    return {
        "parameters": sum(parameter.numel() for parameter in fitted.model.parameters()),
        "steps": fitted.step,
        "published_step": fitted.published_step,
        "resumed_after_step": fitted.resumed_step,
        "samples_per_second": round(fitted.samples_per_second, 1),
    }


def _experiment(context: Context) -> Experiment:
    assert context.stage.execution is not None
    return experiment_of(context.params, context.stage.execution)


def describe(context: Context) -> Run[nn.Module, Batch]:
    """The run of an experiment."""
    return _run(context, _task(context))


def _task(context: Context) -> AnyTask:
    experiment = _experiment(context)
    return load_task_module(experiment.task).make(experiment, context.inputs, context.fingerprint)


def _run(context: Context, task: AnyTask) -> Run[nn.Module, Batch]:
    experiment, seed = _experiment(context), context.params["seed"]
    shards, tokens = context.inputs["shards"], context.work / "tokens"
    dataset = task.arrange(ShardDataset(shards, "train", verify="first_touch"), tokens / "train")
    held_out = task.arrange(ShardDataset(shards, "validation", verify="first_touch"), tokens / "validation")
    return Run(
        name=context.stage.name,
        folder=context.work,
        task=task,
        batches=partial(_batches, dataset, experiment, task, seed),
        held_out=_held_out(held_out, experiment, task, seed) if len(held_out) else None,
        seed=seed,
        optimization=experiment.optimization,
        training=experiment.training,
        execution=experiment.execution,
        start=partial(continue_from, directory=context.inputs["start"]) if "start" in context.inputs else as_built,
        loggers=partial(_loggers, context),
    )


def _batches(
    dataset: Rows[Keyed], experiment: Experiment, task: AnyTask, seed: int, first: int, part: range
) -> Iterator[Sequence[Batch]]:
    training = experiment.training
    return micro_batches(
        dataset,
        Order(dataset.shard_sizes, seed, training.shuffle_window),
        start_step=first,
        steps=training.steps - first,
        batch_size=training.batch_size,
        micro_batches=training.micro_batches,
        workers=experiment.execution.loader_workers,
        transform=task.example,
        collate=task.collate,
        seed=seed,
        part=part,
    )


def _held_out(dataset: Rows[Keyed], experiment: Experiment, task: AnyTask, seed: int) -> HeldOut[Batch]:
    """The micro-batches of the validation split in order, with the seeds of epoch 0."""
    size = experiment.training.batch_size // experiment.training.micro_batches

    def read(batches: range) -> Iterator[Batch]:
        for number in batches:
            indices = range(number * size, min((number + 1) * size, len(dataset)))
            rows = [dataset[index] for index in indices]
            yield task.collate([task.example(row, sample_seed(seed, 0, row.key)) for row in rows])

    return HeldOut(-(-len(dataset) // size), read)


def _loggers(context: Context, first: int) -> list[Logger]:
    return open_loggers(
        _experiment(context).execution.loggers,
        experiment=context.stage.subject,
        folder=context.root / "logs",
        settings=context.params,
        run_id=context.work.name,
        first_step=first,
        rows=[row for row in read_metrics(context.work / METRICS) if step_of(row) <= first] if first else (),
    )
