"""Tiles: the crops of an image by Molmo's rule, the patches of their tokens and the numbers of tokens, by tables derived by hand; and one line for what cannot be."""

import io

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from glassworks.config.packing import (
    IMAGE_END,
    IMAGE_PATCH,
    IMAGE_START,
    TILE_COLUMN,
    TILE_PATCH,
    TILES_END,
    TILES_START,
    Images,
    TileTokens,
)
from glassworks.config.tiles import Crops, Tiling, select_tiling
from glassworks.data.image_files import facts_of
from glassworks.data.reading.images import crops_of, decode_image, resize
from glassworks.data.reading.pictures import count_pictures, crop_windows, image_tiling, pictures_of, windows_of
from glassworks.errors import DataError

CLIP = TileTokens(crops=Crops(most=12, margin=4, side=336, grid=24), window=2)
"""CLIP ViT-L/14-336 as in Molmo: 16 patches, 224 pixels, between crops, and 112 pixels of margins."""
SMALL = TileTokens(crops=Crops(most=4, margin=1, side=40, grid=4), window=2)
"""Patches of 10 pixels, and 2 of them between crops."""


@pytest.mark.parametrize(
    ("height", "width", "most", "expected"),
    [
        (100, 100, 4, (1, 1)),  # fits exactly
        (101, 100, 4, (2, 1)),  # min(200/101, 100/100) = 1; (1, 1) shrinks
        (101, 101, 4, (2, 2)),  # every other one shrinks a side
        (200, 100, 4, (2, 1)),
        (100, 200, 4, (1, 2)),
        (100, 300, 4, (1, 3)),
        (400, 400, 4, (2, 2)),  # larger than all: 1/2 is the most, (1, 4) has 1/4
        (1000, 100, 4, (4, 1)),  # larger than all: 4/10
        (1000, 1000, 3, (1, 1)),  # all have 1/10: the first
        (50, 50, 4, (1, 1)),  # all enlarge twice: the first
        (50, 90, 4, (1, 1)),  # min(2, 10/9); (1, 2) has 2
        (0, 250, 4, (1, 3)),  # no height: the width decides, 300/250
        (-20, -5, 4, (1, 1)),  # smaller than the margins
        (5, -7, 4, (1, 1)),
    ],
)
def test_a_tiling_enlarges_an_image_least_or_shrinks_it_least(height, width, most, expected):
    assert select_tiling(height, width, 100, most) == expected


@pytest.mark.parametrize(
    ("width", "height", "tiling", "tokens"),
    [
        (336, 336, (1, 1), (12, 12)),  # 224 without margins; 1 x 16 + 8 patches in windows of 2
        (640, 480, (2, 3), (20, 28)),  # 528 x 368: min(448/368, 672/528) is the least that is 1 or more
        (1024, 1024, (3, 3), (28, 28)),  # 912 x 912: all shrink, this one by 672/912, as (3, 4) does
        (2000, 100, (1, 9), (12, 76)),  # 1888 and no height: 9 x 224 = 2016
        (1, 1, (1, 1), (12, 12)),
    ],
)
def test_the_tiles_of_clip_have_these_numbers_of_tokens(width, height, tiling, tokens):
    found = CLIP.crops.tiling(width, height)
    rows, columns = tokens
    assert found == tiling and CLIP.tokens(found) == tokens
    ids = CLIP.ids(found)
    assert (ids.count(TILE_PATCH), ids.count(TILE_COLUMN), len(ids)) == (rows * columns, rows, rows * (columns + 1) + 2)
    assert (ids[0], ids[columns + 1], ids[-2:]) == (TILES_START, TILE_COLUMN, [TILE_COLUMN, TILES_END])
    assert pictures_of(ids, CLIP) == (["tile"] * found.crops, [found])


def test_the_tokens_of_two_crops_side_by_side_have_these_patches():
    """Crop 0 has the patches 0 to 15 and loses its right column; crop 1 has 16 to 31 and loses its left one.

    0 1 2 17 18 19 / 4 5 6 21 22 23 / 8 9 10 25 26 27 / 12 13 14 29 30 31
    """
    assert crop_windows(SMALL.crops, 2, Tiling(1, 2)).tolist() == [
        [0, 1, 4, 5],
        [2, 17, 6, 21],
        [18, 19, 22, 23],
        [8, 9, 12, 13],
        [10, 25, 14, 29],
        [26, 27, 30, 31],
    ]
    assert crop_windows(SMALL.crops, 3, Tiling(1, 2)).tolist() == [
        [0, 1, 2, 4, 5, 6, 8, 9, 10],
        [17, 18, 19, 21, 22, 23, 25, 26, 27],
        [12, 13, 14, *[-1] * 6],
        [29, 30, 31, *[-1] * 6],
    ]
    one = crop_windows(SMALL.crops, 2, Tiling(1, 1))
    both = windows_of([Tiling(1, 2), Tiling(1, 1)], SMALL)
    assert both[6:].tolist() == (one + 32).tolist(), "the patches of the next image follow"
    assert windows_of([], SMALL).shape == (0, 4)


@pytest.mark.parametrize("tiling", [Tiling(1, 1), Tiling(1, 3), Tiling(4, 1), Tiling(2, 2)])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_the_crops_together_are_the_resized_image(tiling, window):
    """Every patch of the large image has a colour of its own, which the tokens find in the crops, window by window."""
    crops = SMALL.crops
    height, width = crops.patches(tiling)
    colours = torch.arange(height * width, dtype=torch.uint8).view(height, width)
    large = colours.repeat_interleave(10, 0).repeat_interleave(10, 1).expand(3, -1, -1)
    cut = crops_of(large, crops, tiling)
    assert [tuple(crop.shape) for crop in cut] == [(3, 40, 40)] * tiling.crops
    seen = torch.stack(cut)[:, 0, 5::10, 5::10].flatten().long().numpy()
    found = crop_windows(crops, window, tiling)
    padded = np.full((-(-height // window) * window, -(-width // window) * window), -1)
    padded[:height, :width] = colours.numpy()
    down, across = (size // window for size in padded.shape)
    expected = padded.reshape(down, window, across, window).swapaxes(1, 2).reshape(-1, window**2)
    assert (np.where(found < 0, -1, seen[found]) == expected).all()
    image = torch.randint(0, 256, (3, 33, 71), dtype=torch.uint8)
    scaled = resize(image, height * 10, width * 10)
    assert torch.equal(crops_of(image, crops, tiling)[-1], scaled[:, -40:, -40:])


def test_pictures_are_counted_by_their_tokens():
    image = [IMAGE_START, IMAGE_PATCH, IMAGE_END]
    first = [0, *image, *SMALL.ids(Tiling(1, 2)), *image, *SMALL.ids(Tiling(2, 2)), 1]
    documents = [first, [0, 5, 1], [0, *image, *SMALL.ids(Tiling(1, 1)), 1], [0, *image, 1]]
    ids, ends = np.array([token for one in documents for token in one]), np.cumsum([len(one) for one in documents])
    assert count_pictures(ids, ends, SMALL).tolist() == [1 + 2 + 1 + 4, 0, 2, 1]
    kinds = ["image", "tile", "tile", "image", *["tile"] * 4]
    assert pictures_of(np.array(first), SMALL) == (kinds, [Tiling(1, 2), Tiling(2, 2)])
    for other in (None, CLIP):
        with pytest.raises(
            DataError, match=r"^the tokens of the tiles of an image are of other settings; pack the data"
        ):
            pictures_of(np.array(first), other)


def test_a_turned_image_has_the_size_that_its_tiling_needs():
    """A record has the size of the image as it is shown, which is that of its pixels in training."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (60, 40)).save(file, "JPEG", exif=exif)
    facts, pixels = facts_of(file.getvalue(), "a.jpg", 10_000), decode_image(file.getvalue(), "a.jpg")
    assert (facts.width, facts.height) == (40, 60) and pixels.shape == (3, 60, 40)
    assert SMALL.crops.tiling(facts.width, facts.height) == (2, 1)


def test_crops_that_cannot_be_cut_are_one_line():
    faults = [
        Crops(most=4, margin=1, side=40, grid=3).fault,
        Crops(most=4, margin=2, side=40, grid=4).fault,
        SMALL.crops.fault,
    ]
    assert faults == [
        "40 pixels of a crop are not 3 whole patches; choose an image size that is a multiple of 3",
        "two margins of 2 leave nothing of the 4 patches of a crop; lower tiles.margin",
        None,
    ]
    with pytest.raises(
        DataError, match=r"^here: the record of the image 'png' needs its sizes with width and height, by"
    ):
        image_tiling(None, SMALL.crops, "png", "here")
    assert "tiles" not in Images(tokens=4).model_dump()
