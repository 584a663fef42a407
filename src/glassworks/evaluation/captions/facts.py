"""Checks captions against exact labels: objects, counts, relations and background.

N-gram scores reward similar wording, right or wrong. Labels of composed scenes list the objects in the image, so the
statements of a caption can be parsed and checked. Other datasets have no such labels and get no such scores.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glassworks.data.scenes.parser import SceneFacts, SceneParser, names_in


@dataclass(frozen=True)
class Judgement:
    """Correctness of one caption by kind of fact; None if the caption cannot be judged on it."""

    objects: bool
    """Whether the caption names exactly the kinds of object in the image."""
    counts: bool | None
    """Whether all counts are right, too; None unless `objects`."""
    relations: bool | None
    """Whether every stated relation holds; None if the caption states none, as many correct captions do."""
    ground: bool | None
    """Whether the stated background is right; None if the caption does not mention the background."""

    def as_json(self) -> dict[str, bool | None]:
        return {fact: getattr(self, fact) for fact in FACTS}


FACTS = ("objects", "counts", "relations", "ground")


def judge(parser: SceneParser, labels: Mapping[str, Any], caption: str) -> Judgement:
    """The judgement of one caption against the labels of its image."""
    truth, stated = SceneFacts.of_labels(dict(labels)), parser.parse(caption)
    objects = stated.objects.keys() == truth.objects.keys()
    return Judgement(
        objects=objects,
        counts=stated.objects == truth.objects if objects else None,
        relations=stated.relations <= truth.relations if stated.relations else None,
        ground=stated.ground == truth.ground if stated.ground else None,
    )


def judge_all(labels: Mapping[str, Mapping[str, Any]], captions: Mapping[str, str]) -> dict[str, Judgement]:
    """Judgements by key, for all images with labels of a composed scene; empty if there are none."""
    scenes = {key: one for key, one in labels.items() if describes_scene(one)}
    parser = SceneParser(names_in(map(dict, scenes.values())))
    return {key: judge(parser, one, captions[key]) for key, one in scenes.items()}


def describes_scene(labels: Mapping[str, Any]) -> bool:
    """Whether labels describe a composed scene: objects with names and counts, relations, a ground."""
    objects, relations, ground = (labels.get(name) for name in ("objects", "relations", "ground"))
    return (
        isinstance(objects, list)
        and all(isinstance(thing, dict) and thing.keys() >= {"name", "count"} for thing in objects)
        and isinstance(relations, list)
        and all(isinstance(relation, list | tuple) and len(relation) == 3 for relation in relations)
        and isinstance(ground, dict)
        and ground.keys() >= {"kind", "color"}
    )
