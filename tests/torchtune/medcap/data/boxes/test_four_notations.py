import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcap.data.boxes.box import Box
from medcap.data.boxes.notations import NOTATIONS, find_box_texts, find_boxes, write_box

EDGES = (0.125, 0.25, 0.5, 0.75)
WRITTEN = {
    "coloninst": "{<100><50><400><150>}",
    "qwen": "<ref>ring</ref><box>(125,250),(500,750)</box>",
    "shares": "[0.1250, 0.2500, 0.5000, 0.7500]",
    "thousandths": "[125, 250, 500, 750]",
}


@pytest.mark.parametrize("notation", NOTATIONS)
def test_a_box_is_written_and_found_in_each_notation(notation):
    text = write_box(Box(EDGES, "ring"), notation, (800, 200))
    assert text == WRITTEN[notation]
    label = "ring" if notation == "qwen" else ""
    assert find_boxes(f"It is at {text}.", 800, 200) == [Box(EDGES, label)]
    assert find_boxes(f"It is at {text}.", 800, 200, notation) == [Box(EDGES, label)]


def test_only_boxes_of_a_named_notation_are_found():
    text = " ".join(WRITTEN.values())
    assert [found.notation for found in find_box_texts(text)] == ["coloninst", "qwen", "shares", "thousandths"]
    for notation in ("coloninst", "qwen"):
        assert [found.notation for found in find_box_texts(text, notation)] == [notation]
    assert [found.numbers for found in find_box_texts(text, "thousandths")] == [
        (0.125, 0.25, 0.5, 0.75),
        (125, 250, 500, 750),
    ]


@pytest.mark.parametrize(
    ("text", "notation"),
    [
        ("[0.1, 0.2, 0.3, 0.4]", "shares"),
        ("[.1,.2,1.,1]", "shares"),
        ("[ 0.1 , 0.2\n, 1.0, 1 ]", "shares"),
        ("[0, 0, 1, 1]", "shares"),
        ("[-0.1, 0, 0.5, 1]", "shares"),
        ("[0, 0, 2, 2]", "thousandths"),
        ("[12, 40, 1000, 999]", "thousandths"),
        ("[[12, 40, 100, 200]]", "thousandths"),
        ("[12, 40, 1001, 999]", None),
        ("[12.5, 40, 100, 200]", None),
        ("[0.1, 0.2, 0.3]", None),
        ("[0.1, 0.2, 0.3, 0.4, 0.5]", None),
        ("[nan, 0.2, 0.3, 0.4]", None),
        ("[1e-3, 0.2, 0.3, 0.4]", None),
        ("(0.1, 0.2, 0.3, 0.4)", None),
        ("{<1.5><2><3><4>}", None),
        ("{<1><2><3><4><5>}", None),
        ("<box>(1,2),(3,4)", None),
    ],
)
def test_brackets_are_told_apart_by_their_numbers(text, notation):
    assert [found.notation for found in find_box_texts(text)] == ([] if notation is None else [notation])


def test_a_named_notation_decides_what_brackets_mean():
    assert find_boxes("[0, 0, 1, 1]", 10, 10, "thousandths") == [Box((0.0, 0.0, 0.001, 0.001))]
    assert find_boxes("[0, 0, 500, 1200]", 10, 10, "thousandths") == [Box((0.0, 0.0, 0.5, 1.0))]
    assert find_boxes("[10, 20, 30, 40]", 10, 10, "shares") == []


@pytest.mark.parametrize(
    ("notation", "numbers", "excess"),
    [
        ("shares", "[0.1, 0.2, 30, 1]", 30),
        ("thousandths", "[1, 2, 1280, 4]", 1280),
        ("qwen", "<box>(1,2),(3,2000)</box>", 2000),
        ("coloninst", "{<1><2><3000><4000>}", None),
        ("thousandths", "[1, 2, 1000, 4]", None),
    ],
)
def test_a_number_larger_than_its_notation_can_hold_is_told(notation, numbers, excess):
    (found,) = find_box_texts(numbers, notation)
    assert found.excess == excess


def test_a_box_smaller_than_a_unit_is_written_as_one_unit():
    for edges in [(0.5, 0.5, 0.500001, 0.500001), (0.9999999, 0.9999999, 1.0, 1.0)]:
        for notation in NOTATIONS:
            assert len(find_boxes(write_box(Box(edges), notation, (100, 100)), 100, 100)) == 1
    assert write_box(Box((0.999999, 0.0, 1.0, 1.0)), "thousandths", (100, 100)) == "[998, 0, 999, 999]"


@pytest.mark.slow
def test_long_and_hostile_brackets_take_no_time():
    started = time.monotonic()
    for piece in ("[1, 2, 3, 4]", "[", "[ ", "[1,", "[1, 2, 3, ", "0.000000000001", " "):
        find_boxes(piece * 100_000, 10, 10)
    assert time.monotonic() - started < 30


SIZES = st.tuples(*[st.integers(2, 100_000)] * 2)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=300)
@given(SIZES, st.sampled_from(["coloninst", "shares"]), st.data())
def test_pixels_and_shares_bring_every_pixel_back(size, notation, data):
    x1, y1 = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, size[0])), data.draw(st.integers(y1 + 1, size[1]))
    box = Box((x1 / size[0], y1 / size[1], x2 / size[0], y2 / size[1]))
    text = write_box(box, notation, size)
    (found,) = find_boxes(text, *size)
    assert tuple(map(round, found.pixels(size))) == (x1, y1, x2, y2)
    assert write_box(found, notation, size) == text


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.tuples(*[st.integers(0, 999)] * 4), st.sampled_from(["qwen", "thousandths"]))
def test_thousandths_bring_every_thousandth_back(corners, notation):
    a, b, c, d = corners
    x1, x2, y1, y2 = min(a, c), max(a, c), min(b, d), max(b, d)
    if x1 == x2 or y1 == y2 or x2 <= 1 >= y2:
        return
    text = write_box(Box((x1 / 1000, y1 / 1000, x2 / 1000, y2 / 1000)), notation, (7, 7))
    (found,) = find_box_texts(text)
    assert found.numbers == (x1, y1, x2, y2)


def test_thousandths_lose_less_than_a_thousandth_of_the_side():
    for pixel in range(1, 5000):
        (found,) = find_boxes(write_box(Box((0.0, 0.0, pixel / 5000, 1.0)), "thousandths", (5000, 10)), 5000, 10)
        if pixel > 4:
            assert -1e-9 <= pixel - found.edges[2] * 5000 <= 5
