import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.views import View
from medcap.data.regions.mask_drawing import MaskDrawing
from medcap.data.regions.region import BoxShape, MaskFile, Region
from medcap.errors import UserError, ViewError


@pytest.fixture
def folder(tmp_path):
    """A picture of 5 x 3 pixels, and a mask of one pixel that is neither on a diagonal nor in the middle."""
    pixels = np.arange(45, dtype=np.uint8).reshape(3, 5, 3) * 5
    Image.fromarray(pixels).save(tmp_path / "image.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    mask = np.zeros((3, 5), dtype=np.uint8)
    mask[2, 3] = 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def opened(folder, shape, alone=False, image="image.png", keep_grey=False):
    reader = ImageReader([folder])
    return np.array(reader.open(ImageRef(str(folder / image), drawing=MaskDrawing(Region(shape), alone)), keep_grey))


def brute_force(pixels, inside):
    """MedPLIB's formula, a pixel at a time."""
    drawn = pixels.copy()
    for row, column in np.argwhere(inside):
        for channel, colour in enumerate((118, 158, 224)):
            value = np.float32(pixels[row, column, channel]) * np.float32(0.45) + np.float32(colour) * np.float32(0.55)
            drawn[row, column, channel] = int(value)
    return drawn


def test_a_mask_is_laid_over_its_own_pixel_of_a_picture_that_is_not_square(folder):
    shown = opened(folder, MaskFile("mask.png"))
    plain = np.array(Image.open(folder / "image.png"))
    assert plain[2, 3].tolist() == [195, 200, 205]
    # .45 * 195 + .55 * 118 = 152.65, .45 * 200 + .55 * 158 = 176.9, .45 * 205 + .55 * 224 = 215.45
    assert shown[2, 3].tolist() == [152, 176, 215]
    shown[2, 3] = plain[2, 3]
    assert np.array_equal(shown, plain)


def test_every_value_is_that_of_the_formula(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (31, 17, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    inside = np.zeros((31, 17), dtype=bool)
    inside[3:29, 2:14] = True
    shown = opened(tmp_path, BoxShape((2.0, 3.0, 14.0, 29.0)))
    assert np.array_equal(shown, brute_force(pixels, inside))


def test_a_grey_picture_gets_a_coloured_mask(folder):
    shown = opened(folder, MaskFile("mask.png"), image="grey.png", keep_grey=True)
    assert shown.shape == (3, 5, 3) and shown[2, 3].tolist() == [152, 174, 210] and shown[0, 1].tolist() == [15] * 3


def test_a_mask_alone_is_white_on_black(folder):
    shown = opened(folder, MaskFile("mask.png"), alone=True)
    expected = np.zeros((3, 5, 3), dtype=np.uint8)
    expected[2, 3] = 255
    assert np.array_equal(shown, expected)


def test_a_reference_with_a_drawing_is_another_image(folder):
    plain = ImageRef("a.png", View(fit="pad"))
    region = Region(MaskFile("m.png"))
    over, alone = (replace(plain, drawing=MaskDrawing(region, alone)) for alone in (False, True))
    assert len({plain, over, alone, pickle.loads(pickle.dumps(over))}) == 3
    assert str(plain) == "a.png fit=pad"
    assert [str(over), str(alone)] == ["a.png fit=pad overlay=m.png", "a.png fit=pad mask_only=m.png"]
    assert str(MaskDrawing(Region(MaskFile("m.png", 3)))) == "overlay=m.png:3"
    boxes = [MaskDrawing(Region(BoxShape((0.0, 0.0, 1.0, edge)))) for edge in (1.0, 2.0)]
    assert str(boxes[0]).startswith("overlay=BoxShape:") and len({*map(str, boxes)}) == 2 and len(str(boxes[0])) == 33


@pytest.mark.parametrize(
    ("name", "mask", "reason"),
    [
        ("turned.png", np.ones((5, 3), np.uint8), "has 3 x 5 pixels and its image 5 x 3: a mask has the size of"),
        ("empty.png", np.zeros((3, 5), np.uint8), "holds no pixel of its image of 5 x 3"),
    ],
)
def test_a_mask_that_does_not_fit_names_image_and_mask(folder, name, mask, reason):
    Image.fromarray(mask).save(folder / name)
    with pytest.raises(UserError) as error:
        opened(folder, MaskFile(name))
    assert str(error.value).startswith(f"image {folder}/image.png mask {name}") and reason in str(error.value)


def test_a_mask_outside_the_roots_is_refused(folder):
    with pytest.raises(UserError, match=r"lies outside the allowed folders"):
        Image.new("L", (5, 3), 255).save(folder.parent / "outside.png")
        opened(folder, MaskFile("../outside.png"))


def test_a_mask_lies_on_one_picture(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    reader = ImageReader([tmp_path])
    drawing = MaskDrawing(Region(BoxShape((0.0, 0.0, 2.0, 2.0))))
    single = ImageRef(str(tmp_path / "a.png"), View(frames="2 even"), drawing)
    assert reader.expand(single) == [ImageRef(str(tmp_path / "a.png"), drawing=drawing)]
    from helpers.dicom_files import write_dicom

    frames = write_dicom(tmp_path / "frames.dcm", np.zeros((3, 4, 4), dtype=np.uint16))
    with pytest.raises(ViewError, match="means 2 pictures, but a mask lies on one: name one frame"):
        reader.expand(ImageRef(str(frames), View(frames="2 even"), drawing))
