"""The source `scene_questions`: exact, balanced questions, none of which speaks of a held-out pair in training."""

import io
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from glassworks.data.messages import Medium, Size, order_fault
from glassworks.data.points import contains, parse_points, score_points
from glassworks.data.records import Record, read_table
from glassworks.data.scenes.kinds import Kind, Meetings
from glassworks.data.scenes.layout import GRID, SIZES, compose
from glassworks.data.scenes.parser import SceneFacts, SceneParser, names_in
from glassworks.data.scenes.questions import WORDINGS
from glassworks.errors import ConfigError
from glassworks.sources.scene_questions import source as scene_questions

from ..conftest import SmallProject
from .test_scenes import check_apart
from .tiny_wheels import NOUNS, write_wheels

SAMPLES = {"train": 1600, "validation": 200, "test": 400}
SIZE = (144, 144)


def configure(project: SmallProject, **settings) -> None:
    sprites = {"source": "openmoji", "splits": {"validation": 0.1, "test": 0.1}, "seed": 1}
    composed = {"source": "scene_questions", "sprites": "openmoji", "kinds": 18, "samples": SAMPLES, **settings}
    project.configure({"seed": 5, "datasets": {"openmoji": sprites, "asked": composed}})


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> SmallProject:
    """A project whose scenes are made; tests may configure it otherwise, but build nothing more in it."""
    project = SmallProject(tmp_path_factory.mktemp("asked"))
    write_wheels(project.root, NOUNS)
    configure(project)
    project.run("records-openmoji")
    project.run("records-asked")
    return project


@pytest.fixture(scope="module")
def made(built) -> list[Record]:
    return list(read_table(built.root / "data/records/asked"))


@pytest.fixture
def ask_with(built, tmp_path):
    """The records with other settings."""

    def run(**settings) -> list[Record]:
        configure(built, **settings)
        return list(scene_questions.records(built.context("records-asked", tmp_path / "work")))

    return run


def branches(record: Record) -> list[tuple[str, dict]]:
    """The question and the label of each branch."""
    return [
        (message.content, label)
        for message, label in zip(record.messages[1::2], record.labels["questions"], strict=True)
    ]


def labels(records, kind: str) -> list[dict]:
    return [label for record in records for label in record.labels["questions"] if label["kind"] == kind]


def asked(records, kind: str) -> list[tuple[str, str]]:
    return [(text, label["answer"]) for r in records for text, label in branches(r) if label["kind"] == kind]


def boxes(record: Record) -> dict[str, list[list[int]]]:
    return {thing["name"]: thing["boxes"] for thing in record.labels["objects"]}


def split(records, name: str) -> list[Record]:
    return [record for record in records if record.split == name]


def test_a_record_is_one_image_and_a_branch_for_each_question(made):
    for record in made:
        first, *rest = record.messages
        assert (first.role, first.branch, first.content) == ("user", 0, [Medium(type="image", media="png")])
        count = len(record.labels["questions"])
        assert [message.branch for message in rest] == [n for n in range(1, count + 1) for _ in range(2)]
        assert [message.role for message in rest] == ["user", "assistant"] * count
        assert [message.content for message in rest[1::2]] == [one["answer"] for one in record.labels["questions"]]
        assert order_fault(record.messages) is None
        assert record.sizes == {"png": Size(kind="image", width=144, height=144)}
    assert 5 < np.mean([len(record.labels["questions"]) for record in made]) < 6.2


def test_every_answer_follows_from_the_boxes(made):
    seen = Counter()
    for record in made:
        found = boxes(record)
        for label in record.labels["questions"]:
            kind, answer, name = label["kind"], label["answer"], label.get("object")
            seen[kind] += 1
            if kind == "what":
                assert label["objects"] == sorted(found) and answer == ", ".join(sorted(found))
            elif kind == "how many":
                assert label["number"] == len(found.get(name, [])) and answer == str(label["number"])
            elif kind == "is there":
                assert label["number"] == len(found.get(name, [])) and answer == ("yes" if name in found else "no")
            elif kind == "where":
                assert label["boxes"] == found[name]
                assert score_points(parse_points(answer), found[name], SIZE).exact
            elif kind == "relation":
                assert [answer] == sides(found[name], found[label["other"]])
                assert label["relation"].removesuffix(" of") == answer
    assert set(seen) == set(WORDINGS)


def sides(a: list[list[int]], b: list[list[int]]) -> list[str]:
    """Every side of the objects `b` on which the objects `a` are."""
    found = {
        "left": max(box[2] for box in a) <= min(box[0] for box in b),
        "right": min(box[0] for box in a) >= max(box[2] for box in b),
        "above": max(box[3] for box in a) <= min(box[1] for box in b),
        "below": min(box[1] for box in a) >= max(box[3] for box in b),
    }
    return [side for side, true in found.items() if true]


def test_a_caption_is_one_of_its_references_and_states_all_objects(made):
    parser = SceneParser(names_in(record.labels for record in made))
    for record in made:
        facts = SceneFacts.of_labels(record.labels)
        for label in record.labels["questions"]:
            if label["kind"] == "caption":
                assert label["answer"] in label["references"] and len(set(label["references"])) == 5
                for caption in label["references"]:
                    stated = parser.parse(caption)
                    assert stated.objects == facts.objects and stated.relations <= facts.relations


def test_points_are_on_what_is_drawn(built, made, tmp_path):
    configure(built)
    draw = scene_questions.media(built.context("shards-asked", tmp_path / "work"))

    def pixels(record: Record, things: list[dict], ranks: list) -> np.ndarray:
        labels = {**record.labels, "objects": things}
        shown = Record(record.key, "train", "", labels=labels, media={"ranks": ranks})
        return np.asarray(Image.open(io.BytesIO(draw(shown)["png"]))).astype(int)

    pointed = [(r, label) for r in made[::25] for label in r.labels["questions"] if label["kind"] == "where"]
    assert len(pointed) > 50
    for record, label in pointed:
        for place, thing in enumerate(record.labels["objects"]):
            if thing["name"] == label["object"]:
                ranks = record.media["ranks"][place]
                bare = pixels(record, [], [])
                for box, rank in zip(thing["boxes"], ranks, strict=True):
                    changed = np.abs(pixels(record, [{**thing, "boxes": [box]}], [[rank]]) - bare).max(axis=2) > 0
                    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
                    drawn = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
                    assert sum(contains(drawn, point, SIZE) for point in parse_points(label["answer"])) == 1


@pytest.mark.parametrize("name", SAMPLES)
def test_every_is_there_question_has_yes_as_often_as_no(made, name):
    answers = Counter(asked(split(made, name), "is there"))
    assert len(answers) > 50
    for (text, answer), count in answers.items():
        assert answers[text, "no" if answer == "yes" else "yes"] == count


@pytest.mark.parametrize(
    ("kind", "answers"), [("how many", "01234"), ("relation", ["left", "right", "above", "below"])]
)
def test_answers_are_equally_frequent_and_the_question_does_not_tell_them(made, kind, answers):
    train, test = asked(split(made, "train"), kind), asked(split(made, "test"), kind)
    frequency = Counter(answer for _, answer in train)
    assert set(frequency) == set(answers)
    for count in frequency.values():
        assert count / len(train) == pytest.approx(1 / len(answers), abs=0.035)
    by_text: dict[str, Counter] = {}
    for text, answer in train:
        by_text.setdefault(text, Counter())[answer] += 1
    most = frequency.most_common(1)[0][0]
    right = sum(answer == (by_text[text].most_common(1)[0][0] if text in by_text else most) for text, answer in test)
    assert right / len(test) < 1 / len(answers) + 0.09


def test_the_numbers_in_a_picture_do_not_tell_which_is_asked_for(made):
    seen: dict[tuple[int, ...], Counter] = {}
    for record in made:
        numbers = tuple(sorted(map(len, boxes(record).values())))
        for label in labels([record], "how many"):
            if len(numbers) > 1:
                seen.setdefault(numbers, Counter())[label["number"]] += 1
    assert set(seen) == {(1, 3), (1, 4), (2, 3), (2, 4), (1, 1, 3), (1, 1, 4), (1, 2, 3), (1, 2, 4)}
    asked_for = sum(max(counts.values()) for counts in seen.values()) / sum(map(Counter.total, seen.values()))
    assert asked_for < 0.46, "0.4, and chance in small counts"


def test_training_never_speaks_of_a_held_out_pair(built, made):
    pairs: dict[str, set] = {name: set() for name in SAMPLES}
    spoken: set[frozenset] = set()
    for record in made:
        present = set(boxes(record))
        pairs[record.split] |= {frozenset(pair) for pair in combinations(present, 2)}
        if record.split == "train":
            others = {label["object"] for label in record.labels["questions"] if "object" in label} - present
            spoken |= {frozenset((one, other)) for one in present for other in others}
    held_out = pairs["validation"] | pairs["test"]
    assert held_out and len(spoken) > 50
    assert not held_out & (pairs["train"] | spoken)
    assert not pairs["validation"] & pairs["test"]


def test_a_scene_and_its_questions_do_not_depend_on_how_many_are_made(made, ask_with):
    fewer = ask_with(samples={"train": 31, "test": 6})
    by_key = {record.key: record for record in made}
    assert [record.key for record in fewer] == [f"train-{i:06d}" for i in range(31)] + [
        f"test-{i:06d}" for i in range(6)
    ]
    for record in fewer:
        assert record.messages == by_key[record.key].messages
        assert record.labels["questions"] == by_key[record.key].labels["questions"]


def test_shares_choose_the_kinds(ask_with):
    records = ask_with(samples={"train": 200}, questions={"where": 1, "caption": 0.5, "is there": 0})
    kinds = [[label["kind"] for label in record.labels["questions"]] for record in records]
    assert all(found.count("where") == 1 for found in kinds)
    assert 70 < sum(found.count("caption") for found in kinds) < 130
    assert sum(map(len, kinds)) == sum(found.count("where") + found.count("caption") for found in kinds)
    assert {number for record in records for number in map(len, boxes(record).values())} == {1, 2, 3}


@pytest.mark.parametrize("wordings", [1, 2])
def test_the_first_wordings_alone_are_used(ask_with, wordings):
    records = ask_with(samples={"train": 200}, wordings=wordings)
    for kind, begin in {"where": "point at", "caption": "describe the picture.", "relation": "on which side"}.items():
        first = sum(text.startswith(begin) for text, _ in asked(records, kind))
        total = len(asked(records, kind))
        assert first == total if wordings == 1 else total / 3 < first < total


def test_a_scene_may_have_few_objects_of_each_kind(ask_with):
    records = ask_with(samples={"train": 400}, numbers="few")
    counts = [list(map(len, boxes(record).values())) for record in records]
    assert {number for found in counts for number in found} == {1, 2, 3} and max(map(sum, counts)) == 5
    frequency = Counter(label["answer"] for label in labels(records, "how many"))
    assert set(frequency) == {"0", "1", "2", "3"} and 200 < frequency.total() < 350
    for record in records:
        for label in labels([record], "how many"):
            assert len(boxes(record).get(label["object"], [])) == label["number"]


@pytest.mark.parametrize(
    ("questions", "fault"),
    [
        ({"what": 1.5}, "what: 1.5 is more than 1"),
        ({"where": 0}, "no kind has a mean number above 0"),
        ({"how_many": 1}, "how_many"),
    ],
)
def test_impossible_shares_are_refused(built, questions, fault):
    with pytest.raises(ConfigError, match=fault):
        configure(built, questions=questions)


KINDS = [Kind(str(number), f"kind {number}") for number in range(12)]
MEETINGS = Meetings(KINDS, {"validation": 0.1, "test": 0.1}, 1)


@pytest.mark.parametrize("canvas", [32, 57, 144])
@pytest.mark.parametrize("shape", [(1.0, 1.0), (1.4, 0.4), (0.4, 1.4), (1.3, 0.8), (0.8, 1.3)])
@pytest.mark.parametrize("order", [[4, 2, 1], [1, 4, 2], [2, 1, 4], [1, 3, 2]])
def test_seven_objects_stand_apart_on_any_canvas_whatever_their_shape(canvas, shape, order):
    sizes = [tuple(max(round(size * canvas / GRID * side), 1) for side in shape) for size in SIZES]
    for index in range(100):
        scene = compose(KINDS, MEETINGS, canvas, lambda _: sizes, 1, "train", index, lambda _, kinds: order[:kinds])
        assert [len(group.boxes) for group in scene.groups] == order[: len(scene.groups)]
        check_apart([box for group in scene.groups for box in group.boxes], canvas)
