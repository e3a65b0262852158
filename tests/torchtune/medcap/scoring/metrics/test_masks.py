import math

import numpy as np
import pytest
from PIL import Image

from helpers.mask_rows import mask_of
from medcap.scoring.metrics.masks import hausdorff_95, overlap, resize_nearest


def test_intersection_and_union():
    assert overlap(mask_of("##.", "..#"), mask_of(".##", "..#")) == (2, 4)


def test_resizing_takes_the_pixel_under_each_centre():
    mask = mask_of("#..", ".##")
    assert resize_nearest(mask, (2, 3)) is mask
    assert resize_nearest(mask, (4, 6)).tolist() == np.kron(mask, np.ones((2, 2), bool)).tolist()
    generator = np.random.default_rng(0)
    for _ in range(100):
        old, new = generator.integers(1, 20, 2), generator.integers(1, 20, 2)
        mask = generator.random(old) < 0.5
        wide = Image.fromarray(mask.astype(np.uint8)).resize((int(new[1]), int(new[0])), Image.Resampling.NEAREST)
        # Pillow rounds either way where a centre lies between two pixels.
        clear = [(2 * np.arange(after) + 1) * before % (2 * after) != 0 for before, after in zip(old, new, strict=True)]
        differs = resize_nearest(mask, (int(new[0]), int(new[1]))) != np.asarray(wide)
        assert not (differs & np.outer(*clear)).any()


def by_definition(first, second):
    """The 95 % Hausdorff distance of border pixels, each distance by itself."""

    def border(mask):
        height, width = mask.shape
        return [
            (y, x)
            for y in range(height)
            for x in range(width)
            if mask[y, x]
            and not all(
                0 <= y + dy < height and 0 <= x + dx < width and mask[y + dy, x + dx]
                for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))
            )
        ]

    def away(one, other):
        return np.percentile([min(math.dist(point, end) for end in other) for point in one], 95)

    return max(away(border(first), border(second)), away(border(second), border(first)))


def test_hausdorff_distance():
    line = mask_of("#...", "#...", "#...")
    assert hausdorff_95(line, line) == 0.0
    assert hausdorff_95(line, mask_of("...#", "...#", "...#")) == 3.0
    point = np.zeros((9, 9), bool)
    point[1, 1] = True
    assert hausdorff_95(point, point.T[::-1, ::-1]) == pytest.approx(math.hypot(6, 6))
    generator = np.random.default_rng(1)
    for _ in range(60):
        shape = generator.integers(2, 14, 2)
        first, second = (generator.random(shape) < generator.choice([0.1, 0.6, 0.95]) for _ in range(2))
        if first.any() and second.any():
            assert hausdorff_95(first, second) == pytest.approx(by_definition(first, second), abs=1e-12)
