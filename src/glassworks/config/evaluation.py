"""How a trained model is scored."""

from typing import Annotated, Literal

from pydantic import Field

from glassworks.config.base import Settings


class CaptioningEvaluation(Settings):
    """Captions of a held-out split, greedy and by beam search, scored against all references and against controls."""

    split: Literal["validation", "test"] = "test"
    """Split to score."""
    max_samples: Annotated[int, Field(ge=2)] | None = None
    """Score only the first so many samples of the split; null scores all."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Images captioned at a time; never changes a caption."""
    beams: Annotated[int, Field(ge=1, le=32)] = 3
    """Beams of the beam search."""
    length_penalty: float = 0.7
    """Beam scores are divided by length to this power."""
    meteor: bool = True
    """METEOR as well, by a Java program that takes seconds to start; left out where there is no Java."""
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Resamples of the images behind each 95 % interval."""


class LanguageModelEvaluation(Settings):
    """Perplexity and bits per byte of a held-out split, beside compressors and a bigram model, and samples."""

    split: Literal["validation", "test"] = "test"
    """Split to score."""
    max_samples: Annotated[int, Field(ge=2)] | None = None
    """Score only the first so many texts of the split; null scores all."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows scored at a time."""
    prompts: list[str] = Field(default=[""])
    """What samples begin with; an empty one begins at the beginning of a text."""
    temperatures: list[Annotated[float, Field(ge=0)]] = Field(default=[0.0, 0.7, 1.0])
    """Temperatures at which every prompt is continued; 0 takes the likeliest token."""
    new_tokens: Annotated[int, Field(ge=1)] = 60
    """Tokens of a sample at most."""
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Resamples of the texts behind each 95 % interval."""
