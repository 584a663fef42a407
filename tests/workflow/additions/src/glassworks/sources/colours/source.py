"""Images of one colour each: a pure function of a seed."""

import io
import random
from collections.abc import Callable, Iterator

from PIL import Image

from glassworks.data.records import Record
from glassworks.pipeline.execution import Context

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


def records(context: Context) -> Iterator[Record]:
    """One record for each image."""
    for split, count in sorted(context.params["samples"].items()):
        for number in range(count):
            key = f"{split}-{number:04}"
            name = random.Random(f"{context.params['seed']}/{key}").choice(sorted(COLOURS))
            yield Record(key, split, key, [f"a {name} image"], {"colour": name}, {"colour": name})


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """The image of a record as PNG; its brightness depends on its key."""
    size = context.params["size"]

    def draw(record: Record) -> dict[str, bytes]:
        shift = random.Random(record.key).randint(-30, 30)
        pixel = tuple(channel + shift for channel in COLOURS[record.media["colour"]])
        file = io.BytesIO()
        Image.new("RGB", (size, size), pixel).save(file, "PNG")
        return {"png": file.getvalue()}

    return draw
