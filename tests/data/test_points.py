"""Points in texts: the canonical form, the forms that are read, and their score."""

import pytest

from glassworks.data.points import PointScore, centre, contains, parse_points, score_points, write_points
from glassworks.errors import DataError


def test_one_point_is_written_with_one_decimal():
    assert write_points([(61.24, 5)], "cat") == '<point x="61.2" y="5.0" alt="cat">cat</point>'


def test_several_points_are_written_by_ascending_x_then_y():
    text = write_points([(61.2, 40.1), (12.5, 80), (12.5, 7.26)], "cats")
    assert text == '<points x1="12.5" y1="7.3" x2="12.5" y2="80.0" x3="61.2" y3="40.1" alt="cats">cats</points>'


@pytest.mark.parametrize("points", [[(0.0, 100.0)], [(1.5, 2.0), (1.5, 3.0), (99.9, 0.0)]])
def test_written_points_are_parsed_back(points):
    assert parse_points(write_points(points, "red apple")) == points


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ('here: <point x="61" y="40.15" alt="a">a</point> and <point x="1" y="2">', [(61, 40.15), (1, 2)]),
        ('<points x1=" 1.0" y1="2" x2="3" y2="4" alt="x', [(1, 2), (3, 4)]),
        ("<POINT y='2' x='1%'/>", [(1, 2)]),
        ("(61.2, 40.1) and [7,8]", [(61.2, 40.1), (7, 8)]),
        ("Click(x=5.5, y=6%)", [(5.5, 6)]),
        ('<point x="1" y="2"> (3, 4)', [(1, 2)]),
        ("two cats (2)", []),
        ("", []),
        ('<point x="', []),
    ],
)
def test_forms_that_are_read(text, points):
    assert parse_points(text) == points


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('<point x="100.1" y="4" alt="a">a</point>', "x is 100.1, outside 0 to 100"),
        ('<points x1="1" y1="2" x2="3" y2="-4">', "y2 is -4, outside 0 to 100"),
        ("(512, 3)", "x is 512, outside 0 to 100"),
        ('<points x1="1" y1="2" x2="3">', "x2 has no y2"),
        ('<point y="2">', "y has no x"),
    ],
)
def test_impossible_points_are_refused(text, fault):
    with pytest.raises(DataError, match=f"^points: {fault}"):
        parse_points(text)


def test_a_point_outside_and_a_name_that_ends_a_tag_are_not_written():
    with pytest.raises(DataError, match=r"y is 100.1, outside 0 to 100"):
        write_points([(50, 100.1)], "cat")
    with pytest.raises(DataError, match="the name 'a\"b' holds"):
        write_points([(50, 50)], 'a"b')


SIZE = (200, 100)
LEFT, RIGHT = (20, 10, 40, 50), (120, 0, 200, 100)


def test_a_box_contains_its_middle_and_its_edges():
    assert centre(LEFT, SIZE) == (15, 30)
    assert all(contains(LEFT, point, SIZE) for point in [(15, 30), (10, 10), (20, 50)])
    assert not any(contains(LEFT, point, SIZE) for point in [(9.9, 30), (20.1, 30), (15, 9.9), (15, 50.1)])


@pytest.mark.parametrize(
    ("points", "score", "exact"),
    [
        ([(15, 30), (80, 50)], PointScore(1, 1, 0), True),
        ([(80, 50), (15, 34)], PointScore(1, 1, 2), True),
        ([(15, 30)], PointScore(1, 0.5, (0 + (65**2 + 20**2) ** 0.5) / 2), False),
        ([(15, 30), (15, 30), (80, 50)], PointScore(2 / 3, 1, 0), False),
        ([(15, 30), (50, 50)], PointScore(0.5, 0.5, 15), False),
        ([], PointScore(0, 0, None), False),
    ],
)
def test_points_are_scored_by_boxes_and_by_distance(points, score, exact):
    found = score_points(points, [LEFT, RIGHT], SIZE)
    assert found == score and found.exact is exact
