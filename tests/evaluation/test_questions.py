"""Verdicts on answers by hand, and the questions of samples with and without labels."""

import io
import json

import pytest
import torch
from PIL import Image

from glassworks.data.messages import Medium, Message, as_json
from glassworks.data.reading.dataset import Sample
from glassworks.data.scenes.parser import SceneParser
from glassworks.errors import DataError
from glassworks.evaluation.captions import metrics as caption_metrics
from glassworks.evaluation.questions import score as score_module
from glassworks.evaluation.questions.asked import asked_of, verdict
from glassworks.evaluation.questions.drawing import BOX, POINT, draw_points, film_strip

SIZE = (100, 50)
SCENE = {
    "objects": [{"name": "cat", "count": 2}, {"name": "hat", "count": 1}],
    "relations": [["cat", "above", "hat"]],
    "ground": {"kind": "plain", "color": "white"},
}
PARSER = SceneParser(["cat", "hat", "dog"])


def score(text, answer="", labels=None, **truth):
    return verdict(text, answer, truth, SIZE, labels or {}, PARSER)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("yes", 1), ("Yes.", 1), (" yes ", 1), ("no", 0), ("", 0), ("yes yes", 0)],
)
def test_an_answer_has_the_words_of_the_true_one(text, expected):
    assert score(text, "yes").score == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("cat, hat", 1), ("hat, cat", 1), ("cat", 0), ("cat, hat, dog", 0), ("cat, cat", 0)]
)
def test_a_list_of_objects_may_have_any_order(text, expected):
    assert score(text, objects=["cat", "hat"]).score == expected


def test_of_things_in_order_one_is_named():
    things = {"which": "last", "objects": ["cat", "hat", "dog"]}
    assert [score(text, "dog", **things).score for text in ("dog", "cat", "cat, hat, dog")] == [1, 0, 0]


def test_a_caption_names_exactly_the_objects_and_their_numbers():
    caption = {"references": ["two cats above a hat"], "labels": SCENE}
    assert score("two cats above a hat", **caption).score == 1
    assert score("a hat below two cats", **caption).score == 1
    assert score("a cat above a hat", **caption).score == 0
    assert score("two cats above a hat and a dog", **caption).score == 0
    assert score("two cats", **caption).score == 0


def test_points_count_by_the_share_inside_an_object_of_their_own():
    """Two boxes of 20 x 20 pixels in an image of 100 x 50: their middles are (20, 40) and (70, 40) percent."""
    boxes = [[10, 10, 30, 30], [60, 10, 80, 30]]
    both = score('<points x1="20.0" y1="40.0" x2="70.0" y2="40.0" alt="cats">cats</points>', boxes=boxes)
    assert (both.score, both.points.exact, both.points.distance) == (1, True, 0)
    one = score('<point x="20.0" y="48.0" alt="cat">cat</point>', boxes=boxes)
    assert one.score == 1 and not one.points.exact and one.points.distance > 20
    outside = score('<points x1="20.0" y1="40.0" x2="95.0" y2="95.0" alt="cats">cats</points>', boxes=boxes)
    assert outside.score == 0.5
    for text in ("no points", '<point x="120.0" y="40.0" alt="cat">cat</point>'):
        assert score(text, boxes=boxes).score == 0


def test_captions_are_compared_with_all_references_by_cider():
    references = ["two cats above a hat", "a hat below two cats"]
    items = [
        {"label": {"references": references}, "model": "two cats above a hat", "shuffled": "a dog"},
        {"label": {}, "model": "yes", "shuffled": "no"},
        {"label": {"references": ["a red ball"]}, "model": "a red ball", "shuffled": "two cats above a hat"},
    ]
    first, none, second = score_module.consensus(items, "model")
    scores = caption_metrics.score(
        {"0": references, "2": ["a red ball"]}, {"0": "two cats above a hat", "2": "a red ball"}
    )
    assert none is None and [first, second] == scores.image_cider.tolist() and min(first, second) > 1
    assert score_module.consensus(items, "shuffled") == [0, None, 0]


def sample(messages, **labels):
    stored = {"messages": as_json(messages), "labels": labels}
    return Sample("k", {"json": memoryview(json.dumps(stored).encode())}, "sample k")


PICTURE = Message(role="user", content=[Medium(type="image", media="png")])
TREE = [
    PICTURE,
    *(
        Message(role=role, content=text, branch=branch)
        for branch, pair in enumerate((("how many?", "2"), ("where?", "there")), start=1)
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ),
]


def test_every_branch_is_a_question_with_its_label():
    labels = [{"kind": "how many", "answer": "2", "number": 2}, {"kind": "where", "answer": "there"}]
    first, second = asked_of(sample(TREE, questions=labels))
    assert (first.kind, first.text, first.answer, first.truth["number"]) == ("how many", "how many?", "2", 2)
    assert [message.branch for message in second.messages] == [0, 2] and second.answer == "there"
    assert [one.kind for one in asked_of(sample(TREE))] == ["answer", "answer"]
    with pytest.raises(DataError, match=r"^sample k: 1 questions in its labels, but 2 branches$"):
        asked_of(sample(TREE, questions=labels[:1]))


def test_of_a_conversation_the_last_answer_is_asked():
    talk = [Message(role=role, content=text) for role, text in (("user", "a"), ("assistant", "b")) * 2]
    [found] = asked_of(sample([PICTURE, *talk]))
    assert (found.text, found.answer, len(found.messages)) == ("a", "b", 4)
    assert asked_of(sample([PICTURE, talk[0]])) == []


def test_points_and_boxes_are_drawn():
    content = draw_points(Image.new("RGB", (60, 60)), [(50, 50)], [[5, 5, 20, 20]])
    with Image.open(io.BytesIO(content)) as drawn:
        assert drawn.size == (60, 60)
        assert (
            drawn.getpixel((30, 30)) == POINT
            and drawn.getpixel((5, 12)) == BOX
            and drawn.getpixel((12, 12)) == (0, 0, 0)
        )


def test_the_controls_of_a_clip_have_its_frames_in_another_order_or_one_of_them():
    clip = torch.arange(8.0)[:, None, None].expand(8, 4, 3)
    frames = [range(8)]
    shuffled = score_module.controlled(clip, "shuffled_frames", 0, "k", frames)
    assert shuffled[:, 0, 0].tolist() != clip[:, 0, 0].tolist() and sorted(shuffled[:, 0, 0].tolist()) == list(range(8))
    assert torch.equal(shuffled, score_module.controlled(clip, "shuffled_frames", 0, "k", frames))
    assert not torch.equal(shuffled, score_module.controlled(clip, "shuffled_frames", 0, "l", frames))
    assert torch.equal(score_module.controlled(clip, "one_frame", 0, "k", frames), clip[4].expand(8, 4, 3))
    assert not score_module.controlled(clip, "no_image", 0, "k").any()
    image = clip[1]
    for system in ("model", "shuffled_frames", "one_frame"):
        assert torch.equal(score_module.controlled(image, system, 0, "k"), image)
    mixed = torch.cat([image[None] * 9, clip, clip])  # an image and two clips
    for system, order in (("one_frame", [0, *[5] * 8, *[13] * 8]), ("shuffled_frames", None)):
        found = score_module.controlled(mixed, system, 0, "k", [range(1, 9), range(9, 17)])
        assert torch.equal(found[0], mixed[0])
        if order:
            assert torch.equal(found, mixed[order])
        for part in (slice(1, 9), slice(9, 17)):
            assert system == "one_frame" or sorted(found[part, 0, 0].tolist()) == list(range(8))


def test_a_film_strip_has_rows_of_eight_frames():
    frames = [Image.new("RGB", (10, 6), (number, 0, 0)) for number in range(9)]
    with Image.open(io.BytesIO(film_strip(frames))) as strip:
        assert strip.size == (8 * 12 - 2, 2 * 8 - 2)
        assert [strip.getpixel(place) for place in ((0, 0), (12, 0), (11, 0), (0, 8))] == [
            (0, 0, 0),
            (1, 0, 0),
            (255, 255, 255),
            (8, 0, 0),
        ]
