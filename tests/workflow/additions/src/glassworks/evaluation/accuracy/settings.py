"""The evaluation `accuracy`."""

from typing import ClassVar, Literal

from glassworks.config.evaluation import Evaluation


class Accuracy(Evaluation):
    """Share of images with the right class, beside the most frequent class."""

    scores: ClassVar[tuple[str, ...]] = ("colour_naming",)

    kind: Literal["accuracy"] = "accuracy"
    """The folder under evaluation/ that scores; the name of the evaluation by default."""
