"""Captions held to exact labels: does a caption name the right objects, count them, and place them as they are?

N-gram scores reward a caption for sounding right. Composed scenes say what is in the image, so what a caption states
can be parsed and checked. Only labels of that kind are used; other data sets have none, and get no such scores.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glassworks.data.scenes.parser import SceneFacts, SceneParser, names_in


@dataclass(frozen=True)
class Judgement:
    """What one caption gets right; None where the question does not arise."""

    objects: bool
    """Whether it names exactly the kinds of object in the image, none more and none less."""
    counts: bool | None
    """Whether it also counts them all right; None unless `objects`."""
    relations: bool | None
    """Whether every relation it states holds; None when it states none, which many true captions do."""
    ground: bool | None
    """Whether the background is as it says; None when it says nothing about it."""

    def as_json(self) -> dict[str, bool | None]:
        return {fact: getattr(self, fact) for fact in FACTS}


FACTS = ("objects", "counts", "relations", "ground")


def judge(parser: SceneParser, labels: Mapping[str, Any], caption: str) -> Judgement:
    """Hold one caption to the labels of its image."""
    truth, stated = SceneFacts.of_labels(dict(labels)), parser.parse(caption)
    objects = stated.objects.keys() == truth.objects.keys()
    return Judgement(
        objects=objects,
        counts=stated.objects == truth.objects if objects else None,
        relations=stated.relations <= truth.relations if stated.relations else None,
        ground=stated.ground == truth.ground if stated.ground else None,
    )


def judge_all(labels: Mapping[str, Mapping[str, Any]], captions: Mapping[str, str]) -> dict[str, Judgement]:
    """A judgement for every image whose labels are those of a composed scene, by key; empty when none are."""
    scenes = {key: one for key, one in labels.items() if describes_scene(one)}
    parser = SceneParser(names_in(map(dict, scenes.values())))
    return {key: judge(parser, one, captions[key]) for key, one in scenes.items()}


def describes_scene(labels: Mapping[str, Any]) -> bool:
    """Whether labels are those of a composed scene: objects with names and counts, relations, a ground."""
    objects, relations, ground = (labels.get(name) for name in ("objects", "relations", "ground"))
    return (
        isinstance(objects, list)
        and all(isinstance(thing, dict) and thing.keys() >= {"name", "count"} for thing in objects)
        and isinstance(relations, list)
        and all(isinstance(relation, list | tuple) and len(relation) == 3 for relation in relations)
        and isinstance(ground, dict)
        and ground.keys() >= {"kind", "color"}
    )
