"""Records from sounds with transcripts: the code that `audio_folder`, `librispeech` and `common_voice` share.

A sound that is missing, empty or does not decode is dropped. Bytes are never changed: other rates and channels are resampled when a sound is read.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from glassworks.config.datasets import Split
from glassworks.data.image_files import LocalFiles, keys
from glassworks.data.messages import Size
from glassworks.data.reading.sounds import read_sound, sound_extension
from glassworks.data.records import Dropped, Record, Remark
from glassworks.data.splits import split_of
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context
from glassworks.progress import track

RATE = 16_000
"""Samples per second that encoders of speech read."""


@dataclass(slots=True)
class Spoken:
    """A sound with its texts."""

    where: str
    """Row or line, for messages."""
    file: str
    """Path relative to the folder of the data set."""
    texts: list[str]
    group: str
    """The speaker, or the file if it is unknown."""
    split: Split | None = None
    """The published split; None assigns one by stable hash of the group."""
    labels: dict[str, Any] = field(default_factory=dict)


class Sound(NamedTuple):
    """The format of a sound."""

    seconds: float
    rate: int
    channels: int
    extension: str


def spoken_records(context: Context, items: Iterable[Spoken | Dropped | Remark]) -> Iterator[Record | Dropped | Remark]:
    """A record or a dropped sample for each sound, in order."""
    files, params = LocalFiles(context), context.params
    found: dict[str, Spoken] = {}
    for item in items:
        if not isinstance(item, Spoken):
            yield item
        elif item.file not in files.inventory:
            yield Dropped(item.where, f"there is no file: {item.file}")
        elif item.file in found:
            yield Dropped(item.where, f"another row names the same file: {item.file} ({found[item.file].where})")
        else:
            found[item.file] = item
    key = keys(found)

    def probe(file: str) -> Sound | str:
        content = files.read(file)
        try:
            samples, rate = read_sound(content, file)
        except DataError as error:
            return str(error).removeprefix(f"{file}: ")
        return Sound(len(samples) / rate, rate, samples.shape[1], sound_extension(content) or "wav")

    with ThreadPoolExecutor(context.threads) as pool:
        probed = track(pool.map(probe, found), f"check {context.stage.subject}", len(found), "sounds")
        for spoken, sound in zip(found.values(), probed, strict=True):
            where = f"{spoken.where} ({spoken.file})"
            if isinstance(sound, str):
                yield Dropped(where, sound)
                continue
            if (sound.rate, sound.channels) != (RATE, 1):
                channels = {1: "mono", 2: "stereo"}.get(sound.channels, f"of {sound.channels} channels")
                yield Remark(f"a sound of {sound.rate:,} Hz, {channels}, is resampled to mono when it is read", where)
            split = spoken.split or split_of(spoken.group, params["splits"], params["seed"])
            yield Record(
                key[spoken.file],
                split,
                spoken.group,
                spoken.texts,
                spoken.labels,
                {"file": spoken.file},
                sizes={sound.extension: Size(kind="audio", seconds=sound.seconds)},
            )


def sound_media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """The unchanged bytes of a record's sound, by the extension of their format."""
    files = LocalFiles(context)

    def read(record: Record) -> dict[str, bytes]:
        content = files.read(record.media["file"])
        return {sound_extension(content) or "wav": content}

    return read
