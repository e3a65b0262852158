import numpy as np
import pytest
from PIL import Image

from helpers.downloads import left_out, rows_of, said
from helpers.mask_sets import LIVER, PART, SPLEEN, masks_of
from medcap.datasets.conversion.run import convert
from medcap.datasets.converters.medsegbench import MedSegBench
from medcap.errors import UserError
from medcap.evaluation.tasks.base import LoadOptions
from medcap.evaluation.tasks.regions.pixel_grounding import PixelGroundingTask


@pytest.fixture
def file(tmp_path):
    images = np.arange(2 * 8 * 12 * 3, dtype=np.uint8).reshape(2, 8, 12, 3)
    labels = np.stack([1 * LIVER, 2 * SPLEEN + 5 * PART]).astype(np.uint8)
    arrays = {"train_images": images, "train_label": labels, "val_images": images[..., 0], "val_label_b": labels}
    np.savez(tmp_path / "polypgen_128.npz", **arrays)
    return tmp_path / "polypgen_128.npz"


def made(file, **options):
    return convert(MedSegBench(file=str(file), **options), "", file.parent / "out")[0]


def test_images_are_written_and_values_are_named(file):
    written = made(file, names=("polyp", "tool"))
    rows = rows_of(written)
    assert written.path.name == "polypgen_128_train.jsonl"
    assert [said(row)[1] for row in rows] == ["polyp <SEG>.", "tool <SEG>."]
    assert (masks_of(rows[0])["polyp"] == LIVER).all()
    picture = Image.open(file.parent / "out/polypgen_128_train_images" / rows[0]["image"])
    assert np.asarray(picture)[0, 1].tolist() == [3, 4, 5]
    assert left_out(written) == {"values without a name": 1}
    benchmark = PixelGroundingTask().load(written.path, LoadOptions(image_roots=[file.parent]))
    assert [row.problem for row in benchmark.rows] == [None, None]


def test_a_category_has_arrays_of_its_own(file):
    (row,) = rows_of(made(file, split="validation", category="b", names=("polyp",)))
    assert row["image"] == "000000.png"
    assert (masks_of(row)["polyp"] == LIVER).all()


def test_what_lacks_is_named(file):
    with pytest.raises(UserError, match="has no test_images and test_label; it has train_images, train_label"):
        made(file, split="test", names=("polyp",))
    with pytest.raises(UserError, match="give --names"):
        made(file)
    file.write_bytes(b"PK")
    with pytest.raises(UserError, match="cannot be read as npz"):
        made(file, names=("polyp",))
