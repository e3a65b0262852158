import numpy as np
import pytest
from PIL import Image

from medcap.data.images import ImageReader
from medcap.errors import UserError


@pytest.fixture
def reader(tmp_path):
    (tmp_path / "in").mkdir()
    return ImageReader([tmp_path / "in"])


def save(reader, name, image, **options):
    path = reader.roots[0] / name
    image.save(path, **options)
    return path


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image)


def test_sixteen_bit_grey_is_stretched_from_its_own_range(reader):
    values = np.array([[1000, 1500], [2000, 3000]], dtype=np.uint16)
    path = save(reader, "deep.png", Image.fromarray(values))
    assert pixels(reader.open(path))[..., 0].tolist() == [[0, 64], [128, 255]]


def test_float_tiff_with_holes_and_constant_image(reader):
    values = np.array([[0.0, np.nan], [0.5, 1.0]], dtype=np.float32)
    path = save(reader, "float.tiff", Image.fromarray(values))
    assert pixels(reader.open(path))[..., 1].tolist() == [[0, 0], [128, 255]]
    flat = save(reader, "flat.png", Image.fromarray(np.full((2, 2), 7000, dtype=np.uint16)))
    assert pixels(reader.open(flat)).max() == 0


def test_palette_is_expanded_to_its_colours(reader):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    path = save(reader, "palette.png", image)
    assert pixels(reader.open(path)).tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_transparency_is_laid_on_white(reader):
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (10, 20, 30, 0))
    path = save(reader, "alpha.png", image)
    assert pixels(reader.open(path)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_cmyk_jpeg_becomes_rgb(reader):
    path = save(reader, "print.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=95)
    red, green, blue = pixels(reader.open(path))[4, 4]
    assert red > 200
    assert green < 60
    assert blue < 60


def test_exif_rotation_is_applied(reader):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(reader, "turned.jpg", Image.new("L", (20, 10)), exif=exif)
    assert reader.open(path).size == (10, 20)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "YCbCr"])
def test_other_modes(reader, mode):
    name = "x.jpg" if mode == "YCbCr" else "x.png"
    assert reader.open(save(reader, name, Image.new(mode, (3, 3)))).mode == "RGB"


def test_relative_path_is_found_in_a_root(reader):
    path = save(reader, "a.png", Image.new("L", (2, 2)))
    assert reader.resolve("a.png") == path
    assert reader.resolve(str(path)) == path


def test_medcap_folder_is_relative_to_the_working_directory(reader, monkeypatch):
    path = save(reader, "a.png", Image.new("L", (2, 2)))
    monkeypatch.chdir(path.parent.parent)
    assert reader.resolve("a.png", "./in") == path


@pytest.mark.parametrize("attack", ["../secret.png", "{root}/../secret.png", "link.png", "sub/../../secret.png"])
def test_paths_that_leave_the_roots_are_refused(reader, tmp_path, attack):
    Image.new("L", (2, 2)).save(tmp_path / "secret.png")
    (reader.roots[0] / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match="outside the allowed folders"):
        reader.resolve(attack.format(root=reader.roots[0]))


def test_a_sibling_folder_with_the_same_beginning_is_outside(reader, tmp_path):
    (tmp_path / "in_evil").mkdir()
    Image.new("L", (2, 2)).save(tmp_path / "in_evil" / "a.png")
    with pytest.raises(UserError, match="outside"):
        reader.resolve("../in_evil/a.png")


def test_missing_and_odd_names(reader):
    with pytest.raises(UserError, match="does not exist"):
        reader.resolve("none.png")
    with pytest.raises(UserError, match="NUL"):
        reader.resolve("a\0.png")
    with pytest.raises(UserError, match="not a folder"):
        ImageReader(["nowhere"])


def test_truncated_file_is_damaged(reader):
    path = save(reader, "cut.png", Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cut\.png is damaged"):
        reader.open(path)


def test_a_renamed_text_file_is_refused(reader):
    path = reader.roots[0] / "text.png"
    path.write_text("not a picture")
    with pytest.raises(UserError, match="not a readable image"):
        reader.check(path)


def test_pixel_and_byte_caps_are_read_from_the_header(reader):
    path = save(reader, "large.png", Image.new("1", (3000, 3000)))
    small = ImageReader(reader.roots, max_pixels=1_000_000)
    with pytest.raises(UserError, match="3000 x 3000"):
        small.open(path)
    with pytest.raises(UserError, match="bytes"):
        ImageReader(reader.roots, max_bytes=10).check(path)


def test_a_bomb_beyond_pillows_own_limit_gives_the_same_line(reader):
    path = save(reader, "bomb.png", Image.new("1", (20_000, 20_000)))
    with pytest.raises(UserError, match="pixels allowed"):
        reader.check(path)
