"""Examples for a panel: samples of the held-out split that its model was trained beside."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glassworks.artifacts.manifest import read_recipe
from glassworks.config.datasets import Split
from glassworks.data.reading.captions import read_captions
from glassworks.data.reading.dataset import Sample, ShardDataset
from glassworks.data.reading.tokens import messages_of
from glassworks.data.sidecars import INDEX
from glassworks.encoders.protocol import EXTENSIONS
from glassworks.errors import DataError
from glassworks.evaluation.questions.asked import asked_of
from glassworks.inference.model_folders import project_of
from glassworks.report.media import media

COUNT = 4
"""Examples of a panel."""
HELD_OUT: tuple[Split, ...] = ("test", "validation")
LONGEST = 200
"""Letters of a text that is an example."""
WORDS = 6
"""Words that begin a text to continue."""


@dataclass(frozen=True)
class Example:
    """A way to fill in a form."""

    label: str
    texts: Mapping[str, str] = field(default_factory=dict)
    """By the field of the form."""
    content: bytes | None = None
    """An image or a sound."""
    picture: str | None = None
    sound: str | None = None
    """`content` as a data URI, if it is one."""


def samples_of(directory: Path) -> list[Sample]:
    """Samples of a held-out split of the model's first data set with shards; empty without any."""
    data = ((read_recipe(directory) or {}).get("params") or {}).get("data") or {}
    for name in _datasets(data):
        shards = project_of(directory) / "data/shards" / name
        for split in HELD_OUT if (shards / INDEX).is_file() else ():
            dataset = ShardDataset(shards, split)
            if len(dataset):
                count = min(COUNT, len(dataset))
                return [dataset[number * len(dataset) // count] for number in range(count)]
    return []


def _datasets(data: Mapping[str, Any]) -> Iterator[str]:
    """The names of the training data sets in the recipe of a model."""
    if "dataset" in data:
        yield data["dataset"]
    for entry in data.get("train", []):
        yield from (part["dataset"] for part in entry.get("group", [entry]))


def of_medium(sample: Sample, modality: str, label: str, texts: Mapping[str, str] | None = None) -> Example | None:
    """The image or the sound of a sample; None without one, and for one that does not decode."""
    name = next((name for name in EXTENSIONS[modality] if name in sample.members), None)
    if name is None:
        return None
    try:
        shown = media({name: sample.members[name]}, sample.where)
    except DataError:
        return None
    return Example(label, texts or {}, bytes(sample.members[name]), shown["picture"], shown["sound"])


def media_examples(samples: list[Sample], modalities: tuple[str, ...]) -> list[Example]:
    """An example for each sample, labelled with its text."""
    found = []
    for number, sample in enumerate(samples, start=1):
        texts = read_captions(sample.members, sample.where)
        label = texts[0] if texts else f"example {number}"
        found += [example for name in modalities if (example := of_medium(sample, name, label))]
    return found


def question_examples(samples: list[Sample]) -> list[Example]:
    """A question of each sample, of another kind where there are several; the first asks for points if one does."""
    found = []
    for number, sample in enumerate(samples):
        questions = sorted(asked_of(sample), key=lambda one: "boxes" not in one.truth)
        if questions and len(text := questions[number % len(questions)].text) <= LONGEST:
            found.append(of_medium(sample, "image", text, {"question": text}))
    return [example for example in found if example]


def message_examples(samples: list[Sample]) -> list[Example]:
    """The first message of a user in each sample."""
    found = []
    for sample in samples:
        users = [one.content for one in messages_of(sample) if one.role == "user"]
        if users and isinstance(text := users[0], str) and len(text) <= LONGEST:
            found.append(Example(text, {"text": text}))
    return found


def beginnings(samples: list[Sample]) -> list[Example]:
    """The first words of each sample."""
    texts = [read_captions(sample.members, sample.where) for sample in samples]
    words = [" ".join(some[0].split()[:WORDS])[:LONGEST] for some in texts if some]
    return [Example(text, {"text": text}) for text in words]
