"""The names of objects at image tokens, on an image of 100 by 100 pixels in windows of 50 by 50."""

import json

import pytest

from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.object_names import object_names
from glassworks.errors import DataError

SIZES = {"png": {"kind": "image", "width": 100, "height": 100}}
IDS = {"bell": [5], "wine glass": [6, 7]}
NOTHING, NONE = 1, -100


def sample(objects, sizes=SIZES):
    content = {"labels": {} if objects is None else {"objects": objects}, "sizes": sizes}
    return Sample("k", {"json": memoryview(json.dumps(content).encode())}, "the sample 'k'")


def found(*objects, grid=4):
    named = [{"name": name, "boxes": boxes} for name, *boxes in objects]
    return object_names(sample(named), grid, 2, IDS.__getitem__, NOTHING).tolist()


def test_a_window_has_the_first_and_the_last_token_of_the_name_in_it_or_that_for_nothing():
    assert found() == [[NOTHING] * 2] * 4
    assert found(("wine glass", [50, 0, 100, 50])) == [[NOTHING] * 2, [6, 7], [NOTHING] * 2, [NOTHING] * 2]


def test_the_largest_overlap_counts_whichever_object_is_first():
    objects = [("bell", [0, 0, 20, 50]), ("wine glass", [20, 0, 50, 50])]
    assert found(*objects)[0] == found(*reversed(objects))[0] == [6, 7]


def test_a_small_part_of_an_object_is_no_target():
    """80 by 40 pixels: 50 by 40 in the first window, 30 by 40 in the second, 5 by 5 of another in the third."""
    names = found(("bell", [0, 0, 80, 40], [0, 45, 5, 95]))
    assert names[:2] == [[5, 5], [5, 5]], "48 % of the second window, 38 % of the object"
    assert names[2] == [5, 5], "nine tenths of a slender object, though 9 % of the window"
    assert found(("bell", [0, 0, 55, 40]))[1] == [NONE] * 2, "8 % of the window, 9 % of the object"


def test_windows_at_the_edge_are_smaller():
    """Three patches in windows of two: the second window begins at two thirds."""
    assert found(("bell", [70, 0, 100, 60]), grid=3) == [[NOTHING] * 2, [5, 5], [NOTHING] * 2, [NOTHING] * 2]


@pytest.mark.parametrize("objects", [None, [{"name": "bell"}]])
def test_labels_without_boxes_are_one_line(objects):
    with pytest.raises(DataError, match=r"^the sample 'k': training\.naming needs .* boxes each; set it to 0$"):
        object_names(sample(objects), 4, 2, IDS.__getitem__, NOTHING)
