"""Settings of the evaluation `captions`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from glassworks.config.evaluation import Evaluation


class CaptionsEvaluation(Evaluation):
    """Captions a held-out split, greedily and by beam search. Scores against all references, beside controls."""

    scores: ClassVar[tuple[str, ...]] = ("captioning",)

    kind: Literal["captions"] = "captions"
    """Evaluation to run: the name of a folder under evaluation/. Defaults to the name of the section."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Images captioned at a time. Does not affect the captions."""
    beams: Annotated[int, Field(ge=1, le=32)] = 3
    """Number of beams of the beam search."""
    length_penalty: float = 0.7
    """Exponent of the length by which beam scores are divided."""
    meteor: bool = True
    """Also compute METEOR. METEOR is a Java program that takes seconds to start; it is skipped without Java."""
