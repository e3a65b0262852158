import pytest

from medcap.data.regions.region import (
    BoxShape,
    MaskFile,
    PointShape,
    PolygonShape,
    Region,
    RunLength,
    region_from_json,
    regions_as_json,
    regions_from_json,
)
from medcap.errors import UserError

ROWS = [
    {"box": [1.0, 2.0, 3.5, 4.0], "label": "liver"},
    {"point": [5.0, 6.0], "radius": 20.5, "image": 1},
    {"polygon": [[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]},
    {"mask": "masks/a.png", "value": 3, "label": "kidney", "image": 2},
    {"mask": {"size": [3, 4], "counts": "714"}},
]
REGIONS = (
    Region(BoxShape((1.0, 2.0, 3.5, 4.0)), "liver"),
    Region(PointShape(5.0, 6.0, 20.5), image=1),
    Region(PolygonShape(((0.0, 0.0), (4.0, 0.0), (0.0, 4.0)))),
    Region(MaskFile("masks/a.png", 3), "kidney", 2),
    Region(RunLength((3, 4), "714")),
)


def test_each_form_is_read_and_written():
    assert regions_from_json(ROWS) == REGIONS
    assert regions_as_json(REGIONS) == ROWS
    assert len({*REGIONS, *regions_from_json(ROWS)}) == 5  # they can be keys


def test_short_forms():
    assert region_from_json("masks/a.png") == Region(MaskFile("masks/a.png"))
    assert region_from_json([1, 2, 3, 4]) == Region(BoxShape((1.0, 2.0, 3.0, 4.0)))
    assert region_from_json({"size": [3, 4], "counts": [7, 1, 4]}) == Region(RunLength((3, 4), "714"))


def test_absent_objects_are_read_only_where_they_may_be():
    rows = [None, {"mask": None, "label": "spleen"}, "a.png"]
    assert regions_from_json(rows, absent=True) == (None, None, Region(MaskFile("a.png")))
    assert regions_as_json([None]) == [None]
    with pytest.raises(UserError, match="'regions' holds None: a region is"):
        regions_from_json(rows)
    with pytest.raises(UserError, match="a region has one of box, point, polygon, mask"):
        region_from_json({"mask": None, "label": "spleen"})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (5, "a region is"),
        ({}, "a region has one of"),
        ({"box": [1, 2, 3, 4], "mask": "a.png"}, "a region has one of"),
        ([1, 2, 3], "a box is four numbers"),
        ({"box": [1, 2, 3, True]}, "a box is four numbers"),
        ({"box": [1, 2, 3, 10**400]}, "a box is four numbers"),
        ([3, 2, 1, 4], "has no area"),
        ({"point": [1, 2]}, "a point is 'point'"),
        ({"point": [1, 2], "radius": 0}, "a point is 'point'"),
        ({"point": [1, float("nan")], "radius": 3}, "a point is 'point'"),
        ({"polygon": [[1, 2], [3, 4]]}, "at least three points"),
        ({"polygon": [[1, 2], [3, 4], [5]]}, "at least three points"),
        ({"polygon": [1, 2, 3, 4, 5, 6]}, "at least three points"),
        ({"mask": "a.png", "value": 1.5}, "a whole number from 0"),
        ({"mask": " "}, "without a name"),
        ({"mask": {"size": [3, 4]}}, "they are a text or numbers"),
        ({"mask": ["a.png"]}, "a run-length is an object"),
        ({"mask": "a.png", "image": -1}, "images have whole numbers from 0"),
        ({"mask": "a.png", "image": True}, "images have whole numbers from 0"),
    ],
)
def test_what_is_no_region_is_refused(value, words):
    with pytest.raises(UserError, match=words) as error:
        region_from_json(value, "masks")
    assert str(error.value).startswith("'masks' holds ")


def test_a_list_is_needed():
    with pytest.raises(UserError, match="'regions' must be a list of regions, not str"):
        regions_from_json("a.png")
