"""The stage `evaluate`: one evaluation of a trained model, shared among workers on its configured device."""

import shutil
from typing import Any

from glassworks.config.evaluation import evaluation_of
from glassworks.config.experiment import data_of
from glassworks.evaluation.protocol import load_evaluation
from glassworks.evaluation.scoring import Scoring
from glassworks.pipeline.execution import Context
from glassworks.runtime.launch import card, device_kind, process_count, run_workers
from glassworks.runtime.signals import StopRequest
from glassworks.tasks.protocol import load_task_module
from glassworks.training.determinism import make_deterministic
from glassworks.training.workers import Workers


def run(context: Context) -> dict[str, Any]:
    """Score a trained model; any number of workers gives the same bytes."""
    device = device_kind(evaluation_of(context.params["evaluation"]).device, "device")
    context.fingerprint["device"] = device
    count = context.workers or process_count(context.threads, device)
    found = run_workers(_evaluate, context, count=count, device=device, folder=context.work / "workers")
    context.fingerprint.update(found["fingerprint"])
    context.notes["workers"] = count
    return {"samples": found["samples"]}


def _evaluate(workers: Workers, stop: StopRequest, context: Context) -> dict[str, Any]:
    """The counts and the fingerprint of the evaluation, which all workers share."""
    if workers.first:  # workers of a killed run may write after this run emptied the folder
        for path in context.output.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    make_deterministic()
    config = evaluation_of(context.params["evaluation"])
    data = data_of(context.params["task"], context.params["data"])
    task, model = load_task_module(context.params["task"]).load(context.inputs, context.params["data"])
    scoring = Scoring(
        name=context.stage.name,
        inputs=context.inputs,
        work=context.work,
        output=context.output,
        seed=context.params["seed"],
        workers=workers,
        stop=stop,
        part=data.options_of(config.dataset or data.datasets[0]),
    )
    samples = load_evaluation(config.kind).run(scoring, config, task, model.to(workers.device))
    return {"samples": samples, "fingerprint": scoring.fingerprint | card(workers.device)}
