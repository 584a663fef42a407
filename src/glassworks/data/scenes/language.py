"""The language of scenes: a small regular grammar with five true descriptions of every scene.

A small model learns the grammar in minutes. parser.py parses generated text back, so every stated fact can be checked.
"""

from dataclasses import dataclass

COLORS = {
    "white": (250, 250, 250), "grey": (178, 182, 186), "light blue": (178, 219, 244), "blue": (92, 148, 226),
    "light green": (187, 230, 172), "green": (84, 176, 102), "yellow": (250, 232, 128), "orange": (247, 170, 86),
    "pink": (250, 183, 204), "purple": (172, 138, 214), "brown": (176, 132, 98), "turquoise": (104, 208, 200),
}  # fmt: skip
"""RGB colours of the ground by name."""
TEXTURES = ("plain", "striped", "dotted", "checkered", "speckled")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
"""The grammar uses the first three."""
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
PHRASES = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}
PLACES = {"left of": "on the left", "right of": "on the right", "above": "at the top", "below": "at the bottom"}
SWEEPS = {"left of": "from left to right", "above": "from top to bottom"}

IRREGULAR = {
    "mouse": "mice", "leaf": "leaves", "scarf": "scarves", "wolf": "wolves",
    "tomato": "tomatoes", "potato": "potatoes", "volcano": "volcanoes",
}  # fmt: skip


def plural(noun: str) -> str:
    """'red apple' -> 'red apples', 'cherry' -> 'cherries', 'mouse' -> 'mice'."""
    *before, last = noun.split(" ")
    if last in IRREGULAR:
        last = IRREGULAR[last]
    elif last.endswith(("s", "x", "z", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "s"
    return " ".join([*before, last])


def article(words: str) -> str:
    """'apple' -> 'an apple', 'unicorn' -> 'a unicorn'."""
    return f"{'an' if words[0] in 'aeio' or words.startswith('um') else 'a'} {words}"


@dataclass(frozen=True)
class Thing:
    """Some objects of one kind."""

    name: str
    count: int

    def noun(self) -> str:
        return self.name if self.count == 1 else plural(self.name)

    def phrase(self) -> str:
        """'a cat', 'two cats'."""
        return article(self.name) if self.count == 1 else f"{NUMBERS[self.count - 1]} {self.noun()}"

    def be(self) -> str:
        return "is" if self.count == 1 else "are"


@dataclass(frozen=True)
class View:
    """The facts of a scene that the grammar describes."""

    things: list[Thing]
    """The things of a line, in order; or the lone thing first, then the other two in order."""
    axis: str
    """Relation of each thing in the line to the next, 'left of' or 'above'; with a lone thing, of the other two."""
    lone: str = ""
    """Relation of a lone thing to the other two: 'left of', 'right of', 'above' or 'below'; '' for a line."""
    ground: tuple[str, str] = ("plain", "white")
    """Texture and colour."""

    def relation(self, a: int, b: int) -> str:
        """The unambiguous relation of thing `a` to thing `b`."""
        if self.lone and 0 in (a, b):
            return self.lone if a == 0 else OPPOSITE[self.lone]
        return self.axis if a < b else OPPOSITE[self.axis]

    def place(self, a: int) -> str | None:
        """The place of a thing that is on one side of all others, else None."""
        relations = {self.relation(a, b) for b in range(len(self.things)) if b != a}
        return PLACES[relations.pop()] if len(relations) == 1 else None


def background(ground: tuple[str, str]) -> str:
    """('plain', 'light blue') -> 'a light blue background', ('striped', 'orange') -> 'an orange striped background'."""
    texture, color = ground
    return article(f"{color} background" if texture == "plain" else f"{color} {texture} background")


def describe(view: View, order: list[int]) -> list[str]:
    """Five captions, all true and all worded differently.

    `order`, a permutation of the things, fixes the order of mention where the grammar leaves a choice.
    """
    things, ground = view.things, background(view.ground)
    listed = _list([things[i].phrase() for i in order])
    there = f"there {things[order[0]].be()} {listed}"
    if len(things) == 1:
        return [
            listed,
            f"{there} on {ground}",
            f"a picture of {listed}",
            f"{listed} on {ground}",
            f"{ground} with {listed}",
        ]
    sided = next(i for i in order if view.place(i))
    side = f"the {things[sided].noun()} {view.place(sided)}"
    a, b = (things[i].phrase() for i in order[:2])
    a_to_b = PHRASES[view.relation(order[0], order[1])]
    b_to_a = PHRASES[view.relation(order[1], order[0])]
    if len(things) == 2:
        return [
            f"{a} {a_to_b} {b}",
            f"{there}, {side}",
            f"{b} {things[order[1]].be()} {b_to_a} {a}",
            f"a picture of {listed} on {ground}",
            f"{b} {b_to_a} {a} on {ground}",
        ]
    c, c_to_b = things[order[2]].phrase(), PHRASES[view.relation(order[2], order[1])]
    if view.lone:
        whole = f"{things[0].phrase()} {PHRASES[view.lone]} {_list([things[i].phrase() for i in order if i])}"
    else:
        whole = f"{_list([thing.phrase() for thing in things])} {SWEEPS[view.axis]}"
    return [
        whole,
        f"{there} on {ground}",
        f"{a} {a_to_b} {b}, and {c} {c_to_b} the {things[order[1]].noun()}",
        f"a picture of {listed}, {side}",
        f"{ground} with {listed}",
    ]


def _list(items: list[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
