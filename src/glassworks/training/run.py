"""The stage `train`: read the data in order, step, log, validate, save; resume from the newest checkpoint."""

import time
from typing import Any

import torch

from glassworks.config.experiment import Experiment
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.loader import micro_batches
from glassworks.data.reading.order import Order
from glassworks.data.reading.text import CaptionTokenizer
from glassworks.pipeline.execution import Context
from glassworks.progress import Progress
from glassworks.tasks.captioning import CaptioningTask
from glassworks.training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from glassworks.training.metrics_log import MetricsLog, read_metrics, write_curves
from glassworks.training.signals import StopRequest
from glassworks.training.step import make_optimizer, seed_generators, train_step


def run(context: Context) -> dict[str, Any]:
    """Train one experiment. The result depends on parameters, data and code, not on when or how often it was interrupted."""
    experiment = context.project.experiments[context.stage.subject]
    torch.set_num_threads(1)  # thread counts change bits
    torch.use_deterministic_algorithms(True)
    seed, config = context.params["seed"], experiment.training
    task = CaptioningTask(experiment.model, CaptionTokenizer(context.inputs["tokenizer"]))
    dataset = ShardDataset(context.inputs["shards"], "train", verify="first_touch")
    order = Order(dataset.shard_sizes, seed, config.shuffle_window)
    held_out = ShardDataset(context.inputs["shards"], "validation", verify="first_touch")

    seed_generators(seed, "initial weights")
    model = task.build()
    optimizer = make_optimizer(model, experiment.optimization)
    checkpoints = context.work / "checkpoints"
    checkpoint = newest_checkpoint(checkpoints)
    first = checkpoint.step if checkpoint else 0
    if checkpoint:
        load_checkpoint(checkpoint, model, optimizer)
        print(f"{context.stage.name}: continuing after step {first}", flush=True)
    log = MetricsLog(context.work / "metrics.jsonl", first)
    started, samples = time.monotonic(), 0

    batches = micro_batches(
        dataset,
        order,
        start_step=first,
        steps=config.steps - first,
        batch_size=config.batch_size,
        micro_batches=config.micro_batches,
        workers=experiment.execution.loader_workers,
        transform=task.example,
        collate=task.collate,
        seed=seed,
    )
    with StopRequest() as stop, Progress(context.stage.name, config.steps, "steps", initial=first) as progress:
        for step, batch in enumerate(batches, start=first):
            model.train()
            result = train_step(
                model, optimizer, task, batch, experiment.optimization, seed=seed, step=step, steps=config.steps
            )
            done = step + 1
            samples += config.batch_size
            log.write(
                {
                    "step": done,
                    "loss": result.loss,
                    "learning_rate": result.learning_rate,
                    "gradient_norm": result.gradient_norm,
                    "tokens": result.weight,
                    "samples": done * config.batch_size,
                }
            )
            if len(held_out) and (done % config.validate_every == 0 or done == config.steps):
                log.write({"step": done, "validation_loss": validation_loss(model, task, held_out, experiment, seed)})
            if done % experiment.execution.checkpoint_every == 0 or done == config.steps or stop.received:
                log.flush()
                save_checkpoint(checkpoints, model, optimizer, done, experiment.execution.keep_checkpoints)
            progress.advance(note=f"loss {result.loss:.3f}  {samples / (time.monotonic() - started):.0f} samples/s")
            stop.raise_if_asked(done)
    log.close()
    context.notes.update(
        resumed_after_step=first, samples_per_second=round(samples / max(time.monotonic() - started, 1e-9), 1)
    )

    model.save(context.output)
    (context.output / "metrics.jsonl").write_bytes(log.path.read_bytes())
    write_curves(read_metrics(log.path), context.output / "plots")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "steps": config.steps, "samples": config.steps * config.batch_size}


@torch.no_grad()
def validation_loss(
    model: Any, task: CaptioningTask, dataset: ShardDataset, experiment: Experiment, seed: int
) -> float:
    """Loss per target token over the validation split, one caption per image."""
    model.eval()
    total, weight = 0.0, 0
    size = experiment.training.batch_size // experiment.training.micro_batches
    for start in range(0, len(dataset), size):
        indices = range(start, min(start + size, len(dataset)))
        loss, count = task.loss(model, task.collate([task.example(dataset[index], seed + index) for index in indices]))
        total, weight = total + loss.item(), weight + count
    return total / weight
