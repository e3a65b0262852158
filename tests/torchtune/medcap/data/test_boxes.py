import time

import pytest

from medcap.data.boxes import Box, find_boxes


def test_pixels_and_thousandths_become_shares_of_the_image():
    text = (
        "<ref>liver</ref><box>(178,280),(803,894)</box> and the polyp {<640><512><1280><768>},"
        " <box>(0, 0),(999,500)</box>"
    )
    assert find_boxes(text, 1280, 1024) == [
        Box((0.178, 0.28, 0.803, 0.894), "liver"),
        Box((0.5, 0.5, 1.0, 0.75)),
        Box((0.0, 0.0, 0.999, 0.5)),
    ]


def test_a_box_is_cut_at_the_edges_of_the_image():
    assert find_boxes("{<50><0><300><80>}", 100, 100) == [Box((0.5, 0.0, 1.0, 0.8))]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no box",
        "{<1><2><3>}",
        "{<9><9><5><12>}",
        "{<200><0><300><50>}",
        "<box>(1,1),(1,9)</box>",
        "<box>(1,1)</box>",
    ],
)
def test_what_is_no_rectangle_in_the_image_is_left_out(text):
    assert find_boxes(text, 100, 100) == []


def test_long_and_hostile_text_takes_no_time():
    started = time.monotonic()
    assert len(find_boxes("{<1><2><3><4>}" * 10_000, 10, 10)) == 100
    find_boxes("<ref>" * 50_000 + "{<" * 50_000, 10, 10)
    assert time.monotonic() - started < 2
