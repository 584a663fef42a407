"""Captions against exact labels."""

from itertools import permutations
from typing import Any

import pytest

from glassworks.data.scenes.language import OPPOSITE, SWEEPS, Thing, View, describe
from glassworks.data.scenes.parser import SceneParser, names_in
from glassworks.evaluation.captions.facts import describes_scene, judge, judge_all

LABELS = {
    "objects": [{"name": "cat", "key": "1f408", "count": 1, "boxes": []}, {"name": "dog", "key": "1f415", "count": 2}],
    "relations": [["cat", "left of", "dog"]],
    "ground": {"kind": "striped", "color": "orange"},
}
PARSER = SceneParser(["cat", "dog", "red apple"])


@pytest.mark.parametrize(
    ("caption", "objects", "counts", "relations", "ground"),
    [
        ("a cat to the left of two dogs", True, True, True, None),
        ("two dogs to the right of a cat on an orange striped background", True, True, True, True),
        ("a picture of a cat and two dogs on a blue striped background", True, True, None, False),
        ("a cat to the left of three dogs", True, False, True, None),
        ("a cat to the right of two dogs", True, True, False, None),
        ("a cat to the left of two red apples", False, None, False, None),
        ("a cat", False, None, None, None),
        ("a cat, two dogs and a red apple", False, None, None, None),
        ("a cat to the left of two zeppelins", False, None, False, None),
        ("", False, None, None, None),
        ("of of of background", False, None, None, None),
    ],
)
def test_judgement(caption: str, objects: bool, counts: Any, relations: Any, ground: Any) -> None:
    found = judge(PARSER, LABELS, caption)
    assert found.as_json() == {"objects": objects, "counts": counts, "relations": relations, "ground": ground}


def _labels(view: View) -> dict[str, Any]:
    relations = set()
    for a, b in permutations(range(len(view.things)), 2):
        relation = view.relation(a, b)
        a, relation, b = (a, relation, b) if relation in SWEEPS else (b, OPPOSITE[relation], a)
        relations.add((view.things[a].name, relation, view.things[b].name))
    return {
        "objects": [{"name": thing.name, "count": thing.count} for thing in view.things],
        "relations": [list(relation) for relation in sorted(relations)],
        "ground": {"kind": view.ground[0], "color": view.ground[1]},
    }


@pytest.mark.parametrize("lone", ["", "above", "below"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_true_caption_of_a_scene_gets_every_fact_it_states(count: int, lone: str) -> None:
    things = [Thing("cat", 1), Thing("red apple", 3), Thing("mouse", 2)][:count]
    view = View(things, "left of", lone if count == 3 else "", ("dotted", "light blue"))
    labels = _labels(view)
    parser = SceneParser(names_in([labels]))
    for order in permutations(range(count)):
        for caption in describe(view, list(order)):
            found = judge(parser, labels, caption)
            assert found.objects and found.counts, caption
            assert found.relations is not False and found.ground is not False, caption


def test_only_labels_of_scenes_are_used() -> None:
    labels = {"scene": LABELS, "photo": {}, "other": {"objects": ["cat"], "relations": [], "ground": {}}}
    judged = judge_all(labels, {"scene": "a cat to the left of two dogs", "photo": "a cat", "other": "a cat"})
    assert list(judged) == ["scene"] and judged["scene"].objects
    assert not describes_scene({"objects": 3})
