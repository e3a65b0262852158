import pickle

import numpy as np
import pytest

from helpers.dicom_files import write_dicom
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.views import DEFAULT_VIEW, View

CORONAL = View(window=(40.0, 400.0), frames=3, axis="coronal")


def test_the_text_is_the_path_and_any_view_but_the_default_one():
    assert str(ImageRef("a.png")) == str(ImageRef("a.png", View())) == "a.png"
    assert str(ImageRef("a.nii", CORONAL)) == "a.nii window=40,400 frames=3 axis=coronal"


def test_a_path_becomes_a_reference_in_the_default_view_and_a_reference_stays(tmp_path):
    assert ImageRef.of("a.png") == ImageRef("a.png", DEFAULT_VIEW)
    assert ImageRef.of(tmp_path / "a.png") == ImageRef(str(tmp_path / "a.png"))
    other = ImageRef("a.nii", CORONAL)
    assert ImageRef.of(other) is other


def test_references_are_keys_and_travel_between_processes():
    known = {ImageRef("a.nii"): 1, ImageRef("a.nii", CORONAL): 2}
    for image, number in known.items():
        assert known[pickle.loads(pickle.dumps(image))] == number
    with pytest.raises(AttributeError):
        ImageRef("a.nii").path = "b.nii"


def test_another_view_shows_other_pixels(tmp_path):
    frames = np.stack([np.full((2, 2), 10 * number, dtype=np.uint8) for number in range(5)])
    path = str(write_dicom(tmp_path / "a.dcm", frames))
    reader = ImageReader([tmp_path])
    shown = [path, ImageRef(path), ImageRef(path, View(frames=4)), ImageRef(path, View(window=(40, 80), frames=4))]
    assert [reader.open(image).getpixel((0, 0))[0] for image in shown] == [20, 20, 40, 129]
