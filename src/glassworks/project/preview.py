"""`glassworks preview`: a page with samples of a data set as a model will see them. It opens offline.

The samples are read from the shards. Lengths and equal contents are those of all samples; dropped samples are those that the stage `records` lists.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from markupsafe import Markup

from glassworks.artifacts.manifest import read_manifest
from glassworks.config.base import nearest
from glassworks.config.datasets import SPLITS
from glassworks.config.project import PARAMS, load_project
from glassworks.data.messages import Message, Text, texts_of
from glassworks.data.reading.captions import read_captions
from glassworks.data.reading.dataset import Sample, ShardDataset
from glassworks.data.reading.pixels import EXTENSIONS, read_image
from glassworks.data.reading.tokens import messages_of
from glassworks.errors import ConfigError
from glassworks.evaluation.questions.drawing import film_strip, same_size
from glassworks.progress import track
from glassworks.report.media import media, write_page
from glassworks.report.page import TEMPLATES, environment_of

TEXT_MEMBERS = ("json", "txt")
LISTED = 50
"""Dropped samples, and equal contents, that the page lists."""


@dataclass
class Contents:
    """The splits in which a content is, by its digest."""

    splits: dict[bytes, dict[str, str]] = field(default_factory=dict)
    """The first key in each split."""

    def add(self, content: Sequence[bytes | memoryview], split: str, key: str) -> None:
        if content:
            digest = hashlib.sha256()
            for part in content:
                digest.update(len(part).to_bytes(8, "big"))
                digest.update(part)
            self.splits.setdefault(digest.digest()[:16], {}).setdefault(split, key)

    def torn(self) -> list[dict[str, str]]:
        """The contents that are in several splits: a key by split."""
        return [found for found in self.splits.values() if len(found) > 1]


def run(root: Path, dataset: str, output: Path, count: int, show: Callable[[str], None]) -> None:
    """Write the page, with up to `count` samples of each split, and pass a summary to `show`.

    Raises `ConfigError` for an unknown data set, `ArtifactError` if its shards are not made.
    """
    known = list(load_project(root).params.datasets)
    if dataset not in known:
        raise ConfigError(f"{dataset}: {PARAMS} has no data set of this name{nearest(dataset, known)}")
    shards, records = root / "data/shards" / dataset, root / "data/records" / dataset
    read_manifest(shards)
    samples = {split: ShardDataset(shards, split) for split in SPLITS}
    pictures, texts = Contents(), Contents()
    lengths = {split: _measure(samples[split], split, pictures, texts) for split in SPLITS if len(samples[split])}
    dropped, remarks = (_listed(records / name) for name in ("dropped.json", "remarks.json"))
    torn = {"media": pictures.torn(), "texts": texts.torn()}
    environment = environment_of(Path(__file__).parent / "templates")
    content = environment.get_template("preview.html.j2").render(
        stylesheet=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        dataset=dataset,
        lengths={split: _summary(found) for split, found in lengths.items()},
        torn=torn,
        dropped=dropped,
        remarks=remarks,
        listed=LISTED,
        groups={split: [_card(samples[split][row]) for row in spread(len(samples[split]), count)] for split in lengths},
    )
    write_page(output, content)
    by_split = ", ".join(f"{split} {len(found):,}" for split, found in lengths.items())
    show(f"{output}: {dataset}, {by_split} samples")
    lost = sum(one.get("count", 1) for one in dropped)
    show(f"in several splits: {len(torn['media']):,} images or sounds, {len(torn['texts']):,} texts; dropped: {lost:,}")


def spread(length: int, count: int) -> list[int]:
    """Up to `count` numbers below `length`, evenly spread."""
    shown = min(length, count)
    return [number * length // shown for number in range(shown)]


def _measure(dataset: ShardDataset, split: str, pictures: Contents, texts: Contents) -> list[int]:
    """The words of each sample of a split; adds its contents."""
    lengths = []
    numbers = track(range(len(dataset)), f"read {split}", len(dataset), "samples")
    for sample in (dataset[number] for number in numbers):
        found = [*read_captions(sample.members, sample.where), *texts_of(messages_of(sample))]
        lengths.append(sum(len(text.split()) for text in found))
        pictures.add([view for name, view in sorted(_media_of(sample).items())], split, sample.key)
        texts.add([text.encode() for text in found], split, sample.key)
    return lengths


def _media_of(sample: Sample) -> Mapping[str, memoryview]:
    return {name: view for name, view in sample.members.items() if name not in TEXT_MEMBERS}


def _summary(lengths: list[int]) -> dict[str, Any]:
    return {"samples": len(lengths), "least": min(lengths), "median": round(median(lengths)), "most": max(lengths)}


def _card(sample: Sample) -> dict[str, Any]:
    return {
        "key": sample.key,
        **media(_joined(sample), sample.where),
        "other": ", ".join(_media_of(sample)),
        "texts": read_captions(sample.members, sample.where),
        "messages": [(message.role, _words(message)) for message in messages_of(sample)],
    }


def _joined(sample: Sample) -> Mapping[str, memoryview]:
    """The members of a sample; several images such as `0.png` and `1.png` are one, side by side."""
    several = [name for name in sorted(sample.members) if re.fullmatch(rf"\d+\.({'|'.join(EXTENSIONS)})", name)]
    if len(several) < 2:
        return sample.members
    several.sort(key=lambda name: int(name.partition(".")[0]))
    images = [read_image(sample.members[name], sample.where) for name in several]
    return {**sample.members, "png": memoryview(film_strip(same_size(images)))}


def _words(message: Message) -> str:
    """The content of a message; a picture or a sound in it is named by its kind."""
    return " ".join(part.text if isinstance(part, Text) else f"[{part.type}]" for part in message.parts)


def _listed(file: Path) -> list[dict[str, Any]]:
    """The dropped samples or remarks of the stage `records`; none if it is not here."""
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return found
