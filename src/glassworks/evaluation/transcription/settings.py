"""Settings of the evaluation `transcription`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from glassworks.config.data import Data
from glassworks.config.evaluation import Evaluation
from glassworks.config.needs import Need


class TranscriptionEvaluation(Evaluation):
    """Writes the text of each sample of a held-out split from all its modalities, from each alone, from those of another sample, and from none. Scores the
    word error rate against the first text, and CIDEr-D against all.
    """

    scores: ClassVar[tuple[str, ...]] = ("fusion",)

    kind: Literal["transcription"] = "transcription"
    """Evaluation to run: the name of a folder under evaluation/. Defaults to the name of the section."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Samples decoded at a time. Does not affect the texts."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Longest text in tokens. A longer one is cut."""

    def needs(self, name: str, data: Data) -> dict[str, Need]:
        return {"shards": super().needs(name, data)["shards"]}
