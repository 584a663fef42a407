"""Exact questions about composed scenes, in blocks of scenes whose answers are balanced.

The question alone says nothing. Every `is there` question is asked in the same words of one scene of the block for yes
and of another for no. `how many` has the answers 0 to 4, `relation` the four sides, equally often. In training a kind
that a scene lacks may meet all kinds of the scene, so no question speaks of a held-out pair.

The numbers in a picture alone do not say which one is asked for: a kind with one or two objects stands beside one with
three or four, and either is counted equally often.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from glassworks.config.datasets import Split
from glassworks.data.points import centre, write_points
from glassworks.data.scenes.kinds import Kind, Meetings
from glassworks.data.scenes.language import OPPOSITE, Thing, article, describe, plural
from glassworks.data.scenes.layout import Dice, Group, Numbers, Scene, few, relations

FEW, MANY = (1, 2), (3, 4)
"""Numbers of the two kinds of which one is counted."""
BLOCK = len(FEW + MANY)
"""Scenes whose questions are chosen together."""
SIDES = {"left of": "left", "right of": "right", "above": "above", "below": "below"}
"""Answers of `relation`."""

WORDINGS: dict[str, tuple[str, ...]] = {
    "what": ("what is in the picture?", "name the objects.", "which objects can you see?"),
    "how many": ("how many {plural} are there?", "count the {plural}.", "what is the number of {plural}?"),
    "is there": ("is there {a}?", "can you see {a}?", "does the picture show {a}?"),
    "where": ("point at the {noun}.", "where {be} the {noun}?", "show me the {noun}."),
    "relation": (
        "on which side of the {other} {be} the {noun}?",
        "{be} the {noun} left of, right of, above or below the {other}?",
        "seen from the {other}, where {be} the {noun}?",
    ),
    "caption": (
        "describe the picture.",
        "what is there to see?",
        "say what is where.",
        "write a caption.",
        "describe the picture with its background.",
    ),
}
"""Wordings of each kind. The n-th wording of `caption` asks for the n-th caption of `language.describe`."""


@dataclass(frozen=True)
class Question:
    """A question about a scene with its answer."""

    kind: str
    text: str
    answer: str
    truth: dict[str, Any]
    """The exact truth as JSON. docs/how-to/images-and-questions.md lists the fields of each kind."""

    @property
    def label(self) -> dict[str, Any]:
        """Kind, answer and truth."""
        return {"kind": self.kind, "answer": self.answer, **self.truth}


@dataclass(frozen=True)
class Counted:
    """A scene, and the place of the kind that `how many` asks for; None without that question."""

    scene: Scene
    place: int | None

    @property
    def kinds(self) -> list[Kind]:
        return [group.kind for group in self.scene.groups]


def compose_block(
    compose: Callable[[int, Numbers], Scene], share: float, dice: Dice, balanced: bool = True
) -> list[Counted]:
    """The scenes of a block, from a function of the place in the block and the numbers of objects.

    A scene is asked `how many` with the probability `share`. The counted kind then has 1, 2, 3 or 4 objects, each once
    in a block, the next kind has a number of the other half, and a third kind has one object. Without the question, or
    if not `balanced`, the numbers are those of `layout.few`.
    """
    found = []
    for place, first in enumerate(dice.shuffled(FEW + MANY)):
        second = dice.choose(FEW if first in MANY else MANY)
        where, is_counted = dice.random(), dice.random() < share
        scene = compose(place, _beside(first, second, where) if is_counted and balanced else few)
        found.append(Counted(scene, int(where * len(scene.groups)) if is_counted else None))
    return found


def _beside(first: int, second: int, where: float) -> Numbers:
    def numbers(_: Dice, kinds: int) -> list[int]:
        found, place = [1] * kinds, int(where * kinds)
        found[(place + 1) % kinds] = second
        found[place] = first
        return found

    return numbers


def ask_block(
    scenes: Sequence[Counted],
    kinds: Sequence[Kind],
    meetings: Meetings,
    split: Split,
    size: int,
    shares: dict[str, float],
    dice: Dice,
    wordings: int | None = None,
) -> list[list[Question]]:
    """The questions of each scene of a block, in random order.

    `size` is the side of the canvas in pixels, `shares` the mean number of questions of each kind. A scene has fewer
    when it allows fewer: with a single kind it has no `relation`. The first `wordings` of each kind occur; None is all.
    """
    texts = {kind: several[:wordings] for kind, several in WORDINGS.items()}
    block = _Block(scenes, kinds, {kind.key: place for place, kind in enumerate(kinds)}, meetings, split)
    asked: list[list[Question]] = [[] for _ in scenes]
    for place, counted in enumerate(scenes):
        scene = counted.scene
        for kind in WORDINGS:
            mean = shares.get(kind, 0.0) / (2 if kind == "is there" else 1)
            number = int(mean) + (dice.random() < mean % 1)
            if kind == "is there":
                for other, question in _is_there(block, place, number, texts[kind], dice):
                    asked[other].append(question)
            elif kind == "where":
                groups = dice.shuffled(scene.groups)[:number]
                asked[place] += [_where(group, size, texts[kind], dice) for group in groups]
            elif kind == "relation":
                pairs = dice.shuffled(_related(scene))[:number]
                asked[place] += [_relation(*pair, texts[kind], dice) for pair in pairs]
            elif kind == "how many":
                if counted.place is not None:
                    absent = _absent(block, place, dice)
                    asked[place].append(_how_many(scene.groups[counted.place], absent, texts[kind], dice))
            elif number:
                asked[place].append((_what if kind == "what" else _caption)(scene, texts[kind], dice))
    return [dice.shuffled(questions) for questions in asked]


@dataclass(frozen=True)
class _Block:
    """Scenes of a block, and the kinds that each lacks and may be asked for."""

    scenes: Sequence[Counted]
    kinds: Sequence[Kind]
    places: dict[str, int]
    """Number of each kind by its key."""
    meetings: Meetings
    split: Split

    def lacks(self, place: int, kind: Kind) -> bool:
        """Whether a scene lacks a kind. In training the kind must be one that may meet all kinds of the scene."""
        present = self.scenes[place].kinds
        if kind in present:
            return False
        if self.split != "train":
            return True
        partners = self.meetings.partners[self.split][self.places[kind.key]]
        return all(self.places[one.key] in partners for one in present)


def _what(scene: Scene, wordings: Sequence[str], dice: Dice) -> Question:
    names = sorted(group.kind.name for group in scene.groups)
    return Question("what", dice.choose(wordings), ", ".join(names), {"objects": names})


def _caption(scene: Scene, wordings: Sequence[str], dice: Dice) -> Question:
    by_name = sorted(range(len(scene.groups)), key=lambda place: scene.groups[place].kind.name)
    captions = describe(scene.view, by_name)
    form = dice.below(len(wordings))
    return Question("caption", wordings[form], captions[form], {"references": captions})


def _how_many(group: Group, absent: Kind | None, wordings: Sequence[str], dice: Dice) -> Question:
    """The number of a group or, once in five times, of a kind that the scene lacks."""
    name, number = group.kind.name, len(group.boxes)
    if dice.below(len(FEW + MANY) + 1) == 0 and absent:
        name, number = absent.name, 0
    text = dice.choose(wordings).format(plural=plural(name))
    return Question("how many", text, str(number), {"object": name, "number": number})


def _absent(block: _Block, place: int, dice: Dice) -> Kind | None:
    """A kind that a scene lacks, of another scene of the block if possible, so that kinds are as frequent for 0 as for 1 to 4."""
    near = [kind for other, one in enumerate(block.scenes) if other != place for kind in one.kinds]
    candidates = [*dice.shuffled(near), *dice.shuffled(block.kinds)]
    return next((kind for kind in candidates if block.lacks(place, kind)), None)


def _is_there(
    block: _Block, place: int, number: int, wordings: Sequence[str], dice: Dice
) -> list[tuple[int, Question]]:
    """Questions for yes about a scene, each with the same question for no about another; with the scene's place."""
    pairs = [
        (group, other)
        for group in block.scenes[place].scene.groups
        for other in range(len(block.scenes))
        if block.lacks(other, group.kind)
    ]
    chosen: dict[str, tuple[Group, int]] = {}
    for group, other in dice.shuffled(pairs):
        chosen.setdefault(group.kind.key, (group, other))
    found = []
    for group, other in dice.shuffled(list(chosen.values()))[:number]:
        name = group.kind.name
        text = dice.choose(wordings).format(a=article(name))
        for where, answer, count in ((place, "yes", len(group.boxes)), (other, "no", 0)):
            found.append((where, Question("is there", text, answer, {"object": name, "number": count})))
    return found


def _where(group: Group, size: int, wordings: Sequence[str], dice: Dice) -> Question:
    thing = Thing(group.kind.name, len(group.boxes))
    text = dice.choose(wordings).format(noun=thing.noun(), be=thing.be())
    answer = write_points([centre(box, (size, size)) for box in group.boxes], thing.noun(), decimals=0)
    return Question("where", text, answer, {"object": thing.name, "boxes": [list(box) for box in group.boxes]})


def _related(scene: Scene) -> list[tuple[Group, str, Group]]:
    """Every two kinds of a scene, in both orders, that are apart on one axis only, with the relation of one to the other."""
    by_name = {group.kind.name: group for group in scene.groups}
    found: dict[tuple[str, str], list[str]] = {}
    for a, relation, b in relations(scene.groups):
        found.setdefault((a, b), []).append(relation)
        found.setdefault((b, a), []).append(OPPOSITE[relation])
    return [(by_name[a], one[0], by_name[b]) for (a, b), one in found.items() if len(one) == 1]


def _relation(group: Group, relation: str, other: Group, wordings: Sequence[str], dice: Dice) -> Question:
    thing, second = Thing(group.kind.name, len(group.boxes)), Thing(other.kind.name, len(other.boxes))
    text = dice.choose(wordings).format(noun=thing.noun(), be=thing.be(), other=second.noun())
    truth = {"object": thing.name, "other": second.name, "relation": relation}
    return Question("relation", text, SIDES[relation], truth)
