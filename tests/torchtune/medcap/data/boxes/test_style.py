import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcap.data.boxes.box import Box
from medcap.data.boxes.notations import NOTATIONS
from medcap.data.boxes.style import BoxStyle, box_style
from medcap.models.preprocess import Preprocess

BOX = Box((0.5, 0.5, 0.75, 1.0))


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({}, "[500, 500, 750, 999]"),
        ({"box_format": "coloninst"}, "{<100><50><150><100>}"),
        ({"box_format": "coloninst", "box_write": "qwen"}, "<box>(500,500),(750,999)</box>"),
        # Of 200 x 100 the middle 100 columns are shown, as 40 x 40 pixels.
        ({"box_write": "shares", "box_frame": "shown"}, "[0.5000, 0.5000, 1.0000, 1.0000]"),
        ({"box_write": "coloninst", "box_frame": "shown"}, "{<20><20><40><40>}"),
    ],
)
def test_a_box_is_written_as_the_configuration_says(keys, text):
    style = box_style(keys, Preprocess(40).frame)
    assert style.write(BOX, (200, 100)) == text
    (found,) = style.find(f"there: {text}", (200, 100))
    assert found.edges == pytest.approx(BOX.edges, abs=0.0011)


def test_the_view_of_an_image_decides_where_its_boxes_lie():
    style = box_style({"box_write": "thousandths", "box_frame": "shown"}, Preprocess(40).frame)
    assert style.write(BOX, (200, 100), "pad") == "[500, 500, 750, 750]"
    assert style.find("[500, 500, 750, 750]", (200, 100), "pad") == [BOX]
    assert style.find("[0, 0, 1000, 200]", (200, 100), "pad") == []  # in the padding
    assert style.write(Box((0.0, 0.0, 0.2, 1.0)), (200, 100)) == ""  # cut off


def test_shares_of_a_small_square_keep_the_pixels_of_a_large_image():
    style = box_style({"box_write": "shares", "box_frame": "shown"}, Preprocess(40).frame)
    box = Box((12_345 / 50_000, 0.1, 12_346 / 50_000, 0.2))
    text = style.write(box, (50_000, 20_000), "pad")
    # The image is made 8,192 x 3,277 before it is padded, which is why 0.34 is not exact.
    assert text == "[0.24690, 0.33993, 0.24692, 0.37993]"
    (found,) = style.find(text, (50_000, 20_000), "pad")
    assert [round(edge) for edge in found.pixels((50_000, 20_000))] == [12_345, 2_000, 12_346, 4_000]


def test_answers_in_another_notation_are_no_boxes_of_the_run():
    style = box_style({"box_write": "coloninst"})
    assert style.find("[500, 500, 750, 999]", (200, 100)) == []
    assert len(box_style({}).find("[500, 500, 750, 999] {<1><2><3><4>}", (200, 100))) == 2


def test_sources_that_agree_say_how_the_run_writes():
    agreed = [{"source": "a", "box_write": "qwen"}, {"source": "b", "box_write": "qwen", "box_answer": "head"}]
    assert box_style({"sources": agreed}) == BoxStyle(written="qwen")
    assert box_style({"sources": [*agreed, {"source": "c"}]}) == BoxStyle()
    assert box_style({"sources": agreed, "box_write": "shares"}) == BoxStyle(written="shares")
    assert box_style({"box_answer": "head", "box_frame": "original"}) == BoxStyle(by_head=True)


def test_a_style_goes_to_other_processes():
    style = pickle.loads(pickle.dumps(box_style({"box_frame": "shown"}, Preprocess(40).frame)))
    assert style.write(BOX, (200, 100)) == "[500, 500, 999, 999]"


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    st.tuples(*[st.integers(2, 3000)] * 2),
    st.sampled_from([None, "crop", "pad", "squash"]),
    st.sampled_from(NOTATIONS),
    st.booleans(),
    st.data(),
)
def test_what_is_written_is_found_again(size, fit, notation, shown, data):
    side = 3000
    style = BoxStyle(written=notation, shown=shown, frame=Preprocess(side).frame)
    x1, y1 = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, size[0])), data.draw(st.integers(y1 + 1, size[1]))
    box = Box((x1 / size[0], y1 / size[1], x2 / size[0], y2 / size[1]))
    text = style.write(box, size, fit)
    if not text:
        return
    (found,) = style.find(text, size, fit)
    if shown and fit in (None, "crop"):
        box = Box(style.frame(size, fit).to_original(style.frame(size, fit).to_shown(box.edges)))
    # A square of 3,000 pixels is finer than any of these images; thousandths are as coarse as they are.
    most = 0.5 + 1e-6 if notation in ("coloninst", "shares") else 1 + max(size) / 500
    assert all(abs(a - b) < most for a, b in zip(found.pixels(size), box.pixels(size), strict=True))
