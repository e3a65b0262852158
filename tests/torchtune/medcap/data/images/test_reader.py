import errno
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from helpers.dicom_files import write_dicom
from medcap.data.images.reader import ImageHeader, ImageReader
from medcap.data.images.roots import LimitKeys
from medcap.data.storage.tar_files import TarFiles
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


def test_the_header_tells_size_and_format(reader):
    path = save(reader, "wide.gif", Image.new("L", (9, 5)))
    assert reader.check(path) == ImageHeader("GIF", 9, 5)
    path.write_text("no image")
    with pytest.raises(UserError, match="is not a readable image"):
        reader.check(path)


def test_a_path_that_cannot_be_looked_up_is_one_line(reader):
    for name in ("a" * 5000, "\ud800.png"):
        with pytest.raises(UserError, match=r"image path .* cannot be looked up"):
            reader.resolve(name)


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


def test_a_picture_without_colour_can_stay_grey(reader):
    deep = save(reader, "deep.png", Image.fromarray(np.array([[1000, 1500], [2000, 3000]], dtype=np.uint16)))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = save(reader, "turned.png", Image.fromarray(np.array([[1, 2, 3]], dtype=np.uint8)), exif=exif)
    for path in (deep, turned):
        kept = reader.open(path, keep_grey=True)
        assert kept.mode == "L"
        assert np.array_equal(kept.convert("RGB"), reader.open(path))
    assert np.asarray(reader.open(turned, keep_grey=True)).tolist() == [[1], [2], [3]]
    keyed = save(reader, "keyed.png", Image.new("L", (2, 2), 9), transparency=9)
    assert pixels(reader.open(keyed, keep_grey=True)).min() == 255
    assert reader.open(save(reader, "colour.png", Image.new("RGB", (2, 2))), keep_grey=True).mode == "RGB"


def test_a_picture_outlives_its_file(reader):
    for name in ("a.png", "a.jpg", "a.tiff", "a.bmp", "a.webp", "a.gif"):
        path = save(reader, name, Image.new("RGB", (4, 4), (250, 0, 0)))
        picture = reader.open(path)
        path.unlink()
        assert picture.resize((2, 2)).getpixel((1, 1))[0] > 240
        assert picture.copy().size == (4, 4)


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


@pytest.mark.slow
def test_a_bomb_beyond_pillows_own_limit_gives_the_same_line(reader):
    path = save(reader, "bomb.png", Image.new("1", (20_000, 20_000)))
    with pytest.raises(UserError, match="pixels allowed"):
        reader.check(path)


def png(value, size=(3, 2)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, **members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def red(image):
    return image.getpixel((0, 0))[0]


def test_members_of_a_tar_root_are_found_and_decoded(tmp_path):
    tar = write_tar(tmp_path / "a.tar", **{"./sub/x.png": png(7), "text.png": b"no picture"})
    reader = ImageReader([tar], cache=tmp_path / "cache")
    path = reader.resolve("sub/x.png")
    assert path == tmp_path / "a.tar!" / "sub" / "x.png"
    assert reader.resolve(path) == reader.resolve("./sub//x.png") == reader.resolve("x.png", "sub") == path
    reader.check(path)
    assert (red(reader.open(str(path))), reader.open(path).size) == (7, (3, 2))
    assert reader.roots == [tar]
    assert red(ImageReader(reader.roots).open(path)) == 7
    assert list((tmp_path / "cache" / "tars").iterdir()) != []


@pytest.mark.parametrize("pattern", ["s-{0..1}.tar", "s-*.tar", "s-[01].tar"])
def test_a_pattern_is_a_root_and_its_first_tar_wins(tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "s-0.tar", **{"x.png": png(1)})
    write_tar(tmp_path / "s-1.tar", **{"x.png": png(2), "y.png": png(3)})
    reader = ImageReader([pattern, "s-0.tar"])
    assert [red(reader.open(reader.resolve(name))) for name in ("x.png", "y.png")] == [1, 3]
    assert red(reader.open(reader.resolve(tmp_path / "s-1.tar!" / "x.png"))) == 2
    assert reader.roots == [tmp_path / "s-0.tar", tmp_path / "s-1.tar"]


def test_a_file_on_disk_wins_over_a_member(reader, tmp_path):
    tar = write_tar(tmp_path / "a.tar", **{"x.png": png(1), "y.png": png(2)})
    on_disk = save(reader, "x.png", Image.new("RGB", (2, 2), (9, 0, 0)))
    both = ImageReader([tar, *reader.roots])
    assert both.resolve("x.png") == on_disk
    assert red(both.open(both.resolve("y.png"))) == 2


def test_tars_that_are_given_open_are_not_opened_again(tmp_path):
    tar = write_tar(tmp_path / "a.tar", **{"x.png": png(1)})
    files = TarFiles([tar])
    reader = ImageReader([tar, files])
    assert reader._within._tars == [files]
    assert red(reader.open(reader.resolve("x.png"))) == 1


def test_a_row_cannot_open_a_tar_outside_the_roots(reader, tmp_path):
    write_tar(tmp_path / "secret.tar", **{"x.png": png(1)})
    inside = write_tar(reader.roots[0] / "inside.tar", **{"x.png": png(1)})
    allowed = write_tar(tmp_path / "allowed.tar", **{"y.png": png(1)})
    both = ImageReader([*reader.roots, allowed])
    attacks = (
        f"{tmp_path}/secret.tar!/x.png",
        f"{allowed}!/../secret.tar!/x.png",
        f"{tmp_path}/in/../secret.tar!/x.png",
        f"{allowed}!/y.png/../../secret.tar!/x.png",
        "../secret.tar!/x.png",
        f"{inside}!/x.png",
        f"{allowed}!/x.png",
        f"{allowed}!/",
    )
    for attack in attacks:
        for chosen in (reader, both):
            with pytest.raises(UserError, match="does not exist in"):
                chosen.resolve(attack)
            with pytest.raises(UserError, match="cannot be opened"):
                chosen.open(attack)


def test_a_member_that_climbs_opens_that_member_only(tmp_path):
    Image.new("RGB", (2, 2), (200, 0, 0)).save(tmp_path / "secret.png")
    (tmp_path / "in").mkdir()
    absolute = str(tmp_path / "secret.png")
    tar = write_tar(tmp_path / "in" / "a.tar", **{"../secret.png": png(1), absolute: png(2)})
    reader = ImageReader([tar])
    assert red(reader.open(reader.resolve("../secret.png"))) == 1
    both = ImageReader([tar, tmp_path / "in"])
    assert red(both.open(both.resolve("../secret.png"))) == 1
    for chosen, problem in ((reader, "does not exist"), (both, "outside")):
        with pytest.raises(UserError, match=problem):
            chosen.resolve(absolute)


def test_members_have_the_limits_of_files(tmp_path):
    whole = png(1, (300, 300))
    tar = write_tar(tmp_path / "a.tar", **{"x.png": whole, "cut.png": whole[:-50], "t.png": b"text", "empty.png": b""})
    reader = ImageReader([tar])

    def problem(name, chosen=reader, check=False):
        with pytest.raises(UserError) as caught:
            (chosen.check if check else chosen.open)(chosen.resolve(name))
        return str(caught.value)

    assert problem("cut.png").startswith(f"image {tar}!/cut.png is damaged")
    assert "not a readable image" in problem("t.png")
    assert "not a readable image" in problem("empty.png", check=True)
    for check in (True, False):
        assert "300 x 300, more than" in problem("x.png", ImageReader([tar], max_pixels=1000), check)
        assert "bytes, more than the 10 allowed" in problem("x.png", ImageReader([tar], max_bytes=10), check)
    reader.check(reader.resolve("cut.png"))


def test_checking_a_member_reads_little_of_it(tmp_path, monkeypatch):
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (400, 400), dtype=np.uint8)).save(noise, "PNG")
    reader = ImageReader([write_tar(tmp_path / "a.tar", **{"x.png": noise.getvalue()})])
    counts = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *arguments: counts.append(arguments[1]) or pread(*arguments))
    path = reader.resolve("x.png")
    assert counts == []
    reader.check(path)
    assert sum(counts) < 50_000
    counts.clear()
    reader.open(path)
    assert counts == [len(noise.getvalue())]


def test_tar_roots_that_are_wrong_say_so(tmp_path):
    with pytest.raises(UserError, match=r"image root .*none\.tar: tar file .*none\.tar does not exist.*image_roots"):
        ImageReader([tmp_path / "none.tar"])
    with pytest.raises(UserError, match=r"no tar file matches .*\*\.tar"):
        ImageReader([tmp_path / "*.tar"])
    (tmp_path / "bad.tar").write_bytes(b"not a tar" * 1000)
    with pytest.raises(UserError, match=r"bad\.tar is not a tar file"):
        ImageReader([tmp_path / "bad.tar"])
    reader = ImageReader([write_tar(tmp_path / "a.tar", x=b"")])
    with pytest.raises(UserError, match=r"image y\.png does not exist in .*a\.tar"):
        reader.resolve("y.png")
    with pytest.raises(UserError, match="NUL"):
        reader.resolve("a.tar!/\0x")


def test_a_reader_with_tars_can_be_pickled(tmp_path):
    reader = ImageReader([write_tar(tmp_path / "a.tar", **{"x.png": png(5)})])
    copied = pickle.loads(pickle.dumps(reader))
    assert red(copied.open(copied.resolve("x.png"))) == 5


def test_an_image_in_memory_is_read_as_its_file_is(reader, tmp_path):
    scan = np.arange(64, dtype=np.uint16).reshape(8, 8) * 100
    write_dicom(tmp_path / "scan.dcm", scan)
    Image.fromarray(scan).save(tmp_path / "grey.png")
    Image.new("RGBA", (5, 4), (9, 200, 30, 128)).save(tmp_path / "clear.webp", lossless=True)
    inside = ImageReader([tmp_path])
    for name in ("scan.dcm", "grey.png", "clear.webp"):
        expected = inside.open(inside.resolve(name))
        found = ImageReader([]).open_bytes((tmp_path / name).read_bytes())
        assert found.mode == "RGB" and found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (png(7)[:-30], "image of this request is damaged"),
        (b"<svg></svg>", "not a readable image of the formats PNG"),
        (b"", "not a readable image of the formats PNG"),
        (png(7) + bytes(3000), "has 3,0.. bytes, more than the 2,500 allowed"),
        (png(7, (100, 60)), "is 100 x 60, more than the 5,000 pixels allowed"),
    ],
)
def test_an_image_in_memory_has_the_limits_of_files(data, words):
    with pytest.raises(UserError, match=words):
        ImageReader([], max_pixels=5000, max_bytes=2500).open_bytes(data)


def test_limits_are_called_as_the_command_calls_them(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("L", (20, 20)).save(tmp_path / "outside.png")
    Image.new("L", (20, 20)).save(tmp_path / "in" / "a.png")
    write_dicom(tmp_path / "in" / "a.dcm", np.zeros((20, 20), np.uint16))
    for keys, roots, pixels in (
        (LimitKeys(), ": add its folder to dataset.image_roots (", " pixels allowed (dataset.max_image_pixels)"),
        (LimitKeys("--source", "--max-pixels"), ": add its folder to --source (", " pixels allowed (--max-pixels)"),
        (LimitKeys(None, None), "outside the allowed folders (", " pixels allowed"),
    ):
        reader = ImageReader([tmp_path / "in"], max_pixels=99, keys=keys)
        with pytest.raises(UserError) as caught:
            reader.resolve("../outside.png")
        assert roots in str(caught.value)
        for name in ("a.png", "a.dcm"):
            with pytest.raises(UserError) as caught:
                reader.open(reader.resolve(name))
            assert str(caught.value).endswith(f"more than the 99{pixels}")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_an_image_is_not_bad_where_open_files_or_memory_ran_out(reader, tmp_path, monkeypatch, number):
    path = tmp_path / "a.png"
    Image.new("RGB", (2, 2)).save(path)

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    for name in ("open", "resolve"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match=os.strerror(number)):
            patch.setattr(type(path), name, refuse)
            reader.open(path) if name == "open" else reader.resolve(path.name)
    assert reader.open(path).size == (2, 2)
