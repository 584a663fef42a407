"""What `records` accepts, training decodes: to the pixels, size and orientation that a viewer shows."""

import contextlib
import io
import warnings
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageOps

from glassworks.data.reading.images import decode_image, is_plain
from glassworks.data.reading.pixels import read_image
from glassworks.errors import DataError

from .image_zoo import mutate, zoo

LIMIT = 4_000_000
ZOO = dict(zoo())


def viewed(data: bytes) -> np.ndarray | None:
    """RGB over white as Pillow shows it, [H, W, 3]; None where Pillow shows nothing or clips."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as opened:
                if opened.size[0] * opened.size[1] > LIMIT or opened.mode in ("I", "F") or opened.mode.startswith("I;"):
                    return None
                image = ImageOps.exif_transpose(opened)
            pixels = np.array(image.convert("RGBA")).astype(int)
    except Exception:
        return None
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def outcome(data: bytes) -> str:
    """What becomes of a file in `records` and in training. Asserts that the two agree, with each other and with a viewer."""
    shown = viewed(data)
    try:
        accepted = np.array(read_image(data, "here", LIMIT))
    except DataError as error:
        assert str(error).startswith("here: ") and len(str(error).splitlines()) == 1, error
        if is_plain(data) and "max_pixels" not in str(error):
            with contextlib.suppress(DataError):
                decode_image(data, "here")
                return "refused, trained"
        return "refused, shown" if shown is not None else "refused"
    trained = decode_image(data, "here").permute(1, 2, 0).numpy()
    assert trained.shape == accepted.shape and (trained == accepted).all(), "training sees other pixels than records"
    if shown is not None:
        assert accepted.shape == shown.shape and (accepted == shown).all(), "a viewer shows another picture"
    return "fast" if is_plain(data) else "accepted"


@pytest.mark.parametrize("name", ZOO)
def test_every_file_of_the_zoo_is_seen_as_a_viewer_sees_it(name):
    assert outcome(ZOO[name]) in (("refused",) if name in ("tiff I", "tiff F") else ("fast", "accepted"))


@pytest.mark.parametrize("count", [pytest.param(400), pytest.param(6000, marks=pytest.mark.slow)])
def test_mutated_files_are_refused_or_decode_alike(count):
    names, counts = list(ZOO), Counter()
    for number in range(count):
        name = names[number % len(names)]
        data = mutate(ZOO[name], np.random.default_rng(number))
        try:
            counts[outcome(data)] += 1
        except AssertionError as error:
            pytest.fail(f"mutation {number} of {name}: {error}")
    print(dict(counts))
    assert counts["refused"] and counts["fast"] and counts["accepted"]
