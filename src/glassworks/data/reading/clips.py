"""Clips: the frames that a model sees, chosen from the size in a record and decoded.

Animated WebP and GIF are read by Pillow, other videos by PyAV (the extra `video`). The number of frames is known without opening a clip, so that its
tokens are counted before. Torch is not imported here.
"""

import io
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from fractions import Fraction
from typing import Any

from PIL import Image

from glassworks.config.clips import Clips
from glassworks.data.animations import animation_size
from glassworks.data.file_kinds import describe, image_extension
from glassworks.data.messages import Size, parse_sizes
from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.pixels import first_line, to_rgb
from glassworks.errors import DataError

FORMATS = ("WEBP", "GIF")
"""Pillow's names of the formats that are read, detected from the content."""
VIDEO = "video"
"""The member of a video that is no WebP or GIF, whatever its container is."""


def sizes_of(sample: Sample) -> Mapping[str, Size]:
    """The sizes of the media of a sample; empty without any. Raises `DataError`."""
    found = sample.json().get("sizes") if "json" in sample.members else None
    return parse_sizes(found, sample.where) if found else {}


def clip_member(sizes: Mapping[str, Size]) -> str | None:
    """The member that holds the clip of a sample; None without one."""
    return next((member for member, size in sizes.items() if size.kind == "video"), None)


def frame_numbers(size: Size | None, clips: Clips, where: str) -> list[int]:
    """The numbers of the frames to see of a clip. Raises `DataError` beginning with `where` for a clip of unknown size."""
    if size is None or size.frames is None or size.seconds is None:
        raise DataError(f"{where}: the record of a clip needs its sizes with frames and seconds")
    return clips.numbers(size.frames, size.seconds)


def time_stamps(size: Size | None, clips: Clips, where: str) -> list[str]:
    """The text before each frame: its time in seconds. Raises `DataError` as `frame_numbers`."""
    numbers = frame_numbers(size, clips, where)
    assert size is not None and size.frames is not None and size.seconds is not None
    return [f"{number * size.seconds / size.frames:.1f} " for number in numbers]


def frames_of(sample: Sample, clips: Clips, member: str | None = None) -> list[Image.Image] | None:
    """The frames to see of a clip of a sample, by default its only one, in Pillow's mode RGB; None without a clip. Raises `DataError`."""
    sizes = sizes_of(sample)
    member = clip_member(sizes) if member is None else member
    if member is None:
        return None
    if member not in sample.members:
        raise DataError(f"{sample.where}: no clip {member!r} ({', '.join(sorted(sample.members))})")
    size = sizes.get(member)
    numbers = frame_numbers(size, clips, sample.where)
    return read_frames(sample.members[member], numbers, size.frames if size else None, sample.where)


def read_frames(data: bytes | memoryview, numbers: Sequence[int], frames: int | None, where: str) -> list[Image.Image]:
    """Frames of a clip by their numbers, ascending, in Pillow's mode RGB.

    Raises `DataError` beginning with `where` for bytes that do not decode, and for a clip that has not `frames` frames; None allows any number.
    """
    found, count = [], 0
    with closing(_decoded(data, where)) as decoded:
        for count, frame in enumerate(decoded, start=1):
            if count - 1 in numbers:
                found.append(frame)
            if frames is not None and count > frames:
                break
    if frames not in (None, count):
        more = "more" if frames is not None and count > frames else f"{count:,}"
        raise DataError(f"{where}: the clip has {more} frames, and its record says {frames:,}")
    return found


def measure_clip(data: bytes, where: str, max_pixels: int) -> tuple[str, Size]:
    """The member of a clip, by its content, and its size. Every frame is decoded.

    Raises `DataError` beginning with `where` for bytes that do not decode, for a still image, and for frames of more than `max_pixels`.
    """
    if _is_video(data):
        width, height, rate = _video_header(data, where)
        _check_pixels(width, height, max_pixels, where)
        frames = sum(1 for _ in _decoded(data, where))
        return VIDEO, Size(kind="video", width=width, height=height, frames=frames, seconds=float(frames / rate))
    size = animation_size(data)
    if size is None:
        kind = describe(data) or "of no known kind"
        raise DataError(f"{where}: no animated WebP or GIF, MP4, WebM or AVI: it is {kind}")
    _check_pixels(size.width or 0, size.height or 0, max_pixels, where)
    for _ in _decoded(data, where):
        pass
    return image_extension(data) or "", size


def _check_pixels(width: int, height: int, most: int, where: str) -> None:
    if width * height > most:
        raise DataError(f"{where}: {width:,} x {height:,} pixels of a frame are more than max_pixels ({most:,})")


def _is_video(data: bytes | memoryview) -> bool:
    return describe(data) == "a video"


def _decoded(data: bytes | memoryview, where: str) -> Generator[Image.Image, None, None]:
    """All frames of a clip in Pillow's mode RGB. Raises `DataError` beginning with `where`."""
    try:
        if not _is_video(data):
            with Image.open(io.BytesIO(data), formats=list(FORMATS)) as opened:
                for number in range(getattr(opened, "n_frames", 1)):
                    opened.seek(number)
                    opened.load()
                    yield to_rgb(opened, where).copy()
            return
        with _opened(data, where) as container:
            for frame in container.decode(container.streams.video[0]):
                yield frame.to_image()
    except (DataError, MemoryError):
        raise
    except Exception as error:  # decoders raise almost anything on broken bytes
        raise DataError(f"{where}: the clip does not decode: {first_line(error)}") from None


def _video_header(data: bytes, where: str) -> tuple[int, int, Fraction]:
    """Width, height and frames a second of a video."""
    try:
        with _opened(data, where) as container:
            stream = container.streams.video[0]
            return stream.codec_context.width, stream.codec_context.height, Fraction(stream.average_rate)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{where}: the clip does not decode: {first_line(error)}") from None


def _opened(data: bytes | memoryview, where: str) -> Any:
    """The container of a video. Raises `DataError` where PyAV is not installed."""
    try:
        import av
    except ImportError:
        raise DataError(
            f"{where}: a video needs the package av; install it with the extra: pip install 'glassworks[video]'"
        ) from None
    return av.open(io.BytesIO(data))
