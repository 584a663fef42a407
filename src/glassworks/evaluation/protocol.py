"""The protocol of an evaluation's module, and the way to load one by its name."""

from typing import Protocol, TypeVar, cast

from torch import nn

from glassworks.config import registry
from glassworks.config.evaluation import Evaluation as Settings
from glassworks.evaluation.scoring import Scoring

C = TypeVar("C", bound=Settings, contravariant=True)
T = TypeVar("T", contravariant=True)
M = TypeVar("M", bound=nn.Module, contravariant=True)


class Evaluation(Protocol[C, T, M]):
    """The code of an evaluation: evaluation/NAME/score.py. C its settings, T the task, M the model."""

    def run(self, scoring: Scoring, config: C, task: T, model: M, /) -> int:
        """Score `model` in every worker and write the results in the first; returns the number of samples scored."""
        ...


def load_evaluation(kind: str) -> Evaluation[Settings, object, nn.Module]:
    """The code of an evaluation by its kind in an experiment."""
    return cast(Evaluation[Settings, object, nn.Module], registry.code("evaluation", kind))
