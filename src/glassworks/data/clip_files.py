"""Videos of a local data set: their size and their member in a shard."""

from typing import NamedTuple

from glassworks.data.image_files import ImageFiles
from glassworks.data.messages import Size
from glassworks.data.reading.clips import measure_clip
from glassworks.errors import DataError


class ClipFacts(NamedTuple):
    """Member and size of a video."""

    member: str
    size: Size


def clip_facts(files: ImageFiles, name: str) -> ClipFacts | str:
    """Size and member of a video that decodes completely, else the reason why it cannot be used."""
    try:
        return ClipFacts(*measure_clip(files.read(name), name, files.max_pixels))
    except DataError as error:
        return str(error).removeprefix(f"{name}: ")
