import math
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from medcap.data.images.orientation import turn, turn_values
from medcap.data.images.reader import ImageReader
from medcap.data.regions.draw import draw_region
from medcap.data.regions.region import BoxShape, MaskFile, PointShape, PolygonShape, Region, RunLength
from medcap.data.regions.run_length import encode
from medcap.errors import UserError

SIZE = (7, 4)  # width, height


@pytest.fixture
def reader(tmp_path):
    (tmp_path / "in").mkdir()
    return ImageReader([tmp_path / "in"])


def text(mask):
    return ["".join(".#"[int(inside)] for inside in row) for row in mask]


def draw(shape, size=SIZE, reader=None, **options):
    return draw_region(Region(shape, "liver"), size, reader, **options)


def save(reader, values, name="a.png", mode=None, **options):
    image = values if isinstance(values, Image.Image) else Image.fromarray(np.asarray(values), mode)
    image.save(reader.roots[0] / name, **options)
    return MaskFile(name)


def even_odd(points, x, y):
    """Whether a point is inside, by the textbook's ray."""
    inside = False
    for (x1, y1), (x2, y2) in zip(points, [*points[1:], points[0]], strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
            inside = not inside
    return inside


def test_a_box_a_point_and_a_polygon_on_a_wide_image():
    assert text(draw(BoxShape((1.0, 1.0, 4.0, 3.0)))) == [".......", ".###...", ".###...", "......."]
    # A pixel is inside if its centre is: 1.5 lies on the left edge and is inside, 4.5 on the right edge and is not.
    assert text(draw(BoxShape((1.5, 0.6, 4.5, 99.0)))) == [".......", ".###...", ".###...", ".###..."]
    assert text(draw(PointShape(2.5, 1.5, 1.0))) == ["..#....", ".###...", "..#....", "......."]
    assert text(draw(PolygonShape(((0.0, 0.0), (7.0, 0.0), (0.0, 4.0))))) == [
        "######.",
        "####...",
        "###....",
        "#......",
    ]


def test_shapes_that_reach_beyond_the_image_are_cut():
    assert draw(BoxShape((-50.0, -50.0, 50.0, 50.0))).all()
    assert draw(PolygonShape(((-1e8, -1e8), (1e8, -1e8), (1e8, 1e8), (-1e8, 1e8)))).all()
    assert text(draw(PointShape(-1.0, 1.0, 2.2))) == ["#......", "#......", "#......", "......."]


@pytest.mark.parametrize("size", [(23, 11), (9, 31), (1, 17)])
def test_drawing_is_that_of_each_centre_by_itself(size):
    generator = np.random.default_rng(1)
    columns, rows = [column + 0.5 for column in range(size[0])], [row + 0.5 for row in range(size[1])]
    for trial in range(60):
        scale = np.array(size) * 1.4
        points = [
            tuple(map(float, point)) for point in generator.random((int(generator.integers(3, 9)), 2)) * scale - 2
        ]
        if trial % 3 == 0:  # corners on centres and edges of pixels
            points = [(math.floor(2 * x) / 2, math.floor(2 * y) / 2) for x, y in points]
        expected = [[even_odd(points, x, y) for x in columns] for y in rows]
        assert draw(PolygonShape(tuple(points)), size, may_be_empty=True).tolist() == expected
        (x1, y1), (x2, y2) = np.sort(np.array(points[:2]), axis=0).tolist()
        expected = [[x1 <= x < x2 and y1 <= y < y2 for x in columns] for y in rows]
        assert draw(BoxShape((x1, y1, x2, y2)), size, may_be_empty=True).tolist() == expected
        radius = 0.5 + 5 * float(generator.random())
        expected = [[(x - x1) ** 2 + (y - y1) ** 2 <= radius**2 for x in columns] for y in rows]
        assert draw(PointShape(x1, y1, radius), size, may_be_empty=True).tolist() == expected


def test_medplibs_rule_and_a_value(reader):
    mask = save(reader, np.array([[0, 1, 2], [3, 255, 0]], np.uint8))
    assert text(draw(mask, (3, 2), reader)) == [".##", "##."]
    assert text(draw(MaskFile("a.png", 3), (3, 2), reader)) == ["...", "#.."]
    assert text(draw(MaskFile("a.png", 0), (3, 2), reader)) == ["#..", "..#"]
    with pytest.raises(
        UserError, match=r"mask a.png \(liver\) holds no pixel .* the value 7; the file holds 0, 1, 2, 3, 255$"
    ):
        draw(MaskFile("a.png", 7), (3, 2), reader)


def test_bits_palettes_and_channels(reader):
    deep = save(reader, np.array([[0, 1, 256], [700, 0, 0]], np.uint16), "deep.png")
    assert text(draw(deep, (3, 2), reader)) == [".##", "#.."]
    assert text(draw(MaskFile("deep.png", 700), (3, 2), reader)) == ["...", "#.."]
    save(reader, np.array([[0, 1, 256], [700, 0, 0]], np.uint16), "deep.tif")
    assert text(draw(MaskFile("deep.tif", 256), (3, 2), reader)) == ["..#", "..."]
    save(reader, Image.fromarray(np.array([[0, 1, 0]], bool)), "one.png")
    assert text(draw(MaskFile("one.png", 1), (3, 1), reader)) == [".#."]
    # Indices of a palette count, also those whose colour is black.
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    palette.putdata([0, 1, 2])
    palette.putpalette([255, 255, 255, 0, 0, 0, 0, 0, 0])
    save(reader, palette, "palette.png")
    assert text(draw(MaskFile("palette.png"), (3, 1), reader)) == [".##"]
    assert text(draw(MaskFile("palette.png", 2), (3, 1), reader)) == ["..#"]
    grey = np.array([[0, 7, 255]], np.uint8)
    save(reader, np.stack([grey] * 3, axis=2), "rgb.png")
    assert text(draw(MaskFile("rgb.png", 7), (3, 1), reader)) == [".#."]
    save(reader, np.stack([grey, grey, grey, np.full_like(grey, 255)], axis=2), "rgba.png")
    assert text(draw(MaskFile("rgba.png"), (3, 1), reader)) == [".##"]
    save(reader, grey, "few.gif")
    assert draw(MaskFile("few.gif"), (3, 1), reader).sum() >= 2
    save(reader, grey, "a.bmp")
    assert text(draw(MaskFile("a.bmp", 255), (3, 1), reader)) == ["..#"]


def test_few_bits_of_grey_are_not_scaled(reader):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes([0, 0b00_01_10_11])))
    data = b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")
    (reader.roots[0] / "two.png").write_bytes(data)
    assert text(draw(MaskFile("two.png", 2), (4, 1), reader)) == ["..#."]


def test_jpeg_masks_have_no_halo(reader):
    mask = np.zeros((32, 48), np.uint8)
    mask[8:24, 8:40] = 255
    save(reader, mask, "a.jpg", quality=60)
    assert draw(MaskFile("a.jpg"), (48, 32), reader).tolist() == (mask > 0).tolist()
    with pytest.raises(UserError, match=r"mask file a\.jpg is JPEG"):
        draw(MaskFile("a.jpg", 255), (48, 32), reader)


def test_a_mask_is_turned_as_its_image_is(reader):
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for orientation in range(1, 9):
        assert np.array_equal(turn_values(values, orientation), np.asarray(turn(Image.fromarray(values), orientation)))
    exif = Image.Exif()
    exif[0x0112] = 6
    save(reader, values, "turned.png", exif=exif)
    assert text(draw(MaskFile("turned.png", 5), (2, 3), reader)) == ["..", "..", "#."]


def test_a_run_length_and_an_empty_one():
    mask = np.zeros((4, 7), bool)
    mask[1:3, 2:6] = True
    value = encode(mask)
    assert draw(RunLength((4, 7), value["counts"])).tolist() == mask.tolist()
    empty = RunLength((4, 7), encode(np.zeros((4, 7), bool))["counts"])
    with pytest.raises(UserError, match=r"the run-length of a region \(liver\) holds no pixel of its image of 7 x 4"):
        draw(empty)
    assert not draw(empty, may_be_empty=True).any()
    with pytest.raises(UserError, match="its counts are damaged"):
        draw(RunLength((4, 7), "714"))


def test_regions_that_cannot_be_drawn(reader, tmp_path):
    save(reader, np.ones((4, 6), np.uint8))
    colours = np.zeros((4, 7, 3), np.uint8)
    colours[0, 0] = 255, 0, 0
    save(reader, colours, "red.png")
    save(reader, np.dstack([np.ones((4, 7), np.uint8) * 9] * 3 + [np.eye(4, 7, dtype=np.uint8)]), "holes.png")
    save(reader, np.ones((4, 7), np.uint8), "a.webp", lossless=True)
    (reader.roots[0] / "text.png").write_text("no image")
    (tmp_path / "out.png").write_bytes((reader.roots[0] / "a.png").read_bytes())
    save(reader, np.zeros((4, 7), np.uint8), "empty.png")
    cases = {
        "a.png": r"mask a.png \(liver\) has 6 x 4 pixels and its image 7 x 4: a mask has the size",
        "red.png": "red.png has colours, and a mask needs one value a pixel",
        "holes.png": "holes.png is partly transparent",
        "a.webp": "a.webp is WEBP, and values of pixels are read from PNG, TIFF, BMP, GIF, JPEG files",
        "text.png": "text.png is not a readable image",
        "missing.png": "image missing.png does not exist in",
        "../out.png": "lies outside the allowed folders",
        str(tmp_path / "out.png"): "lies outside the allowed folders",
        "empty.png": r"mask empty.png \(liver\) holds no pixel of its image of 7 x 4$",
    }
    for name, words in cases.items():
        with pytest.raises(UserError, match=words) as error:
            draw(MaskFile(name), reader=reader)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"the box of a region \(liver\) \[10.0, 1.0, 12.0, 3.0\] holds no pixel"):
        draw(BoxShape((10.0, 1.0, 12.0, 3.0)))
    with pytest.raises(UserError, match=r"the point of a region \(liver\) at \(3, 2\) with radius 0.1 holds no pixel"):
        draw(PointShape(3.0, 2.0, 0.1))
    with pytest.raises(UserError, match=r"mask file a\.png cannot be read here"):
        draw(MaskFile("a.png"))


def test_a_bomb_is_refused_before_it_is_decoded(reader):
    small = ImageReader(reader.roots, max_pixels=20)
    save(reader, np.ones((4, 7), np.uint8), "big.png")
    with pytest.raises(UserError, match="is 7 x 4, more than the 20 pixels allowed"):
        draw(MaskFile("big.png"), reader=small)
