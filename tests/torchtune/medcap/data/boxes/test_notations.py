import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcap.data.boxes.box import Box
from medcap.data.boxes.notations import find_boxes


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
def test_a_box_that_is_not_a_rectangle_in_the_image_is_left_out(text):
    assert find_boxes(text, 100, 100) == []


@pytest.mark.slow
def test_long_and_hostile_text_takes_no_time():
    started = time.monotonic()
    assert len(find_boxes("{<1><2><3><4>}" * 40_000, 10, 10)) == 100
    find_boxes("<ref>" * 200_000 + "{<" * 200_000, 10, 10)
    assert time.monotonic() - started < 60


BOUNDED = settings(derandomize=True, deadline=None, max_examples=150)
SIZES = st.integers(1, 5000)
PIECES = [
    "{<1><2><30><40>}",
    "{<",
    ">",
    "<box>",
    "</box>",
    "(1,2),(30,40)",
    "(9,9),(1,1)",
    "<ref>",
    "</ref>",
    "liver",
    " ",
    "\n",
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.integers(0, 99_999).map(str) | st.text(max_size=4), max_size=20).map(
    "".join
)


@pytest.mark.slow
@BOUNDED
@given(TEXTS, SIZES, SIZES)
def test_any_text_gives_rectangles_within_the_image(text, width, height):
    for box in find_boxes(text, width, height):
        left, top, right, bottom = box.edges
        assert 0.0 <= left < right <= 1.0 and 0.0 <= top < bottom <= 1.0
        assert box.label in text


@pytest.mark.slow
@BOUNDED
@given(
    st.lists(st.tuples(*[st.integers(0, 999)] * 4), max_size=6), SIZES, SIZES, st.sampled_from(["", " and ", "\n", "①"])
)
def test_boxes_are_found_in_their_order_whatever_is_between(corners, width, height, between):
    corners = [(min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1) for a, b, c, d in corners]
    text = between.join(f"<box>({a},{b}),({c},{d})</box>" for a, b, c, d in corners)
    expected = [Box(tuple(edge / 1000 for edge in edges)) for edges in corners]
    # Thousandths do not depend on the image's size.
    assert find_boxes(text, width, height) == expected
    assert find_boxes(between.join(f"{{<{a}><{b}><{c}><{d}>}}" for a, b, c, d in corners), 1000, 1000) == expected


@pytest.mark.slow
@BOUNDED
@given(st.tuples(*[st.integers(0, 4000)] * 4), SIZES, SIZES)
def test_pixels_scale_with_the_image(corners, width, height):
    a, b, c, d = corners
    found = find_boxes(f"{{<{a}><{b}><{c}><{d}>}}", width, height)
    doubled = find_boxes(f"{{<{2 * a}><{2 * b}><{2 * c}><{2 * d}>}}", 2 * width, 2 * height)
    assert found == doubled
    assert bool(found) == (min(a, width) < min(c, width) and min(b, height) < min(d, height))
