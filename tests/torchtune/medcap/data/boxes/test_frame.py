import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medcap.data.boxes.frame import Frame, clip
from medcap.models.preprocess import Preprocess


@pytest.mark.parametrize(
    ("size", "fit", "side", "edges", "shown"),
    [
        ((200, 100), "pad", None, (0.0, 0.0, 0.5, 1.0), (0.0, 0.25, 0.5, 0.75)),
        ((100, 200), "pad_mean", 50, (0.0, 0.5, 1.0, 1.0), (0.25, 0.5, 0.75, 1.0)),
        # An odd margin: the smaller half is above.
        ((10, 5), "pad", None, (0.0, 0.0, 1.0, 1.0), (0.0, 0.2, 1.0, 0.7)),
        # The middle 100 of 200 columns are shown.
        ((200, 100), "crop", None, (0.25, 0.0, 0.5, 1.0), (0.0, 0.0, 0.5, 1.0)),
        ((200, 100), "crop", 50, (0.0, 0.5, 1.0, 0.75), (0.0, 0.5, 1.0, 0.75)),
        ((200, 100), "crop", 50, (0.0, 0.0, 0.25, 1.0), None),
        # 7 x 3 becomes 9 x 4 pixels, not 9.33 x 4, and (9 - 4) / 2 is rounded to 2.
        ((7, 3), "crop", 4, (2 / 9, 0.0, 4 / 9, 1.0), (0.0, 0.0, 0.5, 1.0)),
        ((200, 100), "squash", 50, (0.1, 0.2, 0.3, 0.4), (0.1, 0.2, 0.3, 0.4)),
        # A strip of 100 to 1 loses 25 at both ends before it is resized.
        ((100, 1), "crop", 10, (0.49, 0.0, 0.51, 1.0), (0.0, 0.0, 1.0, 1.0)),
    ],
)
def test_a_box_lies_where_the_tower_is_shown_it(size, fit, side, edges, shown):
    found = Frame(size, fit, side).to_shown(edges)
    assert found == (None if shown is None else pytest.approx(shown, abs=1e-12))


def test_a_box_in_the_padding_is_none_of_the_image():
    frame = Frame((200, 100), "pad")
    assert frame.to_original((0.0, 0.0, 1.0, 0.25)) is None
    assert frame.to_original((0.0, 0.0, 0.5, 0.5)) == (0.0, 0.0, 0.5, 0.5)


@pytest.mark.parametrize("edges", [(0.5, 0.0, 0.5, 1.0), (1.0, 0.0, 2.0, 1.0), (-1.0, 0.0, 0.0, 1.0), (0.6, 0, 0.4, 1)])
def test_a_box_outside_or_of_no_area_is_nothing(edges):
    assert clip(edges) is None


@pytest.mark.parametrize(
    ("keys", "fit", "expected"),
    [
        ({}, None, "crop"),
        ({"resize_mode": "squash"}, None, "squash"),
        ({"resize_mode": "squash"}, "crop", "crop"),
        ({}, "pad_mean", "pad_mean"),
        ({"tiles": 4}, None, "squash"),
        ({"resize_mode": "pad_corner"}, None, "pad_corner"),
    ],
)
def test_the_view_says_how_an_image_is_shown_before_the_tower_does(keys, fit, expected):
    assert Preprocess(32, **keys).frame((20, 10), fit) == Frame((20, 10), expected, 32)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.tuples(*[st.integers(40, 300)] * 2), st.sampled_from(["crop", "pad", "squash", "pad_corner"]), st.data())
def test_a_frame_is_where_the_transform_puts_a_white_rectangle(size, fit, data):
    width, height = size
    x1, y1 = data.draw(st.integers(0, width - 20)), data.draw(st.integers(0, height - 20))
    x2, y2 = data.draw(st.integers(x1 + 20, width)), data.draw(st.integers(y1 + 20, height))
    image = Image.new("L", size)
    image.paste(255, (x1, y1, x2, y2))
    preprocess = Preprocess(64, mean=(0.0, 0.0, 0.0), interpolation="bilinear")
    pixels = preprocess.transform()(image, fit)[0].numpy().astype(float) / 255
    shown = preprocess.frame(size, fit).to_shown((x1 / width, y1 / height, x2 / width, y2 / height))
    if shown is None:
        # Antialiasing spreads an edge over its neighbour.
        assert pixels[1:-1, 1:-1].max() < 0.51
        return
    for axis, (low, high) in enumerate([(shown[0], shown[2]), (shown[1], shown[3])]):
        profile = pixels.max(axis=axis)
        # The white of a profile adds up to the length of the box, wherever its edges cut pixels.
        assert profile.sum() == pytest.approx((high - low) * 64, abs=1.1)
        bright = np.flatnonzero(profile > 0.5)
        if len(bright):
            assert low * 64 - 1 <= bright[0] <= low * 64 + 1
            assert high * 64 - 2 <= bright[-1] <= high * 64


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.tuples(*[st.integers(2, 20_000)] * 2), st.sampled_from(["crop", "pad", "pad_mean", "squash"]), st.data())
def test_what_is_shown_of_a_box_comes_back_to_the_pixel(size, fit, data):
    side = data.draw(st.sampled_from([None, 14, 224, 384]))
    frame = Frame(size, fit, side)
    x1, y1 = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, size[0])), data.draw(st.integers(y1 + 1, size[1]))
    edges = (x1 / size[0], y1 / size[1], x2 / size[0], y2 / size[1])
    shown = frame.to_shown(edges)
    if fit != "crop":
        assert frame.to_original(shown) == pytest.approx(edges, abs=1e-9)
    elif shown is not None:
        back = frame.to_original(shown)
        visible = frame.to_original((0.0, 0.0, 1.0, 1.0))
        expected = (*(max(e, v) for e, v in zip(edges[:2], visible[:2], strict=True)),)
        expected += (*(min(e, v) for e, v in zip(edges[2:], visible[2:], strict=True)),)
        assert back == pytest.approx(expected, abs=1e-9)
