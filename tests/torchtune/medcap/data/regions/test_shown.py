"""Masks on the square that a tower is shown, and back: against the picture itself, and a count of fine points."""

import numpy as np
import pytest
import torch

from medcap.data.boxes.frame import Frame
from medcap.data.regions.shown import original_mask, shown_mask
from medcap.models.preprocess import Preprocess

SIZES = [(40, 40), (60, 24), (24, 60), (7, 90), (33, 21)]
FITS = ["crop", "pad", "squash", "pad_corner"]


def blob(size):
    """A disc and a bar, off the centre."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    disc = ((x - width * 0.4) / width) ** 2 + ((y - height * 0.55) / height) ** 2 < 0.06
    return disc | (x == width - 1)


def counted(mask, frame, side, fine=16):
    """How much of each cell is inside, by ``fine`` x ``fine`` points in each."""
    (across, left), (down, top) = frame.axes()
    places = (np.arange(side * fine) + 0.5) / (side * fine)
    x, y = ((places - left) / across * mask.shape[1], (places - top) / down * mask.shape[0])
    known = ((y >= 0) & (y < mask.shape[0]))[:, None] & ((x >= 0) & (x < mask.shape[1]))[None]
    rows, columns = np.clip(y.astype(int), 0, mask.shape[0] - 1), np.clip(x.astype(int), 0, mask.shape[1] - 1)
    points = np.stack([mask[rows[:, None], columns[None]] & known, known])
    return points.reshape(2, side, fine, side, fine).mean(axis=(2, 4))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fit", FITS)
def test_a_mask_covers_of_each_pixel_what_its_parts_do(size, fit):
    frame = Frame(size, fit, 16)
    shown = shown_mask(blob(size), frame, 16)
    assert shown.shape == (2, 16, 16) and shown.dtype == np.uint8
    np.testing.assert_allclose(shown / 255, counted(blob(size), frame, 16), atol=0.13)
    assert abs(shown / 255 - counted(blob(size), frame, 16)).mean() < 0.02


@pytest.mark.parametrize("size", SIZES[1:3])
@pytest.mark.parametrize("fit", FITS)
def test_a_mask_lies_where_the_tower_is_shown_it(size, fit):
    """A white mask on black is, as a picture, what the tower is shown of it."""
    from PIL import Image

    mask = blob(size)
    picture = Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB")
    preprocess = Preprocess(16, mean=(0.0, 0.0, 0.0), interpolation="bilinear")
    pixels = preprocess.transform()(picture, fit=fit)[0].numpy()
    shown = shown_mask(mask, preprocess.frame(size, fit), 16)[0]
    # The tower's filter is wider than a pixel: edges are softer, but in the same place.
    assert ((pixels > 127) == (shown > 127)).mean() > 0.96
    assert np.corrcoef(pixels.ravel(), shown.ravel())[0, 1] > 0.96


@pytest.mark.parametrize("size", [(40, 40), (60, 24), (24, 60), (33, 21)])
@pytest.mark.parametrize("fit", FITS)
def test_back_on_the_original_a_mask_is_the_same(size, fit):
    mask, frame = blob(size), Frame(size, fit, 128)
    logits = torch.from_numpy(shown_mask(mask, frame, 128)[0].astype(np.float32)) - 127.5
    back = original_mask(logits, frame)
    assert back.shape == mask.shape
    x1, y1, x2, y2 = frame.to_original((0.0, 0.0, 1.0, 1.0))
    width, height = size
    y, x = (np.mgrid[:height, :width] + 0.5) / np.array([height, width])[:, None, None]
    seen = (x > x1) & (x < x2) & (y > y1) & (y < y2)
    # Where the square cuts a pixel of the original in two, its centre decides.
    assert (back == (mask & seen)).mean() > 0.99
    assert not back[~seen].any()


def test_one_of_two_halves_is_exact():
    mask = np.zeros((2, 4), bool)
    mask[:, :2] = True
    assert shown_mask(mask, Frame((4, 2), "pad", 4), 4)[0].tolist() == [
        [0, 0, 0, 0],
        [255, 255, 0, 0],
        [255, 255, 0, 0],
        [0, 0, 0, 0],
    ]
    assert shown_mask(mask, Frame((4, 2), "pad", 4), 4)[1].tolist() == [[0] * 4, [255] * 4, [255] * 4, [0] * 4]
    assert shown_mask(mask, Frame((4, 2), "crop", 2), 2)[0].tolist() == [[255, 0], [255, 0]]
    assert shown_mask(mask, Frame((4, 2), "squash", 3), 3)[0, 0].tolist() == [255, 128, 0]


@pytest.mark.parametrize("fit", FITS)
def test_a_square_mask_at_its_own_size_stays_as_it_is(fit):
    shown = shown_mask(blob((40, 40)), Frame((40, 40), fit, 40), 40)
    assert np.array_equal(shown[0], 255 * blob((40, 40)))
    assert (shown[1] == 255).all()
