"""Settings of the evaluation `questions`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from glassworks.config.evaluation import Evaluation


class QuestionsEvaluation(Evaluation):
    """Answers the questions about the images and clips of a held-out split. Scores each kind of question, beside controls without the image."""

    scores: ClassVar[tuple[str, ...]] = ("vision_language",)

    kind: Literal["questions"] = "questions"
    """Evaluation to run: the name of a folder under evaluation/. Defaults to the name of the section."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Images or clips whose questions are answered at a time. Does not affect the answers."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Longest answer in tokens. A longer one is cut."""
