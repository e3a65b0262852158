import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_processing_utils import select_best_resolution

from medcap.data.images.tiles import Tiles, best_resolution
from medcap.errors import UserError
from medcap.models.preprocess import Preprocess

# LLaVA-NeXT's own resolutions, as image_grid_pinpoints of its checkpoints with a tower of 336 pixels.
PINPOINTS = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]  # width, height


@pytest.mark.parametrize(
    ("size", "chosen"),
    [
        ((1000, 500), (672, 336)),
        ((500, 1000), (336, 672)),
        ((800, 800), (672, 672)),
        ((1024, 768), (672, 672)),
        ((3000, 900), (1008, 336)),
        ((400, 2000), (336, 1008)),
        ((640, 480), (672, 672)),
        ((100, 100), (336, 672)),
        ((1, 9000), (336, 672)),
    ],
)
def test_the_choice_among_llava_nexts_resolutions(size, chosen):
    assert best_resolution(size, PINPOINTS) == chosen


def test_the_choice_is_that_of_transformers_for_any_shape():
    random = np.random.default_rng(0)
    for width, height in random.integers(1, 3000, (500, 2)).tolist():
        theirs = select_best_resolution((height, width), [(high, wide) for wide, high in PINPOINTS])
        assert best_resolution((width, height), PINPOINTS) == theirs[::-1]


@pytest.mark.parametrize(
    ("size", "grid", "pictures"),
    [
        ((8, 8), (1, 1), 1),
        ((3, 8), (1, 1), 1),
        ((16, 16), (2, 2), 5),
        ((40, 16), (3, 1), 4),
        ((16, 40), (1, 3), 4),
        ((64, 16), (4, 1), 5),
        ((900, 60), (4, 1), 5),
        ((900, 20), (1, 1), 1),
        ((12, 8), (2, 1), 3),
    ],
)
def test_the_grid_follows_the_shape_and_a_small_image_has_none(size, grid, pictures):
    tiles = Tiles(8, 4)
    assert (tiles.grid(size), tiles.num_pictures(size)) == (grid, pictures)
    assert tiles.most_pictures == 5


def test_the_examples_of_the_documents():
    tiles = Tiles(224, 4)
    shapes = ((200, 150), (1000, 500), (1500, 500), (2048, 2048))
    assert [tiles.grid(shape) for shape in shapes] == [(1, 1), (2, 1), (3, 1), (2, 2)]
    assert [196 * tiles.num_pictures(shape) for shape in shapes] == [196, 588, 784, 980]


def test_the_whole_image_comes_first_then_crops_in_reading_order():
    # Four quarters of one grey each; the picture is twice as large as a crop.
    values = np.kron([[10, 60], [110, 160]], np.ones((4, 4))).astype(np.uint8)
    pictures = Tiles(4, 4).cut(Image.fromarray(values), Image.Resampling.BILINEAR)
    assert [picture.size for picture in pictures] == [(4, 4)] * 5
    assert [np.asarray(picture)[0, 0] for picture in pictures] == [10, 10, 60, 110, 160]
    assert np.asarray(pictures[0])[3, 3] == 160


def test_an_image_keeps_its_proportions_in_the_middle_of_a_black_grid():
    pictures = Tiles(4, 4).cut(Image.new("RGB", (20, 6), (200, 0, 0)), Image.Resampling.BICUBIC)
    grid = np.concatenate([np.asarray(picture)[..., 0] for picture in pictures[1:]], axis=1)  # [4, 16]
    # The row of crops is 16 x 4: the image becomes 13.3 x 4 of it.
    assert (grid[:, 1:15] == 200).all() and not grid[:, 0].any() and not grid[:, 15].any()


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (7, 7, 7)), ("L", 7)])
def test_a_transform_makes_as_many_pictures_as_the_size_says(mode, colour):
    preprocess = Preprocess(8, tiles=4)
    for size in ((8, 8), (16, 16), (40, 16), (3, 500)):
        pixels = preprocess.transform()(Image.new(mode, size, colour))
        assert pixels.shape == (preprocess.tiling.num_pictures(size), 3, 8, 8)
        assert pixels.dtype == torch.uint8
        assert pixels[0].unique().tolist() == [7]
    with pytest.raises(ValueError, match="mode RGBA"):
        preprocess.transform()(Image.new("RGBA", (4, 4)))


def test_without_tiles_a_description_is_what_it_was():
    plain = Preprocess(8)
    assert plain.tiling is None and "tiles" not in plain.to_dict()
    assert plain.transform()(Image.new("L", (40, 16))).shape == (3, 8, 8)
    tiled = Preprocess(8, tiles=3)
    assert tiled.to_dict()["tiles"] == 3 and Preprocess.from_dict(tiled.to_dict()) == tiled


@pytest.mark.parametrize("tiles", [1, -1, 2.5, True, "4", None])
def test_an_impossible_number_of_tiles_is_refused(tiles):
    with pytest.raises(UserError, match="must be a whole number from 2, or 0"):
        Preprocess(8, tiles=tiles)
