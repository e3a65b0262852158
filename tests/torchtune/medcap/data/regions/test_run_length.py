import numpy as np
import pytest
from pycocotools import mask as coco

from medcap.data.regions.run_length import decode, encode
from medcap.errors import UserError


def test_a_mask_is_cocos_run_length():
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    assert encode(mask) == {"size": [3, 4], "counts": "714"}
    assert decode({"size": [3, 4], "counts": "714"}).tolist() == mask.tolist()
    assert decode({"size": [3, 4], "counts": [7, 1, 4]}).tolist() == mask.tolist()
    assert decode({"size": [3, 4], "counts": b"714"}).tolist() == mask.tolist()


def test_random_masks_come_back_and_are_what_pycocotools_reads():
    generator = np.random.default_rng(0)
    for _ in range(300):
        height, width = generator.integers(1, 60, 2)
        mask = generator.random((height, width)) < generator.choice([0.0, 0.02, 0.5, 0.98, 1.0])
        value = encode(mask)
        assert (decode(value) == mask).all()
        assert (coco.decode(value).astype(bool) == mask).all()
    large = np.zeros((2000, 1501), bool)  # counts of several characters, and negative differences
    large[700:1900, 3:900] = large[5, :] = True
    assert (decode(encode(large)) == large).all()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("714", "a run-length is an object with 'size'"),
        ({"counts": "714"}, "a run-length is an object with 'size'"),
        ({"size": [3, 4, 1], "counts": "714"}, "a run-length is an object with 'size'"),
        ({"size": [3.0, 4], "counts": "714"}, "a run-length is an object with 'size'"),
        ({"size": [0, 4], "counts": ""}, "a run-length is an object with 'size'"),
        ({"size": [3, 4], "counts": None}, "they are a text or numbers"),
        ({"size": [3, 4], "counts": [7, -1, 6]}, "they are a text or numbers"),
        ({"size": [3, 4], "counts": [7, 1]}, "of 8 pixels, but its size"),
        # pycocotools would leave memory unwritten, or say nothing at all.
        ({"size": [3, 4], "counts": ""}, "cannot be read"),
        ({"size": [3, 4], "counts": "71"}, "of 8 pixels, but its size"),
        ({"size": [4, 4], "counts": "714"}, r"of 12 pixels, but its size \[4, 4\] has 16"),
        ({"size": [3, 4], "counts": "z4"}, "cannot be read"),
        ({"size": [3, 4], "counts": "71P"}, "cannot be read"),
        ({"size": [3, 4], "counts": "PPPPPPPPP0"}, "cannot be read"),
        ({"size": [3, 4], "counts": "7O6"}, "negative number of pixels"),
        ({"size": [3, 4], "counts": "7é4"}, "cannot be read"),
        ({"size": [60_000, 60_000], "counts": "714"}, "more than the 50,000,000 pixels"),
    ],
)
def test_what_is_no_run_length_is_refused(value, words):
    with pytest.raises(UserError, match=words) as error:
        decode(value, "masks")
    assert "'masks'" in str(error.value) and "\n" not in str(error.value)
