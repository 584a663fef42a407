"""The source `instructions`: questions with exact answers about the names of emoji, none of which training can have seen."""

import json
from collections import Counter

import pytest

from glassworks.data.records import Record, read_table
from glassworks.errors import ConfigError
from glassworks.sources.instructions import source as instructions
from glassworks.sources.instructions import wordings
from glassworks.sources.instructions.settings import KINDS

from ..conftest import SmallProject
from .tiny_wheels import NOUNS, Drawing, write_wheels

ROLES = {"1F33E": "farmer", "1F373": "cook", "1F393": "student", "1F3A4": "singer", "1F3EB": "teacher", "1F3ED": "worker", "1F4BB": "coder", "1F527": "mechanic", "1F52C": "scientist", "1F680": "astronaut", "1F692": "firefighter", "2695": "healer"}  # fmt: skip
WHO, TONES = {"1F9D1": "", "1F468": "man ", "1F469": "woman "}, {"": "", "1F3FD": "medium", "1F3FF": "dark"}
PEOPLE = [
    Drawing(
        f"{person}{f'-{tone}' if tone else ''}-200D-{code}",
        f":{who}{role}{shade}:".replace(" ", "_"),
        f"{who}{role}{f': {shade} skin tone' if shade else ''}",
        (f":{who}{role}_{shade}_alias:",),
        "people-and-body",
        "person-role",
    )
    for code, role in ROLES.items()
    for person, who in WHO.items()
    for tone, shade in TONES.items()
]
SHARED = [
    Drawing("1F40B", ":whale:", "spouting whale", (), "animals-and-nature", "animal-marine"),
    *(Drawing(f"1F9{n}", f":thing_{n}:", f"thing {n}", (":whale_too:",), "objects", "tool") for n in range(50, 62)),
]
SAMPLES = {"train": 400, "validation": 60, "test": 80}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> SmallProject:
    """A project whose emoji are read."""
    project = SmallProject(tmp_path_factory.mktemp("instructions"))
    write_wheels(project.root, [*NOUNS, *PEOPLE, *SHARED])
    configure(project)
    project.run("records-openmoji")
    return project


def configure(project: SmallProject, seed: int = 2, **settings) -> None:
    emoji = {"source": "openmoji", "splits": {"validation": 0.25, "test": 0.25}, "seed": 4}
    made = {"source": "instructions", "emoji": "openmoji", "samples": SAMPLES, **settings}
    project.configure({"seed": seed, "datasets": {"openmoji": emoji, "chat": made}})


@pytest.fixture
def make(built, tmp_path):
    def run(**settings) -> list[Record]:
        configure(built, **settings)
        work = tmp_path / str(len(list(tmp_path.iterdir())))
        return list(instructions.records(built.context("records-chat", work)))

    return run


def test_no_concept_of_a_held_out_conversation_occurs_in_a_training_conversation(built, make):
    emoji = list(read_table(built.root / "data/records/openmoji"))
    split_of_concept = {record.labels["concept"]: record.split for record in emoji}
    names = {text for record in emoji if record.split != "train" for text in record.texts}
    made = make()
    assert Counter(record.split for record in made) == SAMPLES
    for record in made:
        assert record.labels["fact"]
        assert {split_of_concept[concept] for concept in record.labels["fact"]} == {record.split}
        if record.split == "train":
            text = " ".join(message.content for message in record.messages)
            assert not [name for name in names if f'"{name}"' in text]


def test_a_name_that_concepts_of_two_splits_share_is_left_out():
    def emoji(key: str, split: str, *texts: str) -> Record:
        labels = {
            "category": "a-b",
            "subcategory": "c",
            "concept": texts[0],
            "skin_tones": [],
            "genders": [],
            "direction": "",
        }
        return Record(key, split, key, list(texts), labels)

    kept = instructions.usable(
        [emoji("1", "train", "whale"), emoji("2", "test", "spouting whale", "Whale"), emoji("3", "train", "owl", "bird"), emoji("4", "train", "hen", "bird")]
    )  # fmt: skip
    assert [(one.name, one.aliases) for one in kept] == [("spouting whale", ()), ("owl", ("bird",)), ("hen", ("bird",))]


def test_answers_are_those_that_the_records_of_the_emoji_give(built, make):
    emoji = {record.texts[0]: record for record in read_table(built.root / "data/records/openmoji")}
    made = make()
    assert Counter(record.labels["kind"] for record in made).keys() == KINDS.keys()
    for record in made:
        asked, answer = (message.content for message in record.messages[-2:])
        kind, first = (
            record.labels["kind"],
            next(message.content for message in record.messages if message.role == "user"),
        )
        assert answer == record.labels["answer"] and record.messages[-1].role == "assistant"
        about = emoji[first.split('"')[1]] if '"' in first else None
        labels = about.labels if about else {}
        if kind in ("json", "dialogue"):
            expected = {
                "concept": labels["concept"],
                "who": next(iter(labels["genders"]), None),
                "skin": next(iter(labels["skin_tones"]), None),
                "group": labels["category"].replace("-", " "),
            }
            assert answer == json.dumps(expected, ensure_ascii=False)
        elif kind == "field":
            assert [answer] in (labels["genders"], labels["skin_tones"], [labels["concept"]])
        elif kind == "category":
            assert answer == labels["category"].replace("-", " ")
        elif kind == "yes_no":
            assert answer == ("yes" if f" {labels['category'].replace('-', ' ')}" in asked.split('"')[2] else "no")
        elif kind == "definition":
            assert (
                answer
                == f"An emoji of the group {labels['category'].replace('-', ' ')}, of the kind {labels['subcategory'].replace('-', ' ')}."
            )
        elif kind == "alias":
            assert answer in about.texts[1:] and answer in asked
        else:
            listed = [name.strip(" ?.") for name in asked.partition(": ")[2].split(",")]
            groups = [emoji[name].labels["category"].replace("-", " ") for name in listed]
            assert len(set(listed)) == len(listed)
            group = next(
                (
                    one
                    for one in set(groups) | {"people and body"}
                    if f"group {one}" in asked or f"from {one} " in asked
                ),
                None,
            )
            assert "group" in asked or "from" in asked or answer == str(len(listed))
            if group:
                assert answer == str(groups.count(group))


def test_every_conversation_is_a_function_of_its_number_and_the_seed(make):
    made, fewer, other = make(), make(samples={"train": 50, "test": 20}), make(seed=3)
    assert made == make()
    train, test = ([record for record in made if record.split == split] for split in ("train", "test"))
    assert fewer == train[:50] + test[:20]
    assert [record.messages for record in other] != [record.messages for record in made]


def test_several_wordings_a_system_message_for_some_and_kinds_by_their_frequency(make):
    made = make(kinds={"json": 3, "dialogue": 1}, system_share=0.5)
    kinds = Counter(record.labels["kind"] for record in made)
    assert kinds.keys() == {"json", "dialogue"} and 2 < kinds["json"] / kinds["dialogue"] < 4.5
    with_system = [record for record in made if record.messages[0].role == "system"]
    assert 0.4 < len(with_system) / len(made) < 0.6 and {record.messages[0].content for record in with_system} == set(
        wordings.SYSTEM
    )
    asked = {record.messages[-2].content.replace(record.messages[-2].content.partition('"')[2].partition('"')[0], "{name}") for record in made if record.labels["kind"] == "json"}  # fmt: skip
    assert asked == set(wordings.JSON)
    assert (
        len({tuple(message.content for message in record.messages) for record in made if record.split != "train"}) > 100
    )


def test_kinds_that_the_emoji_do_not_allow_are_one_line(project):
    write_wheels(project.root, NOUNS)
    configure(project)
    project.run("records-openmoji")
    with pytest.raises(
        ConfigError, match=r"^datasets.chat.kinds: the emoji of train allow no question about who; raise"
    ):
        project.run("records-chat")
    with pytest.raises(ConfigError, match="every frequency is 0"):
        configure(project, kinds={"json": 0})


def test_the_shards_hold_the_labels_for_an_evaluation(built):
    configure(built)
    built.run("records-chat")
    shards = json.loads((built.run("shards-chat") / "shards.json").read_text())["shards"]
    assert {shard["split"]: shard["samples"] for shard in shards} == SAMPLES
