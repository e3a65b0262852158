import io

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

from medcap.data.images.resize import encode, fit, pad_wide
from medcap.errors import UserError


def bright(size, above=1.8):
    """Which rows and columns of a prepared white image are not black."""
    prepared = fit(pad_wide(Image.new("RGB", size, "white"), above), 224)
    assert prepared.size == (224, 224)
    levels = np.asarray(prepared)[..., 0]
    return np.flatnonzero(levels.any(axis=1)), np.flatnonzero(levels.any(axis=0)), levels


def test_golden_values_of_the_predecessor():
    rows, columns, _ = bright((400, 200))
    assert (len(rows), rows[0], len(columns)) == (114, 55, 224)
    _, _, levels = bright((360, 200))
    assert levels.min() == 255  # a ratio of exactly 1.8 is not padded
    assert pad_wide(Image.new("RGB", (361, 200)), 1.8).size == (361, 361)
    rows, columns, _ = bright((200, 405))
    assert (len(columns), columns[0], len(rows)) == (112, 56, 224)


def test_an_odd_difference_has_its_smaller_half_first():
    padded = np.asarray(pad_wide(Image.new("RGB", (3, 10), "white"), 1.8))
    assert np.flatnonzero(padded.any(axis=(0, 2))).tolist() == [3, 4, 5]


def test_padding_can_be_had_for_all_or_none():
    wide = Image.new("RGB", (30, 20))
    assert pad_wide(wide, 1).size == (30, 30)
    assert pad_wide(Image.new("RGB", (300, 20)), 0).size == (300, 20)


@pytest.mark.parametrize("size", [(37, 91), (91, 37), (64, 64), (63, 64), (500, 333), (10, 11), (64, 200)])
@pytest.mark.parametrize("squash", [False, True])
def test_it_is_what_towers_do(size, squash):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    resized = functional.resize(image, [64, 64] if squash else [64], InterpolationMode.BICUBIC)
    expected = functional.center_crop(resized, [64, 64])
    assert fit(image, 64, "squash" if squash else "crop").tobytes() == expected.tobytes()
    if not squash:
        assert fit(image, 64, "shortest").tobytes() == resized.tobytes()


def test_sizes_that_stay_and_that_are_refused():
    image = Image.new("RGB", (30, 20))
    assert fit(image, None) is image
    assert fit(Image.new("RGB", (64, 64)), 64).size == (64, 64)
    with pytest.raises(UserError, match="its long side is too long"):
        fit(Image.new("RGB", (1, 1000)), 224)


@pytest.mark.parametrize("file_format", ["png", "jpeg"])
def test_grey_is_stored_as_grey_and_colour_as_colour(file_format):
    for colour, mode in (((9, 9, 9), "L"), ((9, 9, 200), "RGB")):
        picture = Image.new("RGB", (16, 16), colour)
        picture.info = {"comment": b"a name", "icc_profile": b"x"}
        content = encode(picture, file_format)
        read = Image.open(io.BytesIO(content))
        assert read.mode == mode
        assert b"a name" not in content
        assert np.abs(np.asarray(read.convert("RGB")).astype(int) - colour).max() <= (2 if file_format == "jpeg" else 0)
        assert encode(picture, file_format) == content
