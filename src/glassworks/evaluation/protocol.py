"""The protocol of evaluation modules, and loading them by name."""

from typing import Protocol, TypeVar, cast

from torch import nn

from glassworks.config import registry
from glassworks.config.evaluation import Evaluation as Settings
from glassworks.evaluation.scoring import Scoring

C = TypeVar("C", bound=Settings, contravariant=True)
T = TypeVar("T", contravariant=True)
M = TypeVar("M", bound=nn.Module, contravariant=True)


class Evaluation(Protocol[C, T, M]):
    """The module evaluation/NAME/score.py. C is the type of its settings, T of the task, M of the model."""

    def run(self, scoring: Scoring, config: C, task: T, model: M, /) -> int:
        """Score `model` on every rank and write the results on rank 0; returns the number of samples scored."""
        ...


def load_evaluation(kind: str) -> Evaluation[Settings, object, nn.Module]:
    """The code of an evaluation of this kind."""
    return cast(Evaluation[Settings, object, nn.Module], registry.code("evaluation", kind))
