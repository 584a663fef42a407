"""The evaluation `language`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from glassworks.config.evaluation import Evaluation


class LanguageEvaluation(Evaluation):
    """Perplexity and bits per byte of a held-out split, beside compressors and a bigram model, and generated samples."""

    scores: ClassVar[tuple[str, ...]] = ("language_modelling",)

    kind: Literal["language"] = "language"
    """The folder under evaluation/ that scores; the name of the evaluation by default."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows scored at a time."""
    prompts: list[str] = Field(default=[""])
    """Prompts to continue; an empty prompt starts at the beginning of a text."""
    temperatures: list[Annotated[float, Field(ge=0)]] = Field(default=[0.0, 0.7, 1.0])
    """Temperatures at which every prompt is continued; 0 takes the likeliest token."""
    new_tokens: Annotated[int, Field(ge=1)] = 60
    """Longest sample, in tokens."""
