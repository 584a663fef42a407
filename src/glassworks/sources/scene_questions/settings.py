"""Settings of the source `scene_questions`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from glassworks.config.datasets import ComposedDataset, Credit

CREDIT = Credit(
    title="Questions about scenes composed from OpenMoji drawings",
    licence="CC BY-SA 4.0 (creativecommons.org/licenses/by-sa/4.0)",
    credit="All emojis designed by OpenMoji – the open-source emoji and icon project. License: CC BY-SA 4.0",
    derivation="Every scene places drawings of the data set {sprites} on a ground of one colour and texture, by a "
    "seed; questions and answers say what was placed where, so they are exact. The scenes are adaptations "
    "of the drawings and stand under the same licence.",
)

QuestionKind = Literal["what", "how many", "is there", "where", "relation", "caption"]
ONCE: tuple[QuestionKind, ...] = ("what", "how many", "caption")
"""Kinds of which a scene has at most one question."""

Mean = Annotated[float, Field(ge=0, le=4)]
QUESTIONS: dict[QuestionKind, Mean] = {
    "what": 0.5,
    "how many": 0.75,
    "is there": 2.0,
    "where": 1.0,
    "relation": 1.25,
    "caption": 0.5,
}


class SceneQuestions(ComposedDataset):
    """Composed scenes with exact questions: names, numbers, yes and no, points, sides and captions, as message trees."""

    source: Literal["scene_questions"]
    size: Annotated[int, Field(ge=32, le=1024)] = 144
    """Side of the square canvas in pixels."""
    questions: dict[QuestionKind, Mean] = QUESTIONS
    """Mean number of questions of each kind for a scene; a kind that is not named has none. At most 1 for `what`, `how many` and `caption`."""

    numbers: Annotated[Literal["balanced", "few"], Field(exclude_if=lambda numbers: numbers == "balanced")] = "balanced"
    """Objects of each kind. `balanced`: where `how many` is asked, one to four of the counted kind, equally often, beside another number of the other kind.
    `few`: one to three, at most five in a scene, so that the number in a picture is easier to guess.
    """

    wordings: Annotated[int | None, Field(ge=1, le=5, exclude_if=lambda wordings: wordings is None)] = None
    """Wordings of each kind of question, the first ones, such as 1; null is all, three to five. A model learns fewer sooner, and understands no others."""

    @model_validator(mode="after")
    def _ask_something_and_nothing_twice(self) -> "SceneQuestions":
        for kind in ONCE:
            if self.questions.get(kind, 0) > 1:
                raise ValueError(
                    f"questions.{kind}: {self.questions[kind]} is more than 1, and a scene has one such question"
                )
        if not any(self.questions.values()):
            raise ValueError("questions: no kind has a mean number above 0")
        return self

    def question_kinds(self) -> list[str]:
        return [kind for kind, frequency in self.questions.items() if frequency]
