"""The stage `evaluate`: a trained model on a held-out split, scored as its task asks."""

import importlib
from typing import Any

from glassworks.pipeline.execution import Context

EVALUATORS = {
    "captioning": "glassworks.evaluation.captioner",
    "language_modelling": "glassworks.evaluation.language_model",
}
"""The module that scores each task: `run(context)`."""


def run(context: Context) -> dict[str, Any]:
    """Score the model of an experiment."""
    return importlib.import_module(EVALUATORS[context.experiment.task]).run(context)
