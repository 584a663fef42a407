"""Parser of scene descriptions into facts, to compare generated captions with the labels.

Parses every caption of the grammar (language.py). Accepts any text and never raises; unparsed text states no fact.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from glassworks.data.scenes.language import COLORS, NUMBERS, OPPOSITE, PHRASES, PLACES, SWEEPS, TEXTURES, plural

COUNTS = {"a": 1, "an": 1} | {word: count for count, word in enumerate(NUMBERS, start=1)}
COUNT = "|".join(COUNTS)
GROUND = re.compile(
    rf"(?:\bon )?\ban? (?P<color>{'|'.join(sorted(COLORS, key=len, reverse=True))})"
    rf"(?: (?P<texture>{'|'.join(TEXTURES[1:])}))? background\b(?: with\b)?"
)
OPENING = re.compile(r"\b(?:a picture of|there (?:is|are))\b")
AFTER_NOUN = rf"(?=,|$|<| (?:the|{COUNT}|and|to|is|are|on|at|above|below|from|with|of|there|picture)\b)"
MENTION = re.compile(rf"\b(?P<count>the|{COUNT}) (?!left\b|right\b|top\b|bottom\b)(?P<noun>[a-z' -]+?){AFTER_NOUN}")
BE = "(?:is |are )?"
PHRASE = "|".join(PHRASES.values())
RELATION = re.compile(rf"<(\d+)> {BE}({PHRASE}) <(\d+)>(?: and <(\d+)>(?! {BE}(?:{PHRASE})))?")
LINE = re.compile(rf"((?:<\d+>(?:, and |, | and )?)+) ({'|'.join(SWEEPS.values())})")
PLACE = re.compile(rf"<(\d+)> {BE}({'|'.join(PLACES.values())})")


@dataclass(frozen=True)
class SceneFacts:
    """The facts that a description states. Relations are (a, 'left of' or 'above', b)."""

    objects: dict[str, int] = field(default_factory=dict)
    """Count of each kind."""
    relations: frozenset[tuple[str, str, str]] = frozenset()
    ground: tuple[str, str] | None = None
    """Texture and colour, if mentioned."""

    @classmethod
    def of_labels(cls, labels: dict[str, Any]) -> "SceneFacts":
        """All facts of a scene, from its labels."""
        return cls(
            {thing["name"]: thing["count"] for thing in labels["objects"]},
            frozenset((a, relation, b) for a, relation, b in labels["relations"]),
            (labels["ground"]["kind"], labels["ground"]["color"]),
        )


def names_in(labels: Iterable[dict[str, Any]]) -> list[str]:
    """The nouns of some scenes, from their labels, for `SceneParser`."""
    return sorted({thing["name"] for one in labels for thing in one["objects"]})


class SceneParser:
    """Parses descriptions of scenes with the nouns `names`.

    Other nouns are objects too, under their literal words, so that invented objects lower the score.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = {form: name for name in names for form in (name, plural(name))}

    def parse(self, text: str) -> SceneFacts:
        """The facts that a description states. A kind mentioned twice ("a cat and a cat") counts twice."""
        text = re.sub(r"[^a-z,' -]", " ", text.lower())
        text = re.sub(r"\s+(?=,)", "", re.sub(r"\s+", " ", text)).strip()
        ground = GROUND.search(text)
        text = OPENING.sub(" ", GROUND.sub(" ", text))
        objects: Counter[str] = Counter()
        mentioned: list[str] = []

        def number(mention: re.Match[str]) -> str:
            name = self._name(mention["noun"])
            objects[name] += COUNTS.get(mention["count"], 0)
            mentioned.append(name)
            return f"<{len(mentioned) - 1}>"

        text = re.sub(r"\s+", " ", MENTION.sub(number, text))
        named = ((mentioned[a], relation, mentioned[b]) for a, relation, b in _relations(text, len(mentioned)))
        return SceneFacts(
            {name: count for name, count in sorted(objects.items()) if count},
            frozenset((a, relation, b) for a, relation, b in named if a != b),
            (ground["texture"] or "plain", ground["color"]) if ground else None,
        )

    def _name(self, noun: str) -> str:
        words = noun.split()
        beginnings = (" ".join(words[:length]) for length in range(len(words), 0, -1))
        return next((self.names[form] for form in beginnings if form in self.names), " ".join(words))


def _relations(text: str, mentions: int) -> Iterator[tuple[int, str, int]]:
    """Relations between mentions. `text` has each mention as its number in angle brackets: '<0> above <1>'."""
    for match in RELATION.finditer(text):
        a, phrase, *others = match.groups()
        relation = next(name for name, words in PHRASES.items() if words == phrase)
        yield from (_normal(int(a), relation, int(b)) for b in others if b is not None)
    for match in PLACE.finditer(text):
        relation = next(name for name, words in PLACES.items() if words == match[2])
        yield from (_normal(int(match[1]), relation, other) for other in range(mentions))
    for match in LINE.finditer(text):
        relation = next(name for name, words in SWEEPS.items() if words == match[2])
        line = [int(number) for number in re.findall(r"\d+", match[1])]
        yield from ((a, relation, b) for place, a in enumerate(line) for b in line[place + 1 :])


def _normal(a: int, relation: str, b: int) -> tuple[int, str, int]:
    """The relation with 'right of' and 'below' inverted to 'left of' and 'above'."""
    return (a, relation, b) if relation in SWEEPS else (b, OPPOSITE[relation], a)
