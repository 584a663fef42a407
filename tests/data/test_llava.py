"""LLaVA's layout: conversations about images, in rows as published; whatever cannot be used is named and dropped."""

import json

import pytest
from PIL import Image

from glassworks.data.animations import write_webp
from glassworks.data.messages import Medium, Message, Size, Text
from glassworks.data.records import Record, read_table
from glassworks.errors import DataError
from glassworks.sources.llava import source as llava

IMAGES = ("images/coco/train2017/000000033471.png", "images/gqa/a.png", "images/gqa/b.png")


def turns(*values: str) -> list[dict]:
    return [{"from": ("human", "gpt")[place % 2], "value": value} for place, value in enumerate(values)]


def row(*values: str, **more) -> dict:
    return {"id": "7", "image": "gqa/a.png", "conversations": turns(*values), **more}


PUBLISHED = [
    {
        "id": "000000033471",
        "image": "coco/train2017/000000033471.png",
        "conversations": turns("<image>\nWhat are the colors of the bus?", "White and red.", "Is it moving? ", "Yes."),
    },
    {"id": "text", "model": "", "conversations": turns("How are you?", "Well.")},
    row("What is shown?\n<image>", "None"),
]


@pytest.fixture
def converse(project, write_image):
    """Writes images and rows, and runs fetch and records; returns the records."""

    def run(rows, images=IMAGES, max_dropped=0, file="llava_v1_5_mix665k.json", **settings) -> list[Record]:
        folder = project.root / "llava"
        for seed, name in enumerate(images):
            if not (folder / name).exists():
                write_image(folder / name, seed=seed)
        (folder / file).write_text(rows if isinstance(rows, str) else json.dumps(rows))
        dataset = {"source": "llava", "path": "llava", "max_dropped": max_dropped, **settings}
        project.configure({"datasets": {"llava": dataset}})
        project.run("fetch-llava")
        return list(read_table(project.run("records-llava")))

    return run


def dropped(project) -> list[tuple[str, str]]:
    entries = json.loads((project.root / "data/records/llava/dropped.json").read_text())
    return [(entry["where"], entry["reason"]) for entry in entries]


def test_published_rows_are_records(converse, project, tmp_path):
    first, second, third = converse(PUBLISHED, splits={"validation": 0, "test": 0})
    assert first.key == "00000001"
    assert first.messages == [
        Message(role="user", content=[Medium(type="image", media="png")]),
        Message(role="user", content="What are the colors of the bus?", branch=1),
        Message(role="assistant", content="White and red.", branch=1),
        Message(role="user", content="Is it moving?", branch=1),
        Message(role="assistant", content="Yes.", branch=1),
    ]
    assert first.sizes == {"png": Size(kind="image", width=48, height=32)}
    assert first.labels == {"id": "000000033471", "questions": [{"kind": "conversation", "answer": "Yes."}]}
    assert [message.content for message in second.messages] == ["How are you?", "Well."]
    assert (second.media, second.sizes) == ({}, {})
    assert [message.content for message in third.messages[1:]] == ["What is shown?", "None"]
    draw = llava.media(project.context("shards-llava", tmp_path / "work"))
    assert draw(first) == {"png": (project.root / "llava" / IMAGES[0]).read_bytes()}
    assert draw(second) == {}


def test_rows_about_the_same_bytes_share_a_split_whatever_the_names(converse, project, write_image):
    write_image(project.root / "llava/images/copy/a.png", seed=1)  # the bytes of gqa/a.png
    names = [*IMAGES, "images/copy/a.png", *(f"images/many/{number}.png" for number in range(60))]
    rows = [row("<image>\nWhat?", "A cat.", image=name.removeprefix("images/")) for name in names for _ in range(2)]
    records = converse(rows, names, splits={"validation": 0.3, "test": 0.3})
    groups: dict[str, set[str]] = {}
    for record in records:
        groups.setdefault(record.group, set()).add(record.split)
    assert len(groups) == len(names) - 1
    assert all(len(splits) == 1 for splits in groups.values())
    assert set.union(*groups.values()) == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({**row("<image>\nWhat?", "A."), "image": "gqa/c.png"}, "there is no file: gqa/c.png"),
        (
            row("<image>\nWhat?", "A.", image=["gqa/a.png", "gqa/b.png"]),
            "<image> stands 1 times, and the row has 2 images",
        ),
        (row("<image>What?", "<image>", image=["gqa/a.png", "gqa/b.png"]), "<image> stands in a turn of gpt"),
        (row("<image>What?", "A.", video="a.webp"), "an image and a video in a row are not read"),
        (row("What?", "A."), "<image> stands not once in the first human turn (found: 0 times)"),
        (row("<image><image>What?", "A."), "<image> stands not once in the first human turn (found: 2 times)"),
        (row("What?", "A.", "<image>And?", "B."), "<image> stands not once in the first human turn (found: in turn 3)"),
        ({"conversations": turns("<image>\nWhat?", "A.")}, "<image> in a row without an image"),
        (row("<image>\n", "A."), "a turn has no text (turn 1)"),
        (row("<image>\nWhat?", "\0"), "a turn holds a NUL character"),
        (row("<image>\nWhat?", "A.", "And?"), "no answer of gpt at the end"),
        ({"conversations": []}, "no answer of gpt at the end"),
        ({"id": "x", "image": "gqa/a.png"}, "no list of conversations"),
        ({"conversations": [{"from": "humen", "value": "a"}]}, "unknown speaker: 'humen'; did you mean 'human'?"),
        ({"conversations": [{"from": "human"}]}, "a turn has no text (turn 1)"),
        ({"conversations": [{"from": "gpt", "value": "a"}]}, "the speakers do not alternate"),
        ("row", "no list of conversations"),
    ],
)
def test_a_row_that_cannot_be_used_is_dropped_with_its_reason(converse, project, broken, reason):
    records = converse([*PUBLISHED, broken], max_dropped=1)
    assert len(records) == 3
    [(where, why)] = dropped(project)
    assert where == "llava_v1_5_mix665k.json row 4" and why.startswith(reason)


def test_every_row_of_a_damaged_image_is_dropped_and_counted(converse, project):
    folder = project.root / "llava/images/gqa"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"GIF89a")
    rows = [*PUBLISHED, row("<image>\nWhat?", "B.")]
    with pytest.raises(
        DataError, match=r"2 samples cannot be used and .*row 3 \(images/gqa/a.png\): the image does not"
    ):
        converse(rows)
    assert [record.key for record in converse(rows, max_dropped=2)] == ["00000001", "00000002"]


def test_rows_with_several_images_are_trees_or_conversations_with_images_among_the_texts(converse, project, tmp_path):
    """As in LLaVA-NeXT-Interleave. Rows with a common image share a split."""
    pair = ["gqa/a.png", "coco/train2017/000000033471.png"]
    rows = [
        row("<image>\n<image>\nWhich is red?", "The first.", image=pair),
        row("This: <image> That: <image>\nSame?", "No.", image=pair),
        row("<image>\nWhat?", "A cat.", "And <image>?", "A dog.", image=pair[::-1]),
        row("<image>\nWhat?", "A cat.", image=pair[:1]),
        row("<image>\nWhat?", "A bus.", image="gqa/b.png"),
    ]
    first, second, third, single, other = converse(rows)
    media = [Medium(type="image", media=member) for member in ("0.png", "1.png")]
    assert first.messages == [
        Message(role="user", content=media),
        Message(role="user", content="Which is red?", branch=1),
        Message(role="assistant", content="The first.", branch=1),
    ]
    texts = [Text(type="text", text=text) for text in ("This: ", " That: ", "\nSame?")]
    assert second.messages == [
        Message(role="user", content=[texts[0], media[0], texts[1], media[1], texts[2]]),
        Message(role="assistant", content="No."),
    ]
    assert third.messages[2].content == [Text(type="text", text="And "), media[1], Text(type="text", text="?")]
    assert first.sizes == {member: Size(kind="image", width=48, height=32) for member in ("0.png", "1.png")}
    assert first.labels["questions"] and "questions" not in second.labels
    assert first.group == second.group == third.group == single.group != other.group
    assert single.messages[0].content == [Medium(type="image", media="png")] and single.media == {"file": IMAGES[1]}
    read = llava.media(project.context("shards-llava", tmp_path / "work"))
    found = read(third)
    assert found == {
        f"{number}.png": (project.root / "llava/images" / name).read_bytes() for number, name in enumerate(pair[::-1])
    }
    project.run("shards-llava")


def test_a_system_message_begins_a_conversation(converse):
    talk = [{"from": "system", "value": "Be brief."}, *turns("<image>\nWhat?", "A cat.")]
    [record] = converse([row(conversations=talk)], splits={"validation": 0, "test": 0})
    assert [(message.role, message.branch) for message in record.messages] == [
        ("user", 0),
        ("system", 1),
        ("user", 1),
        ("assistant", 1),
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[{"id": 1,}]', r"mix665k.json: not JSON \(.*; expected LLaVA's JSON"),
        ('{"rows": []}', r"mix665k.json: not a list \(found: dict\); expected LLaVA's JSON"),
    ],
)
def test_another_file_is_refused(converse, text, fault):
    with pytest.raises(DataError, match=fault):
        converse(text)


def test_the_file_is_named_where_several_are_there(converse, project):
    converse(PUBLISHED)
    with pytest.raises(DataError, match=r"llava.conversations: 2 .json files are there: a.json, llava_v1"):
        converse(PUBLISHED, file="a.json")
    assert len(converse(PUBLISHED, conversations="a.json")) == 3
    with pytest.raises(DataError, match=r"b.json: no such file; did you mean 'a.json'\?"):
        converse(PUBLISHED, conversations="b.json")


def test_a_row_may_have_a_video_and_one_that_does_not_decode_is_dropped(converse, project):
    frames = [Image.new("RGB", (20, 10), (shade, 0, 0)) for shade in range(4)]
    folder = project.root / "llava/videos"
    folder.mkdir(parents=True)
    (folder / "a.webp").write_bytes(write_webp(frames, 250))
    (folder / "b.webp").write_bytes(write_webp(frames, 250)[:-30])
    rows = [
        {"id": name, "video": f"videos/{name}.webp", "conversations": turns(f"{placeholder}\nWhat?", "It glows.")}
        for name, placeholder in (("a", "<image>"), ("a", "<video>"), ("b", "<video>"))
    ]
    one, other = converse(rows, max_dropped=1)
    assert one.sizes == {"webp": Size(kind="video", width=20, height=10, frames=4, seconds=1)}
    assert one.messages[0].parts == [Medium(type="video", media="webp")] and one.messages[1].content == "What?"
    assert one.group == other.group and one.messages == other.messages
    [(where, reason)] = dropped(project)
    assert where.endswith("row 3 (videos/b.webp)") and reason.startswith("the clip does not decode: ")
    project.run("shards-llava")
