"""Pictures and sounds of samples as data URIs, for pages that open offline."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path

from glassworks.artifacts.digests import write_text
from glassworks.data.reading import pixels, sounds
from glassworks.errors import ResourceError

SIDE = 320
"""Longer side of a picture on a page in pixels."""
MEDIA_TYPES = {"flac": "audio/flac", "mp3": "audio/mpeg", "ogg": "audio/ogg", "wav": "audio/wav"}


def media(members: Mapping[str, memoryview], where: str) -> dict[str, str | None]:
    """The picture and the sound of a sample as data URIs; None for one that it lacks."""
    picture, sound = (
        next((name for name in kind if name in members), None) for kind in (pixels.EXTENSIONS, sounds.EXTENSIONS)
    )
    found: dict[str, str | None] = {"picture": None, "sound": None}
    if picture:
        image, file = pixels.read_image(members[picture], where), io.BytesIO()
        image.thumbnail((SIDE, SIDE))
        image.save(file, "PNG")
        found["picture"] = data_uri("image/png", file.getvalue())
    if sound:
        found["sound"] = data_uri(MEDIA_TYPES[sound], bytes(members[sound]))
    return found


def write_page(file: Path, content: str) -> None:
    """Write a page atomically. Raises `ResourceError` if it cannot be written."""
    try:
        write_text(file, content)
    except OSError as error:
        raise ResourceError(f"{file}: cannot be written ({error.strerror})") from None


def data_uri(kind: str, content: bytes) -> str:
    """The content of a file as a URI. `kind` is its media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
