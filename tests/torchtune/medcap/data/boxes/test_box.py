import pytest

from medcap.data.boxes.box import AbsentBox, Box, boxes_as_json, boxes_from_json, named_boxes_from_json
from medcap.errors import UserError


def test_boxes_of_a_row_are_pixels_and_become_shares():
    rows = [[40, 10, 160, 60], {"box": [0, 0, 100.5, 50], "label": "liver"}]
    boxes = boxes_from_json(rows, (200, 100))
    assert boxes == (Box((0.2, 0.1, 0.8, 0.6)), Box((0.0, 0.0, 0.5025, 0.5), "liver"))
    assert boxes_as_json(boxes, (200, 100)) == rows


@pytest.mark.parametrize(
    "value",
    [
        "[1, 2, 3, 4]",
        [[1, 2, 3]],
        [[1, 2, 3, 4, 5]],
        [[3, 2, 1, 4]],
        [[1, 2, 1, 4]],
        [[1, 2, float("nan"), 4]],
        [{}],
        [None],
    ],
)
def test_what_is_no_box_is_refused(value):
    with pytest.raises(UserError, match="'boxes'"):
        boxes_from_json(value, (10, 10))


def test_null_names_what_an_image_does_not_show():
    rows = [None, {"box": None, "label": "ring", "image": 1}, [1, 2, 3, 4]]
    assert named_boxes_from_json(rows, None) == (AbsentBox(), AbsentBox("ring", 1), Box((1.0, 2.0, 3.0, 4.0)))
    with pytest.raises(UserError, match=r"without .box.: its keys are"):
        named_boxes_from_json([{"label": "ring"}], None)


@pytest.mark.parametrize("key", ["bbox", "Box", "boxes"])
def test_a_misspelt_key_of_a_box_is_named(key):
    with pytest.raises(UserError, match=f"'boxes' holds .*, an object without 'box': write 'box' instead of '{key}'"):
        boxes_from_json([{key: [1, 2, 3, 4], "label": "liver"}], (10, 10))


def test_an_object_without_a_box_tells_the_keys():
    with pytest.raises(UserError, match="an object without 'box': its keys are box, label, image"):
        named_boxes_from_json([{"label": "liver"}], (10, 10))
