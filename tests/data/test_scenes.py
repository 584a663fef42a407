"""The source `scenes`: composed pictures with exact labels, whose held-out pairs of kinds never meet in training."""

import hashlib
import io
import json
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import soundfile
from PIL import Image

from glassworks.data.records import Record, read_table
from glassworks.data.scenes.kinds import Kind, Meetings
from glassworks.data.scenes.layout import GRID, MARGIN, SIZES, compose
from glassworks.data.scenes.parser import SceneFacts, SceneParser, names_in
from glassworks.errors import ConfigError
from glassworks.sources.openmoji.source import Drawings
from glassworks.sources.scenes import source as scenes

from ..conftest import SmallProject
from .tiny_wheels import HALOED, NOUNS, write_wheels

SAMPLES = {"train": 800, "validation": 150, "test": 150}


def configure(project: SmallProject, seed: int = 5, **settings) -> None:
    sprites = {"source": "openmoji", "splits": {"validation": 0.1, "test": 0.1}, "seed": 1}
    composed = {"source": "scenes", "sprites": "openmoji", "kinds": 18, "samples": SAMPLES, **settings}
    project.configure({"seed": seed, "datasets": {"openmoji": sprites, "scenes": composed}})


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> SmallProject:
    """A project whose scenes are made; tests may configure it otherwise, but build nothing more in it."""
    project = SmallProject(tmp_path_factory.mktemp("scenes"))
    write_wheels(project.root, [*NOUNS, HALOED])
    configure(project)
    project.run("records-openmoji")
    project.run("records-scenes")
    return project


@pytest.fixture(scope="module")
def made(built) -> list[Record]:
    return list(read_table(built.root / "data/records/scenes"))


@pytest.fixture
def compose_with(built, tmp_path):
    """The records of scenes with other settings."""

    def run(**settings) -> list[Record]:
        configure(built, **settings)
        work = tmp_path / str(len(list(tmp_path.iterdir())))
        return list(scenes.records(built.context("records-scenes", work)))

    return run


@pytest.fixture(scope="module")
def draw(built, tmp_path_factory):
    configure(built)
    return scenes.media(built.context("shards-scenes", tmp_path_factory.mktemp("work") / "work"))


def pixels(files: dict[str, bytes]) -> np.ndarray:
    """(height, width, 3)"""
    return np.asarray(Image.open(io.BytesIO(files["png"]))).astype(int)


def keys(record: Record) -> list[str]:
    return sorted(thing["key"] for thing in record.labels["objects"])


def boxes(record: Record) -> list[list[int]]:
    return [box for thing in record.labels["objects"] for box in thing["boxes"]]


def outer(thing: dict) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = zip(*thing["boxes"], strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def test_held_out_pairs_never_meet_in_training(made):
    pairs = {split: {pair for r in made if r.split == split for pair in combinations(keys(r), 2)} for split in SAMPLES}
    assert all(pairs.values())
    assert not pairs["train"] & pairs["validation"]
    assert not pairs["train"] & pairs["test"]
    assert not pairs["validation"] & pairs["test"]


def test_held_out_scenes_have_two_or_three_kinds_and_training_scenes_one_to_three(made):
    assert {len(keys(record)) for record in made if record.split == "train"} == {1, 2, 3}
    assert {len(keys(record)) for record in made if record.split != "train"} == {2, 3}


def test_every_kind_is_seen_in_training_alone_and_is_a_sprite_of_the_training_split(built, made):
    alone = {keys(record)[0] for record in made if record.split == "train" and len(keys(record)) == 1}
    sprites = {record.key for record in read_table(built.root / "data/records/openmoji", "train")}
    assert {key for record in made for key in keys(record)} <= alone <= sprites
    assert len(alone) == 18


def test_every_caption_of_a_scene_is_true(made):
    parser = SceneParser(names_in(record.labels for record in made))
    related = grounded = 0
    for record in made:
        facts = SceneFacts.of_labels(record.labels)
        for caption in record.texts:
            stated = parser.parse(caption)
            assert stated.objects == facts.objects, caption
            assert stated.relations <= facts.relations, caption
            assert stated.ground in (None, facts.ground), caption
            related, grounded = related + bool(stated.relations), grounded + bool(stated.ground)
    assert related > len(made) and grounded > len(made), "captions speak of places and grounds too"


def test_a_caption_with_its_sides_swapped_is_false(made):
    parser = SceneParser(names_in(record.labels for record in made))
    swapped = str.maketrans({"<": ">", ">": "<"})
    for record in made:
        facts = SceneFacts.of_labels(record.labels)
        for caption in record.texts:
            for one, other in (("left", "right"), ("above", "below"), ("top", "bottom")):
                marked = caption.replace(one, "<").replace(other, ">")
                if ("<" in marked) != (">" in marked):
                    stated = parser.parse(marked.translate(swapped).replace("<", one).replace(">", other))
                    assert not stated.relations <= facts.relations, caption


def test_the_five_captions_of_a_scene_differ_and_are_plain_lower_case_english(made):
    for record in made:
        assert len(set(record.texts)) == 5
        assert all(set(caption) <= set("abcdefghijklmnopqrstuvwxyz, ") for caption in record.texts)


def test_relations_are_those_of_the_boxes(made):
    for record in made:
        things = record.labels["objects"]
        expected = set()
        for a in things:
            for b in things:
                (_, _, right, bottom), (left, top, _, _) = outer(a), outer(b)
                expected |= {(a["name"], "left of", b["name"])} if right <= left else set()
                expected |= {(a["name"], "above", b["name"])} if bottom <= top else set()
        assert {tuple(relation) for relation in record.labels["relations"]} == expected


def test_boxes_are_where_the_picture_differs_from_its_ground(made, draw):
    for record in made[::20]:
        bare = Record(record.key, "train", "", [], {**record.labels, "objects": []}, {"ranks": []})
        changed = np.abs(pixels(draw(record)) - pixels(draw(bare))).max(axis=2) > 0
        for x0, y0, x1, y1 in boxes(record):
            inside = changed[y0:y1, x0:x1]
            rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
            assert rows[0] <= 1 and columns[0] <= 1, "tight at the upper left"
            assert rows[-1] >= y1 - y0 - 2 and columns[-1] >= x1 - x0 - 2, "tight at the lower right"
            inside[:] = False
        assert not changed.any(), "nothing is drawn outside the boxes"


def test_objects_stand_apart_inside_the_canvas_and_are_counted(made):
    for record in made:
        for thing in record.labels["objects"]:
            assert thing["count"] == len(thing["boxes"]) <= 3
        assert len(boxes(record)) <= 5
        check_apart(boxes(record), 72)


def test_what_cannot_be_seen_is_no_part_of_a_sprite(built):
    sprites = scenes.Sprites(Drawings(built.root / "data/raw/openmoji"), 72)
    for sprite in sprites.draw(HALOED.code.lower()):
        alpha = np.asarray(sprite.getchannel("A"))
        assert not ((alpha > 0) & (alpha < scenes.FAINT)).any()
        assert all(side.any() for side in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]))


KINDS = [Kind(str(number), f"kind {number}") for number in range(12)]
MEETINGS = Meetings(KINDS, {"validation": 0.1, "test": 0.1}, 1)


@pytest.mark.parametrize("canvas", [32, 57, 400])
@pytest.mark.parametrize("shape", [(1.0, 1.0), (1.4, 0.4), (0.4, 1.4)])
def test_objects_stand_apart_on_any_canvas_whatever_their_shape(canvas, shape):
    sizes = [tuple(max(round(size * canvas / GRID * side), 1) for side in shape) for size in SIZES]
    for index in range(200):
        scene = compose(KINDS, MEETINGS, canvas, lambda key: sizes, 1, "train", index)
        check_apart([box for group in scene.groups for box in group.boxes], canvas)


def test_seed_split_and_index_each_change_the_scene():
    def composed(seed, split, index):
        scene = compose(KINDS, MEETINGS, 72, lambda key: [(size, size) for size in SIZES], seed, split, index)
        return [group.boxes for group in scene.groups]

    assert composed(1, "test", 3) == composed(1, "test", 3)
    others = [composed(2, "test", 3), composed(1, "validation", 3), composed(1, "test", 4)]
    assert composed(1, "test", 3) not in others


def check_apart(found, canvas: int) -> None:
    edge = round(MARGIN * canvas / GRID)
    for x0, y0, x1, y1 in found:
        assert edge <= x0 < x1 <= canvas - edge and edge <= y0 < y1 <= canvas - edge
    for a, b in combinations(found, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_scene_does_not_depend_on_how_many_are_made(made, compose_with):
    fewer = compose_with(samples={"train": 30, "test": 20})
    assert [record.key for record in fewer] == [f"train-{i:06d}" for i in range(30)] + [
        f"test-{i:06d}" for i in range(20)
    ]
    by_key = {record.key: record for record in made}
    for record in fewer:
        assert json.loads(json.dumps(record.labels)) == by_key[record.key].labels
        assert record.texts == by_key[record.key].texts


def test_another_seed_makes_other_scenes(made, compose_with):
    others = compose_with(seed=6)
    same = sum(one.texts == other.texts for one, other in zip(made, others, strict=True))
    assert same < len(made) / 20


def test_fewer_kinds_are_a_subset_of_more_and_their_pairs_stay_where_they_are(made, compose_with):
    def pairs(records, split):
        return {pair for r in records if r.split == split for pair in combinations(keys(r), 2)}

    fewer = compose_with(kinds=14)
    assert {key for r in fewer for key in keys(r)} < {key for r in made for key in keys(r)}
    assert not pairs(fewer, "train") & pairs(made, "test") and not pairs(fewer, "test") & pairs(made, "train")


def test_scene_bytes_are_the_same_in_another_process(built, made, draw):
    configure(built)
    script = f"""
import hashlib
from pathlib import Path
from glassworks.config.project import load_project
from glassworks.sources.scenes import source as scenes
from glassworks.sources.openmoji.source import Drawings
from glassworks.pipeline.execution import Context
from glassworks.pipeline.table import Table

root = Path({str(built.root)!r})
table = Table(load_project(root))
stage = table["shards-scenes"]
inputs = {{role: root / table[name].directory for role, name in stage.inputs.items()}}
context = Context(table.project, stage, inputs, root, root)
records = list(scenes.records(context))
draw = scenes.media(context)
for record in reversed(records[::40]):
    print(record.key, hashlib.sha256(draw(record)["png"]).hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    here = [f"{r.key} {hashlib.sha256(draw(r)['png']).hexdigest()}" for r in reversed(made[::40])]
    assert done.stdout.split("\n")[:-1] == here


def test_pictures_have_the_size_asked_for(built, compose_with, tmp_path):
    record = compose_with(size=100, samples={"train": 1})[0]
    picture = scenes.media(built.context("shards-scenes", tmp_path / "media"))(record)
    assert pixels(picture).shape == (100, 100, 3)


def test_captions_are_spoken_beside_the_same_pictures(built, made, compose_with, draw, tmp_path):
    record = made[0]
    assert compose_with(speech={})[0].texts == record.texts
    speak = scenes.media(built.context("shards-scenes", tmp_path / "spoken"))
    files = speak(record)
    assert files["png"] == draw(record)["png"] and files == speak(record)
    sound, rate = soundfile.read(io.BytesIO(files["flac"]))
    assert rate == 16_000 and np.abs(sound).max() > 0.05
    assert 0.15 < len(sound) / rate / len(record.texts[0].split()) < 0.8  # seconds a word


def test_more_kinds_than_there_are_nouns_is_refused_with_the_number_there_is(compose_with):
    with pytest.raises(ConfigError, match=r"datasets\.scenes\.kinds: 400 .* has 2\d "):
        compose_with(kinds=400)


def test_a_split_without_any_pair_is_refused(compose_with):
    with pytest.raises(ConfigError, match=r"datasets\.scenes\.samples\.test: .*`held_out_pairs`"):
        compose_with(held_out_pairs={"validation": 0.2, "test": 0.0})
