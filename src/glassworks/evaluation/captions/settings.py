"""The evaluation `captions`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from glassworks.config.evaluation import Evaluation


class CaptionsEvaluation(Evaluation):
    """Captions of a held-out split, greedy and by beam search, scored against all references and against controls."""

    scores: ClassVar[tuple[str, ...]] = ("captioning",)

    kind: Literal["captions"] = "captions"
    """The folder under evaluation/ that scores; the name of the evaluation by default."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Images captioned at a time; never changes a caption."""
    beams: Annotated[int, Field(ge=1, le=32)] = 3
    """Beams of the beam search."""
    length_penalty: float = 0.7
    """Beam scores are divided by length to this power."""
    meteor: bool = True
    """Compute METEOR, too. Its Java program takes seconds to start; without Java it is left out."""
