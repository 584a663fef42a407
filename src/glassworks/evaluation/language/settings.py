"""Settings of the evaluation `language`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from glassworks.config.evaluation import Evaluation


class LanguageEvaluation(Evaluation):
    """Computes perplexity and bits per byte of a held-out split, beside compressors and a bigram model, and generates samples."""

    scores: ClassVar[tuple[str, ...]] = ("language_modelling", "instruction")

    kind: Literal["language"] = "language"
    """Evaluation to run: the name of a folder under evaluation/. Defaults to the name of the section."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows of packed texts scored at a time."""
    prompts: list[str] = Field(default=[""])
    """Prompts to continue; an empty prompt starts at the beginning of a text."""
    temperatures: list[Annotated[float, Field(ge=0)]] = Field(default=[0.0, 0.7, 1.0])
    """Sampling temperatures for every prompt; 0 is greedy decoding."""
    new_tokens: Annotated[int, Field(ge=1)] = 60
    """Maximum number of new tokens per sample."""
