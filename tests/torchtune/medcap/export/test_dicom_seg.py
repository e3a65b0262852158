"""Masks of answers as DICOM segmentations, read back by highdicom."""

import json
import warnings

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import EnhancedCTImageStorage

from helpers.dicom_files import write_dicom
from helpers.mask_rows import region_of
from medcap.cli import main
from medcap.data.images.reader import ImageReader
from medcap.errors import UserError
from medcap.export.dicom_seg import segmentation, write_segmentations
from medcap.scoring.answers import read_answers

PLACE = {
    **{"PatientID": "p1", "PatientName": "A^B", "PatientBirthDate": "", "PatientSex": "O", "StudyInstanceUID": "1.2.3"},
    **{"SeriesInstanceUID": "1.2.3.4", "FrameOfReferenceUID": "1.2.3.5", "ImagePositionPatient": [0, 0, 0]},
    **{"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1], "SliceThickness": 1, "Modality": "CT"},
    **{"StudyDate": "20200101", "StudyTime": "", "AccessionNumber": "", "StudyID": "1", "ReferringPhysicianName": ""},
    **{"SeriesNumber": 1, "InstanceNumber": 1},
}
RING = np.zeros((10, 12), bool)
RING[2:5, 3:7] = True
DISC = np.roll(RING, 4, axis=0)


@pytest.fixture
def answers(tmp_path):
    """A file of answers about a DICOM image, a PNG that is not there, and an absent object."""
    write_dicom(tmp_path / "ct.dcm", np.zeros((10, 12), np.uint16), **PLACE)

    def mask(region):
        return {"mask": {"size": [10, 12], "counts": region.shape.counts}}

    rows = [
        {"image": "ct.dcm window=40,400", "masks": [mask(region_of(RING)), None, mask(region_of(DISC))]},
        {"image": "none.dcm", "masks": [mask(region_of(RING))]},
        {"image": "ct.dcm", "masks": [None]},
    ]
    text = "ring <SEG>, cyst not visible, <SEG>"
    file = tmp_path / "predictions.jsonl"
    file.write_text(
        "".join(
            json.dumps({"question_id": f"a/{place}", "reference": "x", "prediction": text, **row}) + "\n"
            for place, row in enumerate(rows)
        )
    )
    return file


@pytest.mark.slow
def test_masks_are_written_and_read_back(answers, tmp_path, capsys):
    highdicom = pytest.importorskip("highdicom")
    main(["export-seg", str(answers), "--out", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert out.strip() == f"wrote 1 segmentation in {tmp_path / 'out'}"
    assert "a/1: " in err and "none.dcm" in err
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = highdicom.seg.segread(tmp_path / "out" / "a_0.dcm")
    assert (found.Modality, found.PatientID, found.StudyInstanceUID) == ("SEG", "p1", "1.2.3")
    assert [found.get_segment_description(number).segment_label for number in (1, 2)] == ["ring", "mask 3"]
    assert (found.pixel_array.astype(bool) == np.stack([RING, DISC])).all()


def write_enhanced(path):
    """An enhanced CT of three frames of 12 x 10 pixels, each with its position."""

    def item(**elements):
        dataset = Dataset()
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        return dataset

    own = {key: value for key, value in PLACE.items() if not key.startswith(("Image", "Pixel", "Slice"))}
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=PLACE["ImageOrientationPatient"])],
        PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=1)],
    )
    each = [item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, place])]) for place in range(3)]
    groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": each}
    pixels = np.arange(360, dtype=np.uint16).reshape(3, 10, 12)
    return write_dicom(path, pixels, **own, **groups, SOPClassUID=EnhancedCTImageStorage)


@pytest.mark.slow
def test_a_mask_lies_on_its_frame_of_a_file_with_several(tmp_path, capsys):
    highdicom = pytest.importorskip("highdicom")
    write_enhanced(tmp_path / "many.dcm")
    mask = {"mask": {"size": [10, 12], "counts": region_of(RING).shape.counts}}
    row = {"question_id": "a", "image": "many.dcm frames=0,2", "reference": "x", "prediction": "ring <SEG>"}
    file = tmp_path / "predictions.jsonl"
    file.write_text(json.dumps({**row, "masks": [{**mask, "image": 1}]}) + "\n")
    main(["export-seg", str(file), "--out", str(tmp_path / "out")])
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = highdicom.seg.segread(tmp_path / "out" / "a_image_1.dcm")
    assert (found.pixel_array.astype(bool) == RING).all()
    position = found.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient
    assert list(position) == [0, 0, 2]


def test_what_cannot_be_written_is_told(tmp_path):
    pytest.importorskip("highdicom")
    bare = write_dicom(tmp_path / "bare.dcm", np.zeros((10, 12), np.uint16))
    with pytest.raises(UserError, match=r"bare\.dcm: no segmentation can refer to it: .*StudyInstanceUID"):
        segmentation(bare, [("ring", RING)])
    with pytest.raises(UserError, match=r"has 12 x 10 pixels and the mask of 'ring' 6 x 10"):
        segmentation(bare, [("ring", RING[:, :6])])
    frames = write_dicom(tmp_path / "frames.dcm", np.zeros((3, 10, 12), np.uint16))
    with pytest.raises(UserError, match="has 3 frames without a position of each, as a video has"):
        segmentation(frames, [("ring", RING)])
    (tmp_path / "words.dcm").write_text("words")
    with pytest.raises(UserError, match="is not a DICOM file that can be read"):
        segmentation(tmp_path / "words.dcm", [("ring", RING)])
    with pytest.raises(UserError, match="no answer has a mask with a pixel in it"):
        write_segmentations([], tmp_path, ImageReader([tmp_path]))


def test_without_highdicom_the_extra_is_named(answers, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    with pytest.raises(UserError, match=r"pip install 'medcap\[seg\]'"):
        write_segmentations(read_answers(answers), tmp_path / "out", ImageReader([tmp_path]))


def test_a_folder_of_images_that_is_missing_is_named_by_its_option(answers, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["export-seg", str(answers), "--images", str(tmp_path / "nope"), "--out", str(tmp_path / "out")])
    assert f"image root {tmp_path / 'nope'} is not a folder: correct --images" in capsys.readouterr().err
