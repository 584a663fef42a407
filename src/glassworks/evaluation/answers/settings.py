"""Settings of the evaluation `answers`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from glassworks.config.base import Name
from glassworks.config.data import Data
from glassworks.config.evaluation import Evaluation
from glassworks.config.needs import Need, Shards

Count = Annotated[int, Field(ge=1)]


class AnswersEvaluation(Evaluation):
    """Answers the conversations of a split, and scores exact matches, ends and the loss of the responses, beside the model's base and controls."""

    scores: ClassVar[tuple[str, ...]] = ("instruction",)

    kind: Literal["answers"] = "answers"
    """Evaluation to run: the name of a folder under evaluation/. Defaults to the name of the section."""
    batch_size: Count = 32
    """Conversations answered at a time."""
    max_new_tokens: Count = 64
    """An answer has at most this many tokens, its end included."""
    shots: Annotated[int, Field(ge=0)] = 4
    """Training conversations before each question of the control `few_shot`; 0 leaves the control out."""
    forgetting: Name | None = None
    """Data set of texts in params.yaml. Its bits per byte under the model and under its base show what tuning forgot; null scores none."""
    forgetting_texts: Annotated[int, Field(ge=2)] = 100
    """Number of its texts to score, from the start of the split."""

    def needs(self, name: str, data: Data) -> dict[str, Need]:
        needs = super().needs(name, data)
        if self.forgetting:
            needs["forgetting"] = Shards(f"evaluations.{name}.forgetting", self.forgetting)
        return needs
