"""`glassworks retrieve`: the items of an index that are nearest to a text, an image or speech."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from markupsafe import Markup
from torch import Tensor
from transformers.utils import logging as transformers_log

from glassworks.data.reading import sounds
from glassworks.data.reading.dataset import Sample, ShardDataset
from glassworks.encoders.tower import Tower
from glassworks.errors import ConfigError, DataError
from glassworks.inference.caption import read_file
from glassworks.inference.index import Index, Neighbour, find_index, read_heads
from glassworks.inference.model_folders import find_tower
from glassworks.models.alignment import Alignment
from glassworks.models.log_mel import RATE
from glassworks.report.media import media, write_page
from glassworks.report.page import TEMPLATES, environment_of
from glassworks.tasks.alignment.task import AlignmentTask, Example

WORDS = {"text": "text", "image": "image", "audio": "speech"}
"""Words for modalities; each is an option of the command."""


class Query(NamedTuple):
    """A text, or the content of a file."""

    modality: str
    where: str
    """The option or the file, for messages."""
    members: dict[str, bytes]
    """As those of a sample."""


def read_query(text: str | None, image: Path | None, speech: Path | None) -> Query:
    """The query of a command line. Raises `ConfigError` unless there is exactly one, `DataError` if it is empty or does not decode."""
    if sum(one is not None for one in (text, image, speech)) != 1:
        raise ConfigError("give one query: --text, --image or --speech")
    if text is not None:
        return text_query(text, "--text")
    if image is not None:
        return image_query(read_file(image), str(image))
    assert speech is not None
    try:
        content = speech.read_bytes()
    except OSError as error:
        raise DataError(f"{speech}: not readable ({error.strerror})") from None
    sounds.read_sound(content, str(speech))
    return sound_query(content, str(speech))


def text_query(text: str, where: str) -> Query:
    """A text as a query. Raises `DataError` if it is empty."""
    if not text.strip():
        raise DataError(f"{where}: the text is empty")
    return Query("text", where, {"txt": text.encode()})


def image_query(content: bytes, where: str) -> Query:
    """A readable image as a query."""
    return Query("image", where, {"png": content})  # any format: the content decides


def sound_query(content: bytes, where: str) -> Query:
    """A readable sound as a query."""
    return Query("audio", where, {sounds.sound_extension(content) or "wav": content})


def remarks(query: Query, tower: Tower) -> list[str]:
    """Sentences about a sound that the encoder does not read as it is."""
    if query.modality != "audio":
        return []
    samples, rate = sounds.read_sound(next(iter(query.members.values())), query.where)
    found, channels = [], samples.shape[1]
    if (rate, channels) != (RATE, 1):
        kind = {1: "mono", 2: "stereo"}.get(channels, f"of {channels} channels")
        found.append(f"{query.where}: {rate:,} Hz, {kind}, is resampled to {RATE:,} Hz, mono")
    window, seconds = getattr(tower.settings, "seconds", None), len(samples) / rate
    if window and seconds > window:
        found.append(f"{query.where}: lasts {seconds:.1f} s; the encoder reads the first {window} s")
    return found


@torch.inference_mode()
def embed(model: Alignment, tower: Tower, query: Query) -> Tensor:
    """The unit vector [D] of a query."""
    name = query.modality
    task = AlignmentTask(model.config, {name: model.towers[name]}, {}, {name: tower})
    views = {extension: memoryview(content) for extension, content in query.members.items()}
    reading = tower.read(Sample("query", views, query.where))
    return task.embed(model, task.collate([Example("query", {}, {name: reading}, 0.0)]))[name][0]


class Searcher:
    """Aligned heads, an index, and the towers of the queries so far."""

    def __init__(self, directory: Path, dataset: str | None, project: Path) -> None:
        """`dataset` names the index; None is the only one."""
        self.directory, self.dataset, self.model = directory, dataset, read_heads(directory, project)
        self.towers: dict[str, Tower] = {}

    @cached_property
    def index(self) -> Index:
        """The index. Raises `ArtifactError` without one, or for one of another model."""
        return Index.load(find_index(self.directory, self.dataset), self.directory)

    def check(self, modality: str) -> None:
        """Raise `ConfigError` for a modality that the model lacks."""
        word = WORDS[modality]
        if modality not in self.model.towers:
            has = " and ".join(WORDS.get(name, name) for name in self.model.towers)
            raise ConfigError(f"--{word}: {self.directory} has no tower for {word}; it aligns {has}")

    def tower(self, modality: str) -> Tower:
        """The tower of a modality, loaded once."""
        self.check(modality)
        if modality not in self.towers:
            transformers_log.disable_progress_bar()
            self.towers[modality] = find_tower(self.directory, self.model.towers[modality])
        return self.towers[modality]

    def width(self, width: int | None) -> int:
        """How many numbers of each vector are compared; by default the most. Raises `ConfigError` for a width without training."""
        widths = list(self.model.config.prefixes)
        if width is not None and width not in widths:
            known = ", ".join(map(str, widths))
            raise ConfigError(
                f"--width {width}: {self.directory} was trained for the widths {known}; choose one of them"
            )
        return width or widths[0]

    def search(self, query: Query, width: int, count: int) -> dict[str, list[Neighbour]]:
        """The `count` nearest items of each modality."""
        return self.index.nearest(embed(self.model, self.tower(query.modality), query), width, count)


def run(
    directory: Path,
    query: Query,
    dataset: str | None,
    width: int | None,
    count: int,
    as_json: bool,
    html: Path | None,
    show: Callable[[str], None],
    note: Callable[[str], None],
    project: Path,
) -> None:
    """Pass a line or a JSON object for each of the `count` nearest items of every modality to `show`; with `html`, also write them as a page to that file."""
    searcher = Searcher(directory, dataset, project)
    searcher.check(query.modality)
    compared, index = searcher.width(width), searcher.index
    for remark in remarks(query, searcher.tower(query.modality)):
        note(remark)
    found = searcher.search(query, compared, count)
    if html is not None:
        write_page(html, page(query, index, found, directory.name, compared))
    for modality, neighbours in found.items():
        if not as_json:
            show(f"{WORDS.get(modality, modality)}\n")
        for rank, (similarity, item) in enumerate(neighbours, start=1):
            if as_json:
                row = {"modality": modality, "rank": rank, "similarity": similarity}
                row |= {"key": item.key, "split": item.split, "texts": item.texts}
                show(json.dumps(row, ensure_ascii=False) + "\n")
            else:
                name = " ".join(item.texts[0].split()) if item.texts else "(no text)"
                show(f"{rank:4d}  {similarity:6.3f}  {item.key}  {name} ({item.split})\n")


def page(query: Query, index: Index, found: dict[str, list[Neighbour]], model: str, width: int) -> str:
    """An HTML page with the query and its neighbours: pictures and sounds are part of it, nothing is fetched.

    Raises `ArtifactError` if the shards of the index were made again.
    """
    samples, asked = index.samples(), {name: memoryview(content) for name, content in query.members.items()}

    environment = environment_of(Path(__file__).parent / "templates")
    return environment.get_template("neighbours.html.j2").render(
        stylesheet=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        query={"text": bytes(asked["txt"]).decode() if "txt" in asked else query.where, **media(asked, query.where)},
        groups={WORDS.get(name, name): cards(samples, some) for name, some in found.items()},
        model=model,
        dataset=index.dataset,
        width=width,
    )


def cards(samples: Mapping[str, ShardDataset], neighbours: Sequence[Neighbour]) -> list[dict[str, Any]]:
    """The neighbours with their pictures and sounds. `samples` are those of the index by split."""
    found = []
    for similarity, item in neighbours:
        sample = samples[item.split][item.row]
        found.append({**item._asdict(), "similarity": similarity, **media(sample.members, sample.where)})
    return found
