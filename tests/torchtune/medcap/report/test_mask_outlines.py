import re

import numpy as np
import pytest

from helpers.mask_rows import mask_of
from medcap.report.mask_outlines import MOST_CORNERS, MOST_SIDE, outline


def filled(path, shape):
    """The pixels inside of a path, by the even-odd rule."""
    crossed = np.zeros((shape[0], shape[1] + 1), int)
    x = y = top = 0
    for letter, first, second in re.findall(r"([Mhvz])(-?\d*) ?(\d*)", path):
        if letter == "M":
            x, y = int(first), int(second)
            top = y
        elif letter == "h":
            x += int(first)
        else:
            end = y + int(first) if letter == "v" else top
            crossed[min(y, end) : max(y, end), x] += 1
            y = end
    return (np.cumsum(crossed, axis=1) % 2)[:, : shape[1]].astype(bool)


def test_a_path_goes_around_each_part_and_each_hole():
    assert outline(mask_of("....", ".##.", ".##.")).path == "M1 1h2v2h-2z"
    assert outline(mask_of("###", "#.#", "###")).path == "M0 0h3v3h-3zM1 2h1v-1h-1z"
    # Pixels that touch only at a corner are two parts.
    assert outline(mask_of("#.", ".#")).path == "M0 0h1v1h-1zM1 1h1v1h-1z"
    assert outline(mask_of("....", ".##.", ".##.")).edges == (1, 1, 3, 3)


def test_a_path_holds_exactly_the_pixels_of_its_mask():
    random = np.random.default_rng(0)
    for share in (0.1, 0.4, 0.5, 0.6, 0.9):
        mask = random.random((13, 29)) < share
        assert (filled(outline(mask).path, mask.shape) == mask).all()


def test_a_large_mask_is_drawn_as_finely_as_a_page_shows_it():
    mask = np.zeros((900, 2 * MOST_SIDE + 3), bool)
    mask[300:600, 90:303] = True
    found = outline(mask)
    assert (found.unit, found.edges, found.path) == (3, (90, 300, 303, 600), "M30 100h71v100h-71z")
    # What is smaller than a pixel of the page is seen all the same.
    mask[:] = False
    mask[10, 20] = True
    assert outline(mask).path == "M6 3h1v1h-1z"


def test_a_mask_of_specks_is_drawn_coarsely():
    found = outline(np.random.default_rng(0).random((300, 300)) < 0.5)
    # Where two parts touch, a corner has four edges.
    assert found.unit == 4 and len(re.findall("[hvz]", found.path)) <= 2 * MOST_CORNERS


@pytest.mark.parametrize("shape", [(1, 1), (3, 4)])
def test_an_empty_mask_has_no_outline(shape):
    assert outline(np.zeros(shape, bool)) is None
