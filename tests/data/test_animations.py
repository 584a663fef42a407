"""Animated WebP of our own: every frame comes back exactly, equal ones too, after equal times."""

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from glassworks.data.animations import write_webp


@pytest.mark.parametrize("size", [(72, 72), (33, 17), (1, 1)])
def test_frames_come_back_exactly_and_equal_ones_are_kept(size):
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8) for _ in range(3)]
    shown = [pixels[0], pixels[1], pixels[1], pixels[1], pixels[2], pixels[0]]
    file = Image.open(io.BytesIO(write_webp([Image.fromarray(frame) for frame in shown], 250)))
    assert (file.format, file.n_frames, file.size) == ("WEBP", 6, size)
    for number, (frame, expected) in enumerate(zip(ImageSequence.Iterator(file), shown, strict=True)):
        assert np.array_equal(np.asarray(frame.convert("RGB")), expected)
        assert (frame.info["timestamp"], frame.info["duration"]) == (250 * number, 250)
