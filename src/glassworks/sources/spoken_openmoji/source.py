"""OpenMoji drawings with spoken names: aligned triplets of image, speech and text.

Keys, splits and groups are those of an `openmoji` data set. The sample of an alias has the key of its drawing and a number.
"""

import zipfile
from collections.abc import Callable, Iterator

from glassworks.data.messages import Size
from glassworks.data.records import Dropped, Record, read_table
from glassworks.data.speech import RATE, Speaker, as_flac, speech_versions
from glassworks.pipeline.execution import Context
from glassworks.progress import track
from glassworks.sources.openmoji import source as openmoji

SPEECH = "speech.zip"
"""The FLAC files by key, beside the table of records. Each is made once, since its duration is part of the record."""


def records(context: Context) -> Iterator[Record | Dropped]:
    """Every drawing in the order of its data set, each followed by its aliases; a name without speech is `Dropped`."""
    params = context.params
    context.fingerprint.update(speech_versions())
    speaker = Speaker(params["speech"]["voice"], params["speech"]["speed"], params["seed"])
    named = [
        record
        for record in read_table(context.inputs["drawings"])
        if params["skin_tones"] or not record.labels["skin_tones"]
    ]
    with zipfile.ZipFile(context.output / SPEECH, "w") as archive:
        for record in track(named, "speaking", len(named), "names"):
            spoken = [(record.key, record.texts, {"svg": record.media["svg"]})]
            if params["aliases"]:
                others = enumerate(record.texts[1:], start=1)
                spoken += [(f"{record.key}-{number}", [text], {}) for number, text in others]
            for key, texts, media in spoken:
                sound = speaker.speak(key, texts[0])
                if not sound.any():
                    yield Dropped(f"sample {key}", f"the name has no speech: {texts[0]!r}")
                    continue
                archive.writestr(zipfile.ZipInfo(key), as_flac(sound))
                sizes = {"flac": Size(kind="audio", seconds=len(sound) / RATE)}
                yield Record(key, record.split, record.group, texts, record.labels, media, sizes=sizes)


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """A function to the speech and the drawing of a record: {"flac": bytes, "png": bytes}, without png for an alias."""
    draw = openmoji.media(context)
    archive = zipfile.ZipFile(context.inputs["records"] / SPEECH)

    def make(record: Record) -> dict[str, bytes]:
        drawing = draw(record) if "svg" in record.media else {}
        return {"flac": archive.read(record.key), **drawing}

    return make
