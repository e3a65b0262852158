import hashlib

import numpy as np
import pytest
from PIL import Image

from helpers.dicom_series import write_series
from medcap.datasets.leakage.image_hashes import HashedImage, hash_image, hash_images
from medcap.datasets.leakage.image_sources import ImageFile
from medcap.errors import UserError


def picture(seed, size=128):
    """Smooth blobs, as unlike each other as photographs are."""
    values = np.random.default_rng(seed).uniform(0, 255, (9, 9)).astype(np.uint8)
    return Image.fromarray(values).resize((size, size), Image.Resampling.BICUBIC)


def bits(one, other):
    fine = [np.frombuffer(image.fine, dtype=np.uint64) for image in (one, other)]
    return (one.bits ^ other.bits).bit_count(), int(np.bitwise_count(fine[0] ^ fine[1]).sum())


def test_a_recompressed_and_resized_copy_is_near_and_another_picture_is_far(tmp_path):
    picture(0).save(tmp_path / "a.png")
    picture(0).resize((90, 90)).save(tmp_path / "copy.jpg", quality=60)
    picture(1).save(tmp_path / "b.png")
    original, copy, other = (hash_image(tmp_path / name) for name in ("a.png", "copy.jpg", "b.png"))
    coarse, fine = bits(original, copy)
    assert coarse <= 4
    assert fine <= 16
    coarse, fine = bits(original, other)
    assert coarse >= 16
    assert fine >= 80
    assert not original.flat


def test_the_hashes_are_the_librarys(tmp_path):
    imagehash = pytest.importorskip("imagehash")
    picture(2).save(tmp_path / "a.png")
    hashed = hash_image(tmp_path / "a.png")
    assert f"{hashed.bits:016x}" == str(imagehash.phash(picture(2)))
    assert hashed.fine.hex() == str(imagehash.phash(picture(2), hash_size=16))
    assert hashed.file == hashlib.sha256((tmp_path / "a.png").read_bytes()).digest()


def test_a_16_bit_and_a_palette_copy_have_the_same_hash(tmp_path):
    grey = np.asarray(picture(3), dtype=np.uint16)
    grey = (grey - grey.min()) * 200
    Image.fromarray(grey).save(tmp_path / "deep.png")
    picture(3).save(tmp_path / "plain.png")
    picture(3).convert("P").save(tmp_path / "palette.png")
    deep, plain, palette = (hash_image(tmp_path / f"{name}.png") for name in ("deep", "plain", "palette"))
    assert max(bits(deep, plain)) <= 4
    assert plain.pixels == palette.pixels
    assert plain.file != palette.file


def test_pixels_tell_the_same_picture_in_another_format(tmp_path):
    picture(4).save(tmp_path / "a.png")
    picture(4).save(tmp_path / "a.bmp")
    Image.new("RGB", (4, 8), (9, 9, 9)).save(tmp_path / "tall.png")
    Image.new("RGB", (8, 4), (9, 9, 9)).save(tmp_path / "wide.png")
    png, bmp, tall, wide = (hash_image(tmp_path / name) for name in ("a.png", "a.bmp", "tall.png", "wide.png"))
    assert png.pixels == bmp.pixels
    assert tall.pixels != wide.pixels


def test_pictures_of_one_colour_are_flat(tmp_path):
    noise = np.random.default_rng(0).normal(3, 2, (256, 256)).clip(0, 255).astype(np.uint8)
    for name, image in {
        "black": Image.new("L", (50, 50)),
        "white": Image.new("RGB", (50, 50), "white"),
        "noise": Image.fromarray(noise),
    }.items():
        image.save(tmp_path / f"{name}.png")
        assert hash_image(tmp_path / f"{name}.png").flat, name


def test_an_unreadable_image_is_passed_on_with_its_reason(tmp_path):
    picture(0).save(tmp_path / "good.png")
    data = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("no image")
    files = [ImageFile(str(tmp_path / f"{name}.png")) for name in ("cut", "text", "none", "good")]
    *bad, good = hash_images([*files[:3], ImageFile("x", "lost"), files[3]])
    assert [type(image) for image in bad] == [ImageFile] * 4
    assert "damaged" in bad[0].problem
    assert "not a readable image" in bad[1].problem
    assert "cannot be opened" in bad[2].problem
    assert bad[3] == ImageFile("x", "lost")
    assert isinstance(good, HashedImage)
    with pytest.raises(UserError):
        hash_image(tmp_path / "cut.png")


@pytest.mark.slow
def test_several_processes_give_the_same_in_the_same_order(tmp_path):
    for index in range(5):
        picture(index, 32).save(tmp_path / f"{index}.png")
    files = [ImageFile(str(tmp_path / f"{index % 6}.png")) for index in range(200)]
    assert list(hash_images(files, processes=2)) == list(hash_images(files, processes=1))


def test_a_series_is_found_again_whatever_its_files_are_called(tmp_path):
    series = write_series(tmp_path / "one", np.arange(4 * 5 * 6).reshape(4, 5, 6))
    (tmp_path / "two").mkdir()
    for number, file in enumerate(sorted(series.iterdir())):
        (tmp_path / "two" / f"{9 - number}").write_bytes(file.read_bytes())
    one, two = (hash_image(tmp_path / name) for name in ("one", "two"))
    assert (one.file, one.pixels) == (two.file, two.pixels)
    (tmp_path / "two" / "notes.txt").write_text("")
    assert hash_image(tmp_path / "two").file != one.file
