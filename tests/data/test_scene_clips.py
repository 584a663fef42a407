"""The source `scene_clips`: what happens is what the questions say, in frames that decode exactly."""

import io
import json
from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
from PIL import Image, ImageSequence

from glassworks.data.messages import Medium, Size
from glassworks.data.records import Record, read_table
from glassworks.data.scenes.clips import ACTIONS, DIRECTIONS
from glassworks.errors import ConfigError
from glassworks.sources.openmoji.source import Drawings
from glassworks.sources.scene_clips import source as scene_clips
from glassworks.sources.scene_clips.source import turns_visibly
from glassworks.sources.scenes.source import Sprites

from ..conftest import SmallProject
from .tiny_wheels import NOUNS, Drawing, write_wheels

SAMPLES = {"train": 900, "validation": 100, "test": 200}
WHEEL = Drawing(
    "1F95A",
    ":egg:",
    "egg",
    (),
    "food-and-drink",
    "food-prepared",
    '<svg id="emoji" viewBox="0 0 72 72" xmlns="http://www.w3.org/2000/svg"><circle cx="36" cy="36" r="30"/></svg>',
)
"""A drawing that looks the same however it is turned."""


def configure(project: SmallProject, **settings) -> None:
    sprites = {"source": "openmoji", "splits": {"validation": 0.1, "test": 0.1}, "seed": 1}
    composed = {"source": "scene_clips", "sprites": "openmoji", "kinds": 16, "samples": SAMPLES, **settings}
    project.configure({"seed": 5, "datasets": {"openmoji": sprites, "clips": composed}})


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> SmallProject:
    """A project whose clips are made; tests may configure it otherwise, but build nothing more in it."""
    project = SmallProject(tmp_path_factory.mktemp("clips"))
    write_wheels(project.root, [*NOUNS, WHEEL])
    configure(project)
    project.run("records-openmoji")
    project.run("records-clips")
    return project


@pytest.fixture(scope="module")
def made(built) -> list[Record]:
    return list(read_table(built.root / "data/records/clips"))


@pytest.fixture
def compose_with(built, tmp_path):
    """The records with other settings."""

    def run(**settings) -> list[Record]:
        configure(built, **settings)
        return list(scene_clips.records(built.context("records-clips", tmp_path / "work")))

    return run


def labels(records, kind: str) -> list[tuple[dict, dict]]:
    """Every question of a kind, with the object that it names."""
    found = []
    for record in records:
        things = {thing["name"]: thing for thing in record.labels["objects"]}
        found += [(q, things.get(q.get("object"))) for q in record.labels["questions"] if q["kind"] == kind]
    return found


def visible(thing: dict) -> list[int]:
    return [time for time, box in enumerate(thing["boxes"]) if box]


def middle(box) -> np.ndarray:
    return np.array([box[0] + box[2], box[1] + box[3]]) / 2


def side(box) -> int:
    return max(box[2] - box[0], box[3] - box[1])


def test_a_record_is_one_clip_and_a_branch_for_each_question(made):
    for record in made:
        first, *rest = record.messages
        assert (first.role, first.branch, first.content) == ("user", 0, [Medium(type="video", media="webp")])
        assert [m.content for m in rest[1::2]] == [label["answer"] for label in record.labels["questions"]]
        assert record.sizes == {"webp": Size(kind="video", width=72, height=72, frames=8, seconds=2.0)}


def test_frames_show_the_objects_in_their_boxes_and_nothing_else(built, made, tmp_path):
    configure(built)
    draw = scene_clips.media(built.context("shards-clips", tmp_path / "work"))
    for record in made[::30]:
        bare = Record(record.key, "train", "", labels={**record.labels, "objects": []}, media={"poses": []})
        clips = [Image.open(io.BytesIO(draw(one)["webp"])) for one in (record, bare)]
        assert [clip.n_frames for clip in clips] == [8, 8]
        frames = [[np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(c)] for c in clips]
        for time, (shown, ground) in enumerate(zip(*frames, strict=True)):
            changed = np.abs(shown - ground).max(axis=2) > 0
            for thing in record.labels["objects"]:
                if box := thing["boxes"][time]:
                    x0, y0, x1, y1 = box
                    assert 0 <= x0 < x1 <= 72 and 0 <= y0 < y1 <= 72
                    assert changed[y0 : y0 + 2, x0:x1].any() and changed[y1 - 2 : y1, x0:x1].any()
                    assert changed[y0:y1, x0 : x0 + 2].any() and changed[y0:y1, x1 - 2 : x1].any()
                    changed[y0:y1, x0:x1] = False
            assert not changed.any()
        turning = [thing for thing in record.labels["objects"] if thing["action"] == "turns"]
        if turning:
            assert all((one != other).any() for one, other in pairwise(frames[0]))


def test_every_action_happens(made):
    for label, thing in labels(made, "action"):
        assert label["answer"] == thing["action"]
        times, boxes = visible(thing), [box for box in thing["boxes"] if box]
        still = all(np.abs(middle(box) - middle(boxes[0])).max() <= 1 for box in boxes)
        sides = [side(box) for box in boxes]
        assert still == (thing["action"] != "moves")
        if thing["action"] == "grows":
            assert sides == sorted(sides) and sides[-1] > 1.5 * sides[0]
        elif thing["action"] == "shrinks":
            assert sides == sorted(sides, reverse=True) and sides[0] > 1.5 * sides[-1]
        elif thing["action"] != "turns":
            assert len(set(sides)) == 1
        if thing["action"] == "appears":
            assert 2 <= times[0] <= 6 and times == list(range(times[0], 8))
        elif thing["action"] == "vanishes":
            assert 1 <= times[-1] <= 5 and times == list(range(times[-1] + 1))
        else:
            assert times == list(range(8))


def test_every_direction_is_that_of_the_boxes(made):
    for label, thing in labels(made, "direction"):
        way = middle(thing["boxes"][-1]) - middle(thing["boxes"][0])
        assert label["answer"] == thing["direction"]
        assert np.abs(way - 32 * np.array(DIRECTIONS[label["answer"]])).max() <= 1
        steps = [middle(b) - middle(a) for a, b in pairwise(thing["boxes"])]
        assert all(np.abs(step).max() > 1 for step in steps)


def test_the_middle_of_the_way_does_not_tell_the_direction(made):
    places = {name: [] for name in DIRECTIONS}
    for label, thing in labels(made, "direction"):
        axis = int(DIRECTIONS[label["answer"]][0] == 0)
        places[label["answer"]].append((middle(thing["boxes"][0]) + middle(thing["boxes"][-1]))[axis] / 2)
    for one, other in (("left", "right"), ("up", "down")):
        assert len(places[one]) > 100
        assert np.mean(places[one]) == pytest.approx(np.mean(places[other]), abs=2.5)
        assert np.std(places[one]) == pytest.approx(np.std(places[other]), abs=2)


def test_order_is_that_of_the_frames_and_shuffled_frames_do_not_tell_it(made):
    questions = labels(made, "order")
    for label, _ in questions:
        assert label["answer"] == label["objects"][{"first": 0, "last": -1}[label["which"]]]
    assert Counter(label["which"] for label, _ in questions) == {
        "first": len(questions) // 2,
        "last": len(questions) // 2,
    }
    for record in made:
        if record.labels["questions"][0]["kind"] == "order":
            times = [visible(thing) for thing in record.labels["objects"]]
            together = [time for one in times for time in one]
            assert together == sorted(set(together)), "one after another, never together"
            assert len({len(one) for one in times}) == 1, "equally long"
            assert [thing["name"] for thing in record.labels["objects"]] == record.labels["questions"][0]["objects"]


def test_answers_are_equally_frequent(made):
    for kind, answers in (("action", ACTIONS), ("direction", DIRECTIONS)):
        counts = Counter(label["answer"] for label, _ in labels(made, kind))
        assert set(counts) == set(answers)
        for count in counts.values():
            assert count / counts.total() == pytest.approx(1 / len(answers), abs=0.05)
    pairs = [record for record in made if len(record.labels["objects"]) == 2]
    counts = Counter(label["answer"] for label, _ in labels(pairs, "action"))
    assert min(counts.values()) > 0.7 * max(counts.values()), "the space that an action needs makes it no rarer"


def test_held_out_pairs_never_meet_in_training(made):
    pairs = {
        name: {
            pair
            for r in made
            if r.split == name
            for pair in combinations(sorted(t["key"] for t in r.labels["objects"]), 2)
        }
        for name in SAMPLES
    }
    assert all(pairs.values())
    assert not pairs["train"] & (pairs["validation"] | pairs["test"]) and not pairs["validation"] & pairs["test"]


def test_a_clip_does_not_depend_on_how_many_are_made(made, compose_with):
    fewer = compose_with(samples={"train": 21, "test": 7})
    assert [record.key for record in fewer] == [f"train-{i:06d}" for i in range(21)] + [
        f"test-{i:06d}" for i in range(7)
    ]
    by_key = {record.key: record for record in made}
    for record in fewer:
        assert record.messages == by_key[record.key].messages
        assert json.loads(json.dumps(record.labels)) == by_key[record.key].labels


def test_frames_rate_and_kinds_of_question_are_settings(compose_with):
    records = compose_with(samples={"train": 60}, frames=11, rate=5, questions={"order": 1, "action": 3})
    assert {len(thing["boxes"]) for record in records for thing in record.labels["objects"]} == {11}
    assert {record.sizes["webp"].seconds for record in records} == {2.2}
    kinds = Counter(record.labels["questions"][0]["kind"] for record in records)
    assert set(kinds) == {"order", "action"} and kinds["action"] > 2 * kinds["order"] * 0.6


def test_the_first_wordings_alone_are_used(compose_with):
    records = compose_with(samples={"train": 60}, wordings=1)
    texts = {message.content for record in records for message in record.messages[1::2]}
    assert all(text.startswith(("what does the ", "which way does the ", "what comes ")) for text in texts)


def test_no_question_at_all_is_refused(built):
    with pytest.raises(ConfigError, match="no kind has a frequency above 0"):
        configure(built, questions={"order": 0})


def test_a_drawing_that_looks_the_same_when_it_turns_is_no_kind(built, made):
    [egg] = [record for record in read_table(built.root / "data/records/openmoji") if record.texts == ["egg"]]
    sprites = Sprites(Drawings(built.root / "data/raw/openmoji"), 72)
    assert egg.split == "train" and not turns_visibly(sprites, scene_clips.Kind(egg.key, "egg"))
    keys = {thing["key"] for record in made for thing in record.labels["objects"]}
    assert len(keys) == 16 and egg.key not in keys
