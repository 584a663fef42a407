"""Instructions about the names of emoji, with exact answers: a pure function of names, parameters and seed.

A base concept of `openmoji` is in one split, and every name of a conversation is of the conversation's split. A name that concepts of two splits share
is left out. So nothing that a held-out question asks about occurs in training.

Labels: `kind`, `answer` (the last answer) and `fact` (the concepts that the answer rests on).
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from glassworks.config.datasets import SPLITS, Split
from glassworks.data.messages import Message
from glassworks.data.records import Record, read_table
from glassworks.data.splits import share
from glassworks.errors import ConfigError
from glassworks.pipeline.execution import Context
from glassworks.sources.instructions import wordings

T = TypeVar("T")
OPTIONS = 3
"""Aliases to choose from."""
LISTED = (3, 6)
"""Fewest and most names in a list."""


def records(context: Context) -> Iterator[Record]:
    """Every conversation of every split. Conversation number i of a split does not depend on the number of conversations."""
    params, name = context.params, context.stage.subject
    names = usable(read_table(context.inputs["emoji"]))
    for split in SPLITS:
        wanted = params["samples"].get(split, 0)
        if not wanted:
            continue
        maker = Maker([one for one in names if one.split == split], split, params["seed"], name)
        kinds = {kind: weight for kind, weight in params["kinds"].items() if weight}
        made: Counter[str] = Counter()
        for index in range(wanted):
            place = Draws(params["seed"], split, str(index))
            kind = place.weighted(kinds)
            turns, fact = maker.make(kind, made[kind], place)
            made[kind] += 1
            messages = [
                Message(role=role, content=text) for turn in turns for role, text in zip(ROLES, turn, strict=True)
            ]
            if place.number() < params["system_share"]:
                messages.insert(0, Message(role="system", content=place.one_of(wordings.SYSTEM)))
            key = f"{split}-{index:06d}"
            labels = {"kind": kind, "answer": turns[-1][1], "fact": fact}
            yield Record(key, split, key, labels=labels, messages=messages)


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """A function that returns no media: a record holds its messages."""
    return lambda record: {}


ROLES = ("user", "assistant")
Turns = list[tuple[str, str]]
"""A question and an answer each."""


@dataclass(frozen=True)
class Named:
    """An emoji with a name that states its concept, at most one person and at most one skin tone."""

    key: str
    split: Split
    name: str
    aliases: tuple[str, ...]
    concept: str
    who: str | None
    """man, woman, boy or girl."""
    skin: str | None
    group: str
    """Its category in words."""
    kind: str
    """Its subcategory in words."""

    @property
    def json(self) -> str:
        """The canonical JSON answer: fixed order of the keys, `null` for what the name does not state."""
        fields = {"concept": self.concept, "who": self.who, "skin": self.skin, "group": self.group}
        return json.dumps(fields, ensure_ascii=False)

    @property
    def is_variant(self) -> bool:
        return self.who is not None or self.skin is not None


def usable(emoji: Iterable[Record]) -> list[Named]:
    """The emoji of which all fields are known, without names that concepts of two splits share."""
    listed = list(emoji)
    owners: dict[str, set[Split]] = defaultdict(set)
    for record in listed:
        for text in (*record.texts, record.labels["concept"]):
            owners[text.casefold()].add(record.split)

    found = []
    for record in listed:
        labels, texts = record.labels, [text for text in record.texts if len(owners[text.casefold()]) == 1]
        concept, genders, tones = labels["concept"], labels["genders"], labels["skin_tones"]
        plain = labels["category"] and not labels["direction"] and len(genders) < 2 and len(tones) < 2
        if not plain or record.texts[0] not in texts or len(owners[concept.casefold()]) > 1:
            continue
        who, skin = next(iter(genders), None), next(iter(tones), None)
        group, kind = (labels[key].replace("-", " ") for key in ("category", "subcategory"))
        found.append(Named(record.key, record.split, texts[0], tuple(texts[1:]), concept, who, skin, group, kind))
    return found


class Draws:
    """Numbers that depend only on the arguments and on how many were drawn from this object."""

    def __init__(self, seed: int, *parts: str) -> None:
        self._seed, self._parts, self._drawn = seed, parts, 0

    def number(self) -> float:
        """A number in [0, 1)."""
        self._drawn += 1
        return share(self._seed, "instructions", *self._parts, str(self._drawn))

    def below(self, end: int) -> int:
        return int(self.number() * end)

    def one_of(self, values: Sequence[T]) -> T:
        return values[self.below(len(values))]

    def weighted(self, weights: dict[str, float]) -> str:
        """A name by its relative frequency."""
        place = self.number() * sum(weights.values())
        for name, weight in weights.items():
            if place < weight:
                return name
            place -= weight
        return name

    def shuffled(self, values: Sequence[T]) -> list[T]:
        left = list(values)
        return [left.pop(self.below(len(left))) for _ in values]


class Shelf:
    """Emoji in the order in which questions use them: every concept once, in a drawn order, then each again with another variant."""

    def __init__(self, names: Sequence[Named], seed: int, purpose: str) -> None:
        self.names = names
        variants: dict[str, list[Named]] = defaultdict(list)
        for one in sorted(names, key=lambda one: share(seed, purpose, one.key)):
            variants[one.concept].append(one)
        self._concepts = [variants[name] for name in sorted(variants, key=lambda name: share(seed, purpose, name))]

    def take(self, number: int, texts: Sequence[str]) -> tuple[Named, str]:
        """The emoji of this number and a wording: no pair repeats before all wordings of a variant, or all variants, were used."""
        cycle, place = divmod(number, len(self._concepts))
        variants = self._concepts[place]
        return variants[cycle % len(variants)], texts[(place + cycle + cycle // len(variants)) % len(texts)]


class Maker:
    """Conversations of one split. Raises `ConfigError` for a kind of question that the names of the split do not allow."""

    def __init__(self, names: Sequence[Named], split: Split, seed: int, dataset: str) -> None:
        self.split, self.dataset, self.seed = split, dataset, seed
        self.names = sorted(names, key=lambda one: one.key)
        self.groups = sorted({one.group for one in names})
        variants = {one.concept for one in names if one.is_variant}
        self._shelves = {
            "people": Shelf([one for one in self.names if one.concept in variants], seed, "people"),
            "things": Shelf([one for one in self.names if one.concept not in variants], seed, "things"),
            "who": Shelf([one for one in self.names if one.who], seed, "who"),
            "skin": Shelf([one for one in self.names if one.skin], seed, "skin"),
            "concept": Shelf([one for one in self.names if one.is_variant], seed, "concept"),
            "aliases": Shelf([one for one in self.names if one.aliases], seed, "aliases"),
        }

    def make(self, kind: str, number: int, draws: Draws) -> tuple[Turns, list[str]]:
        """The turns of conversation `number` of a kind, and the concepts that its answers rest on."""
        turns, about = getattr(self, f"_{kind}")(number, draws)
        return turns, sorted({one.concept for one in about})

    def _shelf(self, name: str) -> Shelf:
        if not self._shelves[name].names:
            raise ConfigError(
                f"datasets.{self.dataset}.kinds: the emoji of {self.split} allow no question about {name}; "
                f"raise the held-out shares of the emoji, or set the frequency of such questions to 0"
            )
        return self._shelves[name]

    def _either(self, number: int, texts: Sequence[str]) -> tuple[Named, str]:
        """A person with variants for every second question, since these are harder; any other emoji else."""
        if not self._shelves["people"].names:
            return self._shelf("things").take(number, texts)
        return self._shelf("things" if number % 2 else "people").take(number // 2, texts)

    def _json(self, number: int, draws: Draws) -> tuple[Turns, list[Named]]:
        one, text = self._either(number, wordings.JSON)
        return [(text.format(name=one.name), one.json)], [one]

    def _field(self, number: int, draws: Draws) -> tuple[Turns, list[Named]]:
        field = tuple(wordings.FIELDS)[number % len(wordings.FIELDS)]
        one, text = self._shelf(field).take(number // len(wordings.FIELDS), wordings.FIELDS[field])
        return [(text.format(name=one.name), getattr(one, field))], [one]

    def _category(self, number: int, draws: Draws) -> tuple[Turns, list[Named]]:
        one, text = self._shelf("things").take(number, wordings.CATEGORY)
        return [(text.format(name=one.name), one.group)], [one]

    def _yes_no(self, number: int, draws: Draws) -> tuple[Turns, list[Named]]:
        one, text = self._shelf("things").take(number, wordings.YES_NO)
        others = [group for group in self.groups if group != one.group]
        true = not others or draws.below(2) == 0
        group = one.group if true else draws.one_of(others)
        return [(text.format(name=one.name, group=group), "yes" if true else "no")], [one]

    def _count(self, number: int, draws: Draws) -> tuple[Turns, list[Named]]:
        """The number of names, or of names from one group; every number is as frequent as any other."""
        shown: dict[str, list[Named]] = defaultdict(list)
        for one in self._shelf("things").names:
            shown[one.group].append(one)
        size = LISTED[0] + draws.below(LISTED[1] - LISTED[0] + 1)
        group = draws.one_of(sorted(shown))
        inside, outside = shown[group], [one for name, some in sorted(shown.items()) if name != group for one in some]
        wanted = min(draws.below(size + 1), len(inside))
        wanted = max(wanted, size - len(outside))
        if wanted > len(inside):
            raise ConfigError(
                f"datasets.{self.dataset}: its emoji in {self.split} are too few for lists of {LISTED[1]} names"
            )
        about = draws.shuffled([*_some(draws, inside, wanted), *_some(draws, outside, size - wanted)])
        names = ", ".join(one.name for one in about)
        if number % 2:
            return [(draws.one_of(wordings.COUNT_GROUP).format(group=group, names=names), str(wanted))], about
        return [(draws.one_of(wordings.COUNT_NAMES).format(names=names), str(size))], about

    def _alias(self, number: int, draws: Draws) -> tuple[Turns, list[Named]]:
        one, text = self._shelf("aliases").take(number, wordings.ALIAS)
        others = [other for other in self._shelf("aliases").names if other.aliases[0] not in one.aliases]
        about = [one, *_some(draws, others, OPTIONS - 1)]
        names = ", ".join(draws.shuffled([other.aliases[0] for other in about]))
        return [(text.format(name=one.name, names=names), one.aliases[0])], about

    def _definition(self, number: int, draws: Draws) -> tuple[Turns, list[Named]]:
        one, text = self._shelf("things").take(number, wordings.DEFINITION)
        return [(text.format(name=one.name), f"An emoji of the group {one.group}, of the kind {one.kind}.")], [one]

    def _dialogue(self, number: int, draws: Draws) -> tuple[Turns, list[Named]]:
        one, text = self._either(number, wordings.CATEGORY)
        return [(text.format(name=one.name), one.group), (draws.one_of(wordings.JSON_AGAIN), one.json)], [one]


def _some(draws: Draws, names: Sequence[Named], count: int) -> list[Named]:
    """Up to `count` emoji, each of another name and position."""
    found: dict[int, Named] = {}
    while len(found) < min(count, len(names)):
        place = draws.below(len(names))
        found.setdefault(place, names[place])
    return list(found.values())
