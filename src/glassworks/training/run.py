"""The stage `train`: puts data, task and configuration of an experiment together, has workers train it, and publishes what comes out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from typing import Any

from glassworks.config.experiment import Experiment
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.loader import micro_batches
from glassworks.data.reading.order import Order, sample_seed
from glassworks.data.reading.text import TextTokenizer, check_vocabulary
from glassworks.pipeline.execution import Context
from glassworks.training.devices import held_devices
from glassworks.training.launch import device_kind, run_workers, worker_count
from glassworks.training.loggers import Logger, open_loggers
from glassworks.training.loop import DIGESTS, METRICS, Run, fit
from glassworks.training.metrics_log import read_metrics, write_curves
from glassworks.training.signals import StopRequest
from glassworks.training.validation import HeldOut
from glassworks.training.workers import Workers


def run(context: Context) -> dict[str, Any]:
    """Train one experiment. The result depends on parameters, data and code, not on when or how often it was interrupted, nor on how many workers there were."""
    training, execution, place = context.experiment.training, context.experiment.execution, context.place
    device = device_kind(context.params["device"])
    share = training.micro_batches // place.nodes
    most = min(share, execution.workers_per_node or share)
    with held_devices(most, context.workers) if device == "cuda" else nullcontext():
        local = worker_count(share if context.workers else most, context.threads, device, context.workers)
        count = local * place.nodes
        context.fingerprint.update(device=device, reduction=training.reduction)
        if training.reduction != "exact":
            context.fingerprint["workers"] = count
        folder = context.work / "workers"
        notes = run_workers(_train, context, count=count, device=device, folder=folder, place=place)
    context.notes.update(notes, workers=count, nodes=place.nodes)
    for name in (METRICS, DIGESTS):
        (context.output / name).write_bytes((context.work / name).read_bytes())
    write_curves(read_metrics(context.work / METRICS), context.output / "plots")
    return {name: notes[name] for name in ("parameters", "steps", "published_step")} | {
        "samples": notes["steps"] * training.batch_size
    }


def _train(workers: Workers, stop: StopRequest, context: Context) -> dict[str, Any]:
    """What every worker does; the first writes the model."""
    described = describe(context)
    fitted = fit(described, workers, stop)
    if not workers.first:
        return {}
    model = described.task.build()
    model.load_state_dict(fitted.weights)
    model.save(context.output)
    described.task.tokenizer.save(context.output)  # so that the model can be used without its project
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": fitted.step,
        "published_step": fitted.published_step,
        "resumed_after_step": fitted.resumed_step,
        "samples_per_second": round(fitted.samples_per_second, 1),
    }


def describe(context: Context) -> Run:
    """The run that an experiment means."""
    experiment, seed = context.experiment, context.params["seed"]
    task = TASKS[experiment.task](context)
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
        loggers=partial(_loggers, context),
    )


def _captioning(context: Context) -> Any:
    from glassworks.tasks.captioning import CaptioningTask

    config, tokenizer = context.experiment.model, TextTokenizer(context.inputs["tokenizer"])
    language_model, backbone = context.inputs.get("language_model"), context.inputs.get("backbone.weights")
    one_length = context.experiment.training.compile
    if config.backbone is not None:
        context.fingerprint["timm"] = version("timm")
    if language_model is None and backbone is None:
        return CaptioningTask(config, tokenizer, one_length)
    from glassworks.models.pretrained.captioner import begin_captioner, read_decoder

    vocabulary = tokenizer.size
    if language_model is not None:
        decoder, vocabulary = read_decoder(language_model)
        check_vocabulary(tokenizer, vocabulary, language_model)
        config = config.model_copy(update={"decoder": decoder, "language_model": None})
    begin = partial(begin_captioner, config, vocabulary, language_model, backbone)
    return CaptioningTask(config, tokenizer, one_length, begin)


def _language_modelling(context: Context) -> Any:
    from glassworks.tasks.language_modelling import LanguageModellingTask

    experiment = context.experiment
    return LanguageModellingTask(experiment.model, TextTokenizer(context.inputs["tokenizer"]), experiment.data.packing)


TASKS: dict[str, Callable[[Context], Any]] = {"captioning": _captioning, "language_modelling": _language_modelling}
"""The task of an experiment by its name; what it is made of is imported only when asked for, as the key of a stage holds the code of its own task alone."""


def _batches(
    dataset: Any, experiment: Experiment, task: Any, seed: int, first: int, part: range
) -> Iterator[Sequence[Any]]:
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


def _held_out(dataset: Any, experiment: Experiment, task: Any, seed: int) -> HeldOut:
    """Micro-batches of the validation split in its order, one text per sample, always the same."""
    size = experiment.training.batch_size // experiment.training.micro_batches

    def read(batches: range) -> Iterator[Any]:
        for number in batches:
            indices = range(number * size, min((number + 1) * size, len(dataset)))
            samples = [dataset[index] for index in indices]
            yield task.collate([task.example(sample, sample_seed(seed, 0, sample.key)) for sample in samples])

    return HeldOut(-(-len(dataset) // size), read)


def _loggers(context: Context, first: int) -> list[Logger]:
    return open_loggers(
        context.experiment.execution.loggers,
        experiment=context.stage.subject,
        folder=context.project.root / "logs",
        settings=context.params,
        run_id=context.work.name,
        first_step=first,
        rows=[row for row in read_metrics(context.work / METRICS) if row["step"] <= first] if first else (),
    )
