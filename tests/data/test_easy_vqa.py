"""easy-VQA: the questions of an image are the branches of one record; published test images stay test images."""

import io
import json
import zipfile

import pytest
from PIL import Image

from glassworks.artifacts.publication import publish, seal
from glassworks.data.messages import Medium, Message, Size
from glassworks.data.records import Dropped, Record
from glassworks.errors import DataError
from glassworks.sources.easy_vqa import source as easy_vqa
from glassworks.sources.easy_vqa.settings import EasyVQA

TRAIN = [
    ["what is the blue shape?", "rectangle", 0],
    ["is there a circle?", "no", 1],
    ["what color is the rectangle?", "blue", 0],
]
TEST = [["does the image not contain a circle?", "yes", 0]]


def png(shade: int, size: tuple[int, int] = (64, 64)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (shade, 0, 0)).save(file, "png")
    return file.getvalue()


@pytest.fixture
def context(project, tmp_path):
    def make(train=TRAIN, test=TEST, images=(("train", 0), ("train", 1), ("test", 0)), damaged=(), **settings):
        staged = tmp_path / "staged"
        staged.mkdir()
        with zipfile.ZipFile(staged / "easy_vqa-1.0-py3-none-any.whl", "w") as wheel:
            for part, rows in (("train", train), ("test", test)):
                wheel.writestr(f"easy_vqa/data/{part}/questions.json", json.dumps(rows))
            for part, number in images:
                content = b"no image" if (part, number) in damaged else png(number % 256)
                wheel.writestr(f"easy_vqa/data/{part}/images/{number}.png", content)
        project.configure({"datasets": {"easy_vqa": {"source": "easy_vqa", **settings}}})
        seal(staged, {}, {})
        publish(staged, project.root / "data/raw/easy_vqa", tmp_path / "replaced")
        return project.context("records-easy_vqa", tmp_path / "work")

    return make


def test_questions_of_an_image_are_branches_of_one_record(context):
    made = context(validation=0)
    first, second, third = easy_vqa.records(made)
    assert first == Record(
        key="train-0000",
        split="train",
        group="train-0000",
        labels={"questions": [{"kind": "shape", "answer": "rectangle"}, {"kind": "color", "answer": "blue"}]},
        media={"file": "easy_vqa/data/train/images/0.png"},
        messages=[
            Message(role="user", content=[Medium(type="image", media="png")]),
            Message(role="user", content="what is the blue shape?", branch=1),
            Message(role="assistant", content="rectangle", branch=1),
            Message(role="user", content="what color is the rectangle?", branch=2),
            Message(role="assistant", content="blue", branch=2),
        ],
        sizes={"png": Size(kind="image", width=64, height=64)},
    )
    assert second.labels == {"questions": [{"kind": "yes or no", "answer": "no"}]}
    assert (third.key, third.split) == ("test-0000", "test")
    assert easy_vqa.media(made)(second) == {"png": png(1)}


def test_validation_images_are_taken_from_the_training_images_alone(context):
    rows = [["is there a circle?", "no", number] for number in range(200)]
    images = [(part, number) for part in ("train", "test") for number in range(200)]
    found = list(easy_vqa.records(context(train=rows, test=rows, images=images, validation=0.3)))
    splits = {record.key: record.split for record in found}
    assert {split for key, split in splits.items() if key.startswith("test")} == {"test"}
    held_out = [key for key, split in splits.items() if split == "validation"]
    assert 40 < len(held_out) < 80 and all(key.startswith("train") for key in held_out)
    assert sum(split == "train" for split in splits.values()) == 200 - len(held_out)


def test_an_unknown_answer_and_a_damaged_image_are_dropped(context):
    found = list(easy_vqa.records(context(train=[*TRAIN, ["what?", "mauve", 0]], damaged=[("train", 0)], validation=0)))
    assert found[0] == Dropped("easy_vqa/data/train/questions.json row 4", "unknown answer: 'mauve'")
    assert isinstance(found[1], Dropped) and found[1].count == 2
    assert found[1].where == "easy_vqa/data/train/images/0.png" and "it is no JPEG" in found[1].reason
    assert [record.key for record in found[2:]] == ["train-0001", "test-0000"]


@pytest.mark.parametrize("rows", [{"questions": []}, [["what?", "yes", "0"]], [["what?", "yes"]]])
def test_another_layout_is_refused(context, rows):
    with pytest.raises(DataError, match="is not a list of"):
        list(easy_vqa.records(context(train=rows)))


def test_the_settings_name_the_kinds_that_the_labels_have():
    assert EasyVQA(source="easy_vqa").question_kinds() == list(dict.fromkeys(easy_vqa.KINDS.values()))
