"""Questions about composed scenes: a message tree of about six exact questions for each scene.

Scenes are those of the source `scenes`, other numbers of objects aside: same sprites, same held-out pairs of kinds. Labels
are the labels of `scenes` and `questions`: for each branch {kind, answer} and the exact truth.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from glassworks.config.datasets import Split
from glassworks.data.messages import Medium, Size
from glassworks.data.question_trees import question_tree
from glassworks.data.records import Record
from glassworks.data.scenes.layout import Dice, Numbers, Scene
from glassworks.data.scenes.questions import BLOCK, Question, ask_block, compose_block
from glassworks.pipeline.execution import Context
from glassworks.sources.protocol import Item, Part, in_order
from glassworks.sources.scenes import source as scenes


def records(context: Context) -> Iterator[Item]:
    """Every scene with at least one question. Scene number i of a split does not depend on the number of scenes."""
    return in_order(parts(context))


def parts(context: Context) -> list[Part]:
    """Blocks of scenes."""
    stage = scenes.Composition(context)

    def compose(split: Split, numbers: Iterable[int]) -> Iterator[Record]:
        block: list[tuple[Scene, list[Question]]] = []
        for index in numbers:
            if index % BLOCK == 0:
                block = _block(stage, split, index, context.params)
            scene, questions = block[index % BLOCK]
            if not questions:
                continue
            key = f"{split}-{index:06d}"
            yield Record(
                key,
                split,
                key,
                labels={**scenes.scene_labels(scene), "questions": [question.label for question in questions]},
                media=scenes.scene_media(scene),
                messages=question_tree(
                    Medium(type="image", media="png"), ((question.text, question.answer) for question in questions)
                ),
                sizes={"png": Size(kind="image", width=stage.size, height=stage.size)},
            )

    return stage.parts("scenes", compose)


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """A function that draws a scene from its record: {"png": bytes}, RGB, `size` pixels square."""
    return scenes.media(context)


def _block(
    stage: scenes.Composition, split: Split, start: int, params: Mapping[str, Any]
) -> list[tuple[Scene, list[Question]]]:
    """The scenes from number `start` on that are composed together, with their questions."""
    seed, shares, wordings = stage.seed, params["questions"], params.get("wordings")
    balanced = params.get("numbers", "balanced") == "balanced"

    def compose(place: int, numbers: Numbers) -> Scene:
        return stage.compose(split, start + place, numbers)

    counted = compose_block(compose, shares.get("how many", 0.0), Dice(seed, "numbers", split, start), balanced)
    dice = Dice(seed, "questions", split, start)
    asked = ask_block(counted, stage.kinds, stage.meetings, split, stage.size, shares, dice, wordings)
    return [(one.scene, questions) for one, questions in zip(counted, asked, strict=True)]
