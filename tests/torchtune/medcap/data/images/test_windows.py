"""Windows of pictures that are not medical files: greys of more than 8 bits have values, others are levels already."""

import io

import numpy as np
import pytest
from PIL import Image

from helpers.raster_files import png_bytes, tiff_bytes
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.views import View
from medcap.errors import UserError

VALUES = np.random.default_rng(1).integers(0, 4000, (5, 7)).astype(np.uint16)
THREE = ((1000.0, 2000.0), (500.0, 300.0), (3000.0, 100.0))


def through(values, windows=THREE):
    channels = [np.clip((values.astype(np.float64) - c + w / 2) * 255 / w, 0, 255) for c, w in windows]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def opened(path, view):
    return np.asarray(ImageReader([path.parent]).open(ImageRef(str(path), view)))


@pytest.mark.parametrize("kind", ["png", "tiff", "float.tiff"])
def test_greys_of_more_than_8_bits_are_seen_through_three_windows(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    values = VALUES.astype(np.float32) if kind == "float.tiff" else VALUES
    Image.fromarray(values).save(path)
    assert np.array_equal(opened(path, View(THREE)), through(VALUES))
    assert np.array_equal(opened(path, View(THREE[0])), through(VALUES, THREE[:1] * 3))


def test_transparency_is_laid_on_white_in_every_channel(tmp_path):
    alpha = np.where(np.arange(7) < 3, 65535, 0).astype(np.uint16)[None].repeat(5, axis=0)
    (tmp_path / "a.png").write_bytes(png_bytes(np.stack([VALUES, alpha], axis=-1), 16, 4))
    expected = np.where((np.arange(7) < 3)[None, :, None], through(VALUES), 255)
    assert np.array_equal(opened(tmp_path / "a.png", View(THREE)), expected)


def test_pictures_of_8_bits_stay_as_they_are(tmp_path):
    grey = Image.fromarray((VALUES // 16).astype(np.uint8))
    colours = Image.merge("RGB", [grey, grey.transpose(Image.Transpose.FLIP_TOP_BOTTOM), grey])
    for name, picture in (("grey.png", grey), ("colours.png", colours)):
        picture.save(tmp_path / name)
        for window in (THREE, THREE[0], 1):
            assert np.array_equal(opened(tmp_path / name, View(window)), np.asarray(picture.convert("RGB")))


def test_colours_of_16_bits_have_one_window(tmp_path):
    (tmp_path / "a.tiff").write_bytes(tiff_bytes(np.stack([VALUES] * 3, axis=-1), 16, 2))
    assert np.array_equal(opened(tmp_path / "a.tiff", View(THREE[0])), through(VALUES, THREE[:1] * 3))
    with pytest.raises(UserError, match="has colours, and three windows are for greys: give one window"):
        opened(tmp_path / "a.tiff", View(THREE))


def test_a_picture_has_one_frame(tmp_path):
    Image.fromarray(VALUES).save(tmp_path / "a.png")
    reader, path = ImageReader([tmp_path]), str(tmp_path / "a.png")
    for frames in ("8 even", "all", (0,), 0, "middle"):
        (image,) = reader.expand(ImageRef(path, View(THREE, frames)))
        assert np.array_equal(np.asarray(reader.open(image)), through(VALUES))
    assert reader.expand(ImageRef(path, View(frames="8 even"))) == [ImageRef(path)]
    with pytest.raises(UserError, match="has no frame 1: it has 1"):
        reader.expand(ImageRef(path, View(frames=(0, 1))))
    data = io.BytesIO()
    Image.fromarray(VALUES).save(data, "PNG")
    assert len(list(reader.open_bytes_frames(data.getvalue(), View(THREE, (0, 0))))) == 2
