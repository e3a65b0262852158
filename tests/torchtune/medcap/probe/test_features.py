import numpy as np
import pytest
import torch
from PIL import Image

from medcap.data.images.reader import ImageReader
from medcap.errors import UserError
from medcap.models.preprocess import HALF, Preprocess
from medcap.probe.examples import Example
from medcap.probe.features import encode


class MeanColour:
    """An encoder whose features are the mean of each channel."""

    name = "mean colour"

    def __init__(self, size):
        self.preprocess = Preprocess(size, HALF, HALF, resize_mode="squash")
        self.batches = []

    def __call__(self, pixels):
        self.batches.append(tuple(pixels.shape))
        return pixels.float().mean(dim=(2, 3))


class NotFinite(MeanColour):
    def __call__(self, pixels):
        return torch.full((len(pixels), 2), torch.nan)


@pytest.fixture
def examples(tmp_path):
    made = []
    for number in range(5):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.full((6, 6, 3), 10 * number, dtype=np.uint8)).save(path)
        made.append(Example(path.name, path, {}, str(path)))
    return made


def test_features_are_in_the_order_of_the_images_and_each_is_read_once(examples):
    encoders = [MeanColour(4), MeanColour(8)]
    wanted = [examples[3], examples[0], examples[3], examples[4]]
    found = encode(wanted, encoders, ImageReader([]), batch_size=2)
    for values in found.values:
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values[:, 0], [30, 0, 30, 40])
    assert encoders[0].batches == [(2, 3, 4, 4), (1, 3, 4, 4)]
    assert encoders[1].batches == [(2, 3, 8, 8), (1, 3, 8, 8)]
    assert found.problems == {}


def test_images_that_cannot_be_read_keep_their_rows_and_are_named(examples, tmp_path):
    (tmp_path / "1.png").write_bytes(b"no image")
    missing = Example("gone.png", None, {}, "gone.png", problem="image gone.png does not exist")
    found = encode([examples[2], missing, examples[1]], [MeanColour(4)], ImageReader([]))
    np.testing.assert_array_equal(found.values[0][:, 0], [20, 0, 0])
    assert set(found.problems) == {1, 2}
    assert found.problems[1] == "image gone.png does not exist"
    assert "1.png" in found.problems[2]


def test_a_set_without_a_readable_image_and_numbers_that_are_not_finite_are_refused(examples):
    missing = Example("gone.png", None, {}, "gone.png", problem="image gone.png does not exist")
    with pytest.raises(UserError, match=r"not one test image can be read; the first: image gone\.png"):
        encode([missing], [MeanColour(4)], ImageReader([]), label="test images")
    with pytest.raises(UserError, match="mean colour gives numbers that are not finite"):
        encode(examples, [NotFinite(4)], ImageReader([]))
