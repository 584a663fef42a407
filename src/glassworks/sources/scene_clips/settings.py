"""Settings of the source `scene_clips`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from glassworks.config.datasets import ComposedDataset, Credit

CREDIT = Credit(
    title="Clips composed from OpenMoji drawings, with questions",
    licence="CC BY-SA 4.0 (creativecommons.org/licenses/by-sa/4.0)",
    credit="All emojis designed by OpenMoji – the open-source emoji and icon project. License: CC BY-SA 4.0",
    derivation="Every clip moves, scales, turns, shows and hides drawings of the data set {sprites} by a seed; questions "
    "and answers say what happens, so they are exact. The clips are adaptations of the drawings and stand under the same "
    "licence.",
)

Topic = Literal["action", "direction", "order"]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
QUESTIONS: dict[Topic, Weight] = {"action": 1.0, "direction": 1.0, "order": 1.0}


class SceneClips(ComposedDataset):
    """Composed clips with exact questions that no single frame answers: actions, directions, and the first and the last."""

    source: Literal["scene_clips"]
    kinds: Annotated[int, Field(ge=6, le=500)] = 30
    """Number of kinds of object in the whole data set. Kinds that look the same when they turn are left out."""
    frames: Annotated[int, Field(ge=6, le=64)] = 8
    """Frames of a clip."""
    rate: Annotated[float, Field(gt=0, le=100)] = 4.0
    """Frames a second."""
    questions: dict[Topic, Weight] = QUESTIONS
    """Relative frequencies of the clips that each kind of question is about; a kind that is not named has none."""
    wordings: Annotated[int | None, Field(ge=1, le=3, exclude_if=lambda wordings: wordings is None)] = None
    """Wordings of each kind of question, the first ones, such as 1; null is all three. A model learns fewer sooner, and understands no others."""

    @model_validator(mode="after")
    def _ask_something(self) -> "SceneClips":
        if not any(self.questions.values()):
            raise ValueError("questions: no kind has a frequency above 0")
        return self

    def question_kinds(self) -> list[str]:
        return [kind for kind, frequency in self.questions.items() if frequency]
