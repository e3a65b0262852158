import numpy as np
import pytest
from PIL import Image

from medcap.data.images.views import apply_window, square_pixels, stretch
from medcap.errors import UserError


def test_stretch_takes_the_finite_range_or_the_one_given():
    values = np.array([np.nan, 10.0, 20.0, 60.0, np.inf])
    assert stretch(values).tolist() == [0, 0, 51, 255, 0]
    assert stretch(values, 20, 40).tolist() == [0, 0, 0, 255, 0]
    assert stretch(np.array([7, 7])).tolist() == stretch(np.array([np.nan, np.nan])).tolist() == [0, 0]


def test_a_window_is_centre_and_width():
    assert apply_window(np.array([-10, 0, 20, 100, 200]), 50, 100).tolist() == [0, 0, 51, 255, 255]


def test_a_window_that_is_too_narrow_for_a_float_is_a_threshold():
    assert apply_window(np.array([999, 1000, 1001, np.nan]), 1000, 1e-30).tolist() == [0, 0, 255, 0]


@pytest.mark.parametrize("scale", [1e-315, 1e-300, 1e300, 1e307])
def test_stretch_of_very_small_and_very_large_values(scale):
    assert stretch(np.array([-5, 0, 10, 10]) * scale).tolist() == [0, 85, 255, 255]


@pytest.mark.parametrize(
    ("rows", "columns", "size"),
    [
        (1, 1, (40, 20)),
        (3, 1, (40, 60)),
        (0.5, 1, (80, 20)),
        (0, 1, (40, 20)),
        (float("nan"), 1, (40, 20)),
        (1.005, 1, (40, 20)),
    ],
)
def test_pixels_become_square(rows, columns, size):
    assert square_pixels(Image.new("L", (40, 20)), rows, columns, 10_000).size == size


def test_square_pixels_keep_the_cap():
    with pytest.raises(UserError, match="is 40 x 400 with square pixels"):
        square_pixels(Image.new("L", (40, 20)), 20, 1, 10_000)
