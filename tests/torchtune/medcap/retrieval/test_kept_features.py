import numpy as np
import pytest
from PIL import Image

from medcap.data.images.reader import ImageReader
from medcap.errors import UserError
from medcap.probe.features import NoneReadable
from medcap.retrieval.candidates import Failure
from medcap.retrieval.index import FEATURES_FOLDER
from medcap.retrieval.kept_features import drop_kept, encode_and_keep
from medcap.retrieval.tower import EncodedImages


class Killed(Exception):
    pass


class CountingTower:
    """Features are the grey level; ends at the image ``ends_at``."""

    def __init__(self, ends_at="", fingerprint="one"):
        self.facts, self.ends_at, self.seen = {"fingerprint": fingerprint}, ends_at, []

    def encode(self, images, reader, batch_size, label):
        values, failures = [], {}
        for number, path in enumerate(images):
            if path.name == self.ends_at:
                raise Killed
            self.seen.append(path.name)
            try:
                values.append([float(reader.open(path).convert("L").getpixel((0, 0))), 1.0])
            except UserError as error:
                failures[number] = Failure(str(path), f"bad: {error}"[:3])
                values.append([0.0, 0.0])
        if len(failures) == len(images):
            raise NoneReadable("none", {number: failure.reason for number, failure in failures.items()})
        return EncodedImages(np.array(values, np.float32), failures)


@pytest.fixture
def images(tmp_path):
    for number in range(7):
        Image.new("L", (2, 2), 10 * number).save(tmp_path / f"{number}.png")
    for number in (1, 4, 5):
        (tmp_path / f"{number}.png").write_bytes(b"damaged")
    return [tmp_path / f"{number}.png" for number in range(7)]


def encoded(images, tower):
    folder = images[0].parent
    return encode_and_keep(images, tower, folder / "index", ImageReader([folder]), 8, part=2)


def test_a_build_that_was_killed_goes_on_from_finished_images(images):
    with pytest.raises(Killed):
        encoded(images, CountingTower(ends_at="6.png"))
    again = CountingTower()
    found = encoded(images, again)
    # The part of 4 and 5 has no image that can be read, and is looked at again.
    assert again.seen == ["4.png", "5.png", "6.png"]
    assert found.values[:, 0].tolist() == [0, 0, 20, 30, 0, 0, 60]
    assert {number: failure.reason for number, failure in found.failures.items()} == {1: "bad", 4: "bad", 5: "bad"}
    assert found.failures[4].name == str(images[4])
    folder = images[0].parent / "index"
    assert len(list((folder / FEATURES_FOLDER).glob("*.npz"))) == 3
    drop_kept(folder)
    assert not (folder / FEATURES_FOLDER).exists()


def test_other_weights_a_changed_file_and_a_cut_part_are_encoded_again(images):
    encoded(images, CountingTower())
    other = CountingTower(fingerprint="two")
    encoded(images, other)
    assert len(other.seen) == 7
    Image.new("L", (3, 3), 99).save(images[0])
    again = CountingTower()
    assert encoded(images, again).values[0, 0] == 99
    assert again.seen == ["0.png", "1.png", "4.png", "5.png"]
    for part in (images[0].parent / "index" / FEATURES_FOLDER).iterdir():
        part.write_bytes(part.read_bytes()[:50])
    last = CountingTower()
    encoded(images, last)
    assert len(last.seen) == 7


def test_images_of_which_none_can_be_read_end_in_one_line(images):
    with pytest.raises(UserError, match="none of the 2 candidates can be read; the first: bad"):
        encoded(images[4:6], CountingTower())
