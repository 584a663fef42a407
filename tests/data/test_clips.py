"""Clips: the frames that a model sees, by tables derived by hand, and their bytes: sizes without decoding, frames, and one line for a broken clip."""

import io
import json
import sys

import av
import numpy as np
import pytest
from PIL import Image

from glassworks.config.clips import Clips
from glassworks.data.animations import animation_size, write_webp
from glassworks.data.messages import Size
from glassworks.data.reading.clips import frames_of, measure_clip, read_frames, time_stamps
from glassworks.data.reading.dataset import Sample
from glassworks.errors import DataError


@pytest.mark.parametrize(
    ("most", "rate", "frames", "seconds", "expected"),
    [
        (16, 4, 8, 2, [0, 1, 2, 3, 4, 5, 6, 7]),  # every 1/4 s of a clip with 4 frames a second; 7 is the last one
        (8, 4, 8, 2, [0, 1, 2, 3, 4, 5, 6, 7]),  # 2 s are longer than 7/4 s: evenly from 0 to 7
        (4, 4, 8, 2, [0, 2, 4, 7]),  # evenly: 0, 2.33, 4.67, 7, rounded down
        (16, 2, 30, 3, [0, 5, 10, 15, 20, 25, 29]),  # every half second at 10 frames a second, and the last frame
        (16, 2, 31, 3.1, [0, 5, 10, 15, 20, 25, 30]),  # 25 is followed by 30, the last one itself
        (3, 2, 100, 1, [0, 50, 99]),  # 1 s is no longer than 2/2 s: 0 s, 0.5 s and the last frame
        (3, 2, 101, 1.01, [0, 50, 100]),  # longer: both ends and the middle
        (16, 4, 3, 3, [0, 1, 2]),  # a slower clip: every frame once
        (2, 1, 500, 50, [0, 499]),
        (8, 2, 1, 0.1, [0]),
        (8, 2, 2, 9, [0, 1]),
    ],
)
def test_frames_are_those_of_uniform_last_frame(most, rate, frames, seconds, expected):
    assert Clips(frames=most, rate=rate).numbers(frames, seconds) == expected


def test_every_frame_has_its_time_with_one_decimal():
    size = Size(kind="video", frames=30, seconds=3)
    assert time_stamps(size, Clips(frames=16, rate=2), "") == ["0.0 ", "0.5 ", "1.0 ", "1.5 ", "2.0 ", "2.5 ", "2.9 "]


def drawn(count=5):
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (12, 20, 3), dtype=np.uint8)) for _ in range(count)]


def gif(frames, delays, **options):
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=delays, **options)
    return file.getvalue()


def test_the_size_of_an_animation_is_known_without_decoding_it():
    webp = write_webp(drawn(), 250)
    assert animation_size(webp) == Size(kind="video", width=20, height=12, frames=5, seconds=1.25)
    found = animation_size(gif(drawn(4), [100, 200, 10, 50]))
    assert found == Size(kind="video", width=20, height=12, frames=4, seconds=0.45), "10 ms are shown for 100"
    grey = [frame.convert("L") for frame in drawn(3)]
    assert animation_size(gif(grey, 40, comment=b"a comment" * 60)).seconds == 0.12
    start = webp.index(b"VP8L")
    blank = webp[: start + 8] + bytes(20) + webp[start + 28 :]
    assert animation_size(blank) == animation_size(webp), "pixels are not looked at"
    still = io.BytesIO()
    drawn()[0].save(still, "WEBP")
    for other in (still.getvalue(), gif(drawn(1), 100), b"", b"RIFF", b"GIF89a", gif(drawn(4), 100)[:60]):
        assert animation_size(other) is None


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_frames_are_decoded_by_their_numbers(kind):
    frames = drawn()
    data = write_webp(frames, 250) if kind == "webp" else gif(frames, 100)
    found = read_frames(data, [0, 2, 4], 5, "here")
    for frame, number in zip(found, (0, 2, 4), strict=True):
        difference = np.abs(np.asarray(frame, int) - np.asarray(frames[number], int)).mean()
        assert frame.mode == "RGB" and difference <= (0 if kind == "webp" else 40), "a GIF has 256 colours"


def sample(content, frames=5):
    stored = {"sizes": {"webp": {"kind": "video", "frames": frames, "seconds": 1.25}}}
    members = {"json": json.dumps(stored).encode(), **({} if content is None else {"webp": content})}
    return Sample("k", {name: memoryview(data) for name, data in members.items()}, "train-0.tar: sample 'k'")


CLIPS = Clips(frames=3, rate=4)


def test_the_frames_of_a_sample_are_those_of_its_clip():
    found = frames_of(sample(write_webp(drawn(), 250)), CLIPS)
    assert [frame.tobytes() for frame in found] == [drawn()[number].tobytes() for number in (0, 2, 4)]
    assert frames_of(Sample("k", {"webp": memoryview(b"")}, ""), CLIPS) is None, "without sizes it is no clip"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (write_webp(drawn(), 250)[:-900], "the clip does not decode: "),
        (b"no clip", "the clip does not decode: cannot identify image file"),
        (write_webp(drawn(4), 250), "the clip has 4 frames, and its record says 5"),
        (None, "no clip 'webp' (json)"),
    ],
)
def test_a_clip_that_does_not_decode_is_one_line(content, line):
    with pytest.raises(DataError) as refused:
        frames_of(sample(content), CLIPS)
    assert str(refused.value).startswith(f"train-0.tar: sample 'k': {line}") and "\n" not in str(refused.value)


def film(container, codec, count=9, rate=5):
    """A video of brighter and brighter frames, and the means of its frames."""
    file, levels = io.BytesIO(), [20 + 25 * number for number in range(count)]
    with av.open(file, "w", format=container) as opened:
        stream = opened.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for level in levels:
            frame = Image.new("RGB", (64, 32), (level, level, level))
            opened.mux(stream.encode(av.VideoFrame.from_image(frame)))
        opened.mux(stream.encode())
    return file.getvalue(), levels


@pytest.mark.parametrize(("container", "codec"), [("mp4", "mpeg4"), ("webm", "libvpx"), ("avi", "mpeg4")])
def test_videos_are_measured_and_decoded_by_their_numbers(container, codec):
    data, levels = film(container, codec)
    size = Size(kind="video", width=64, height=32, frames=9, seconds=1.8)
    assert measure_clip(data, "a", 10_000) == ("video", size)
    found = read_frames(data, [0, 4, 8], 9, "a")
    means = [np.asarray(frame).mean() for frame in found]
    np.testing.assert_allclose(means, [levels[number] for number in (0, 4, 8)], atol=4)
    with pytest.raises(DataError, match=r"^a: 64 x 32 pixels of a frame are more than max_pixels \(1,000\)$"):
        measure_clip(data, "a", 1000)
    with pytest.raises(DataError, match=r"^a: the clip has more frames, and its record says 8$"):
        read_frames(data, [0], 8, "a")
    with pytest.raises(DataError, match=r"^a: the clip does not decode: "):
        measure_clip(data[:40] + bytes(200), "a", 10_000)


def test_animations_are_measured_and_other_files_are_one_line(monkeypatch):
    assert measure_clip(write_webp(drawn(), 250), "a", 1000)[0] == "webp"
    assert measure_clip(gif(drawn(3), 100), "a", 1000)[0] == "gif"
    still = io.BytesIO()
    drawn()[0].save(still, "PNG")
    with pytest.raises(DataError, match=r"^a: no animated WebP or GIF, MP4, WebM or AVI: it is a PNG image$"):
        measure_clip(still.getvalue(), "a", 1000)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"^a: a video needs the package av; install it with the extra: pip install"):
        measure_clip(film("mp4", "mpeg4")[0], "a", 10_000)
