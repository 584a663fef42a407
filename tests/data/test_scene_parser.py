"""The language of scenes: words, and reading descriptions back."""

import random

import pytest

from glassworks.data.scenes.kinds import NOUNS
from glassworks.data.scenes.language import article, plural
from glassworks.data.scenes.parser import SceneFacts, SceneParser

PARSER = SceneParser(["cat", "red apple", "mouse", "kite"])


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("cat", "cats"),
        ("red apple", "red apples"),
        ("bus", "buses"),
        ("fox", "foxes"),
        ("peach", "peaches"),
        ("toothbrush", "toothbrushes"),
        ("cherry", "cherries"),
        ("key", "keys"),
        ("mouse", "mice"),
        ("maple leaf", "maple leaves"),
        ("tomato", "tomatoes"),
    ],
)
def test_plurals(noun, expected):
    assert plural(noun) == expected


def test_no_noun_is_another_ones_plural_and_each_has_one_or_two_words():
    assert len({form for noun in NOUNS for form in (noun, plural(noun))}) == 2 * len(NOUNS)
    assert {len(noun.split()) for noun in NOUNS} == {1, 2}


@pytest.mark.parametrize(("noun", "expected"), [("umbrella", "an"), ("unicorn", "a"), ("owl", "an"), ("hedgehog", "a")])
def test_articles(noun, expected):
    assert article(noun) == f"{expected} {noun}"


LEFT, ABOVE = ("cat", "left of", "mouse"), ("cat", "above", "mouse")


@pytest.mark.parametrize(
    ("text", "relations"),
    [
        ("a cat to the left of two mice", {LEFT}),
        ("two mice to the right of a cat", {LEFT}),
        ("two mice are to the right of a cat", {LEFT}),
        ("there are two mice and a cat, the cat on the left", {LEFT}),
        ("there are two mice and a cat, the mice are on the right", {LEFT}),
        ("a cat and two mice from left to right", {LEFT}),
        ("a cat above two mice", {ABOVE}),
        ("two mice below a cat", {ABOVE}),
        ("a picture of a cat and two mice, the mice at the bottom", {ABOVE}),
        ("a cat and two mice from top to bottom", {ABOVE}),
        ("A cat to the left of two mice.", {LEFT}),
        ("a cat and two mice", set()),
    ],
)
def test_one_fact_in_different_words_is_one_fact(text, relations):
    assert PARSER.parse(text) == SceneFacts({"cat": 1, "mouse": 2}, frozenset(relations))


def test_relations_among_three():
    line = PARSER.parse("a cat, two mice and a kite from left to right")
    assert line.relations == {LEFT, ("cat", "left of", "kite"), ("mouse", "left of", "kite")}
    both = PARSER.parse("a cat to the left of two mice and a kite")
    assert both.relations == {LEFT, ("cat", "left of", "kite")}
    chain = PARSER.parse("a cat to the left of two mice, and a kite above the mice")
    assert chain == SceneFacts({"cat": 1, "kite": 1, "mouse": 2}, frozenset({LEFT, ("kite", "above", "mouse")}))
    place = PARSER.parse("a picture of a kite, a cat and two mice, the mice on the left")
    assert place.relations == {("mouse", "left of", "kite"), ("mouse", "left of", "cat")}


@pytest.mark.parametrize(
    ("text", "ground"),
    [
        ("a cat on a light blue background", ("plain", "light blue")),
        ("an orange striped background with a cat", ("striped", "orange")),
        ("there is a cat on a blue speckled background", ("speckled", "blue")),
        ("a cat", None),
    ],
)
def test_the_ground_is_a_fact_when_it_is_mentioned(text, ground):
    assert PARSER.parse(text) == SceneFacts({"cat": 1}, frozenset(), ground)


def test_a_wrong_count_or_a_made_up_thing_counts():
    assert PARSER.parse("four cats and a red apple").objects == {"cat": 4, "red apple": 1}
    assert PARSER.parse("a cat and two flying pigs on a blue background").objects == {"cat": 1, "flying pigs": 2}
    assert PARSER.parse("a cat and a cat").objects == {"cat": 2}


def test_a_thing_is_not_beside_itself():
    assert PARSER.parse("a cat to the left of a cat").relations == frozenset()


def test_any_text_is_read_without_an_error():
    pieces = "a an the two three cat mice kite to left of right above below on at top bottom from and with is are"
    pieces += " , <0> <9> there picture background blue striped 🍎 3 . \n ( the the"
    words = pieces.split(" ")
    chance = random.Random(0)
    for _ in range(3000):
        PARSER.parse(" ".join(chance.choices(words, k=chance.randrange(30))))
    assert PARSER.parse("") == PARSER.parse("!?") == SceneFacts()


def test_a_very_long_text_is_read_in_no_time():
    assert PARSER.parse("a cat and " * 2000).objects == {"cat": 2000}
