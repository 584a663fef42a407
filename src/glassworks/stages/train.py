"""The stage `train`: builds the run of an experiment, trains it in worker processes and publishes the weights."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from glassworks.config.data import Data, Options
from glassworks.config.datasets import Split
from glassworks.config.experiment import Experiment, experiment_of
from glassworks.config.training import check_metric
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.loader import micro_batches
from glassworks.data.reading.mixture import Part, PartRow, order_of
from glassworks.data.reading.order import sample_seed
from glassworks.data.reading.rows import Keyed
from glassworks.errors import ConfigError, DataError
from glassworks.models.quantisation import count_parameters
from glassworks.models.saving import Matches
from glassworks.pipeline.execution import Context
from glassworks.runtime.devices import held_devices
from glassworks.runtime.launch import card, device_kind, run_workers, worker_count
from glassworks.runtime.loggers import Logger, open_loggers
from glassworks.runtime.signals import StopRequest
from glassworks.tasks.protocol import AnyTask, load_task_module
from glassworks.training.loop import DIGESTS, METRICS, Run, fit
from glassworks.training.metrics_log import read_metrics, step_of, write_curves
from glassworks.training.start import as_built, continue_from
from glassworks.training.task import Batch, CutsTexts, StartingTask
from glassworks.training.validation import HeldOut, memorised_after
from glassworks.training.workers import Workers

CUT = ("captions", "cut_captions")
AnyPart = Part[Keyed, Options]


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
    context.fingerprint.update(notes.pop("fingerprint"))
    context.notes.update(notes, workers=count, nodes=node.nodes)
    for name in (METRICS, DIGESTS):
        (context.output / name).write_bytes((context.work / name).read_bytes())
    write_curves(read_metrics(context.work / METRICS), context.output / "plots")
    counts = {name: notes[name] for name in ("parameters", "steps", "published_step")} | {
        "samples": notes["steps"] * training.batch_size
    }
    memorised = memorised_after(read_metrics(context.work / METRICS))
    if memorised is not None:
        counts["memorised_after"] = memorised
        print(
            f"{context.stage.name}: memorised: validation loss rose after step {memorised:,}",
            file=sys.stderr,
            flush=True,
        )
    return counts | {name: notes[name] for name in CUT if name in notes}


def _train(workers: Workers, stop: StopRequest, context: Context) -> dict[str, Any]:
    """The notes of the run on rank 0, which writes the model; other ranks return none."""
    task = _task(context)
    described = _run(context, task)
    cut = _count_cut(context, task) if workers.first else {}
    fitted = fit(described, workers, stop)
    if not workers.first:
        return {}
    task.save(fitted.model, context.output)
    return {
        "fingerprint": card(workers.device),
        "parameters": count_parameters(fitted.model),
        "steps": fitted.step,
        "published_step": fitted.published_step,
        "resumed_after_step": fitted.resumed_step,
        "samples_per_second": round(fitted.samples_per_second, 1),
        **({"start": fitted.start.as_json()} if fitted.start else {}),
        **cut,
    }


def _count_cut(context: Context, task: AnyTask) -> dict[str, int]:
    """The numbers of training captions and of cut ones, with a warning if there are any; empty for a task that cuts nothing."""
    if not isinstance(task, CutsTexts):
        return {}
    data = _experiment(context).data
    found = [
        task.count_cut(ShardDataset(context.inputs[data.shard_roles[name]], "train", verify="first_touch"))
        for name in data.datasets
    ]
    texts, cut = (sum(column) for column in zip(*found, strict=True))
    if cut:
        print(
            f"warning: {context.stage.name}: {cut:,} of {texts:,} training captions have more than max_tokens and lose their end; "
            "raise max_tokens of the model",
            file=sys.stderr,
            flush=True,
        )
    return dict(zip(CUT, (texts, cut), strict=True))


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
    folders = {name: context.inputs[role] for name, role in experiment.data.shard_roles.items()}
    parts, sets = _read(experiment.data, task, folders, context.inputs.get("pack"))
    training = experiment.training.over(sum(len(part) for part in parts))
    experiment = experiment.model_copy(update={"training": training})
    _check(experiment, task, list(sets))
    return Run(
        name=context.stage.name,
        folder=context.work,
        task=task,
        batches=partial(_batches, parts, experiment, task, seed),
        held_out=_held_out(sets, experiment, task, seed),
        seed=seed,
        optimization=experiment.optimization,
        training=experiment.training,
        execution=experiment.execution,
        start=_start(task, context.inputs.get("start"), seed),
        loggers=partial(_loggers, context),
    )


def _check(experiment: Experiment, task: AnyTask, held_out: Sequence[str]) -> None:
    """Raise `ConfigError` for a setting that has no effect in this run: the data decides the steps and the held-out sets."""
    selection = experiment.training.selection
    if fault := experiment.optimization.fault(experiment.training.steps):
        raise ConfigError(fault)
    if not held_out and (setting := selection.needs_validation):
        raise ConfigError(
            f"training.selection.{setting} needs validation data, and the data has no validation split; give it one, or remove the key"
        )
    if held_out:
        try:
            check_metric(selection, task.metrics, held_out)
        except ValueError as error:
            raise ConfigError(str(error)) from None


def _start(task: AnyTask, directory: Path | None, seed: int) -> Callable[[nn.Module], Matches | None]:
    """Sets the initial weights of the built model."""
    if isinstance(task, StartingTask):
        return partial(_start_task, task, seed)
    return as_built if directory is None else partial(continue_from, directory=directory)


def _start_task(task: StartingTask[nn.Module], seed: int, model: nn.Module) -> Matches | None:
    return task.start(model, seed)


def _read(
    data: Data, task: AnyTask, folders: Mapping[str, Path], packed: Path | None
) -> tuple[list[AnyPart], dict[str, AnyPart]]:
    """The training data sets, and the held-out sets by name. `folders` holds the shards of every data set, `packed` the artefact of the stage `pack`.

    Raises `DataError` for a data set without samples.
    """
    several = len(data.datasets) > 1
    wanted: list[tuple[str, str, Split]] = [(key, part.dataset, "train") for key, part in data.parts.items()]
    wanted += [(f"data.held_out.{name}", name, split) for name, split in data.held_out_splits.items()]
    found = []
    for key, name, split in wanted:
        samples = ShardDataset(folders[name], split, verify="first_touch")
        if len(samples):
            found.append((name, split, samples))
        elif split == "train" or data.held_out is not None:
            raise DataError(f"{key}: the {split} split of {name!r} has no samples; change its splits or leave it out")
    training: list[AnyPart] = []
    held_out: dict[str, AnyPart] = {}
    for name, split, samples in found:
        rows = task.arrange(samples, packed and packed / name / split)
        part = Part(rows, data.options_of(name), name if several else "")
        if split == "train":
            training.append(part)
        else:
            held_out[name] = part
    return training, held_out


def _example(task: AnyTask, row: PartRow[Keyed, Options], seed: int) -> object:
    return task.example(row.row, row.options, seed)


def _batches(
    parts: Sequence[AnyPart], experiment: Experiment, task: AnyTask, seed: int, first: int, part: range
) -> Iterator[Sequence[Batch]]:
    training, data = experiment.training, experiment.data
    rows = {name: len(found) for name, found in zip(data.datasets, parts, strict=True)}
    return micro_batches(
        parts,
        order_of(parts, data.rates(rows), seed, training.shuffle_window),
        start_step=first,
        steps=training.steps - first,
        batch_size=training.batch_size,
        micro_batches=training.micro_batches,
        workers=experiment.execution.loader_workers,
        transform=partial(_example, task),
        collate=task.collate,
        seed=seed,
        part=part,
    )


def _held_out(
    held_out: Mapping[str, AnyPart], experiment: Experiment, task: AnyTask, seed: int
) -> HeldOut[Batch] | None:
    """The micro-batches of the held-out sets in order, with the seeds of epoch 0; None without any."""
    size = experiment.training.batch_size // experiment.training.micro_batches
    sets: dict[str, range] = {}
    cuts: list[tuple[AnyPart, range]] = []
    for name, part in held_out.items():
        first = len(cuts)
        cuts += [(part, range(start, min(start + size, len(part)))) for start in range(0, len(part), size)]
        sets[name] = range(first, len(cuts))

    def read(batches: range) -> Iterator[Batch]:
        for part, cut in cuts[batches.start : batches.stop]:
            rows = [part[index] for index in cut]
            yield task.collate([_example(task, row, sample_seed(seed, 0, row.key)) for row in rows])

    return HeldOut(len(cuts), read, sets) if cuts else None


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
