import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite

from helpers.dicom_files import write_dicom
from helpers.dicom_series import write_series
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.views import View
from medcap.errors import UserError

# A patient of 4 x 6 x 3 voxels of 1 mm: 100 on the right, 200 in front, 300 at the head; else 0.
PATIENT = np.zeros((4, 6, 3), dtype=np.int16)
PATIENT[3, 2, 1] = 100
PATIENT[1, 5, 1] = 200
PATIENT[1, 2, 2] = 300
THREE = ((-100.0, 2250.0), (40.0, 350.0), (40.0, 80.0))
ACQUIRED = ("axial", "coronal", "sagittal")


@pytest.fixture
def reader(tmp_path):
    return ImageReader([tmp_path])


def slice_of(reader, path, **view):
    return np.asarray(reader.open(ImageRef(str(path), View(**view))))[..., 0]


def positions(levels):
    return {int(levels[row, column]): (row, column) for row, column in np.argwhere(levels)}


def problem(reader, folder, **view):
    with pytest.raises(UserError) as caught:
        reader.open(ImageRef(str(folder), View(**view)))
    message = str(caught.value)
    assert message.startswith(f"image {folder} ")
    assert "\n" not in message
    return message


@pytest.mark.slow
@pytest.mark.parametrize("acquired", ACQUIRED)
def test_slices_of_each_axis_are_those_of_a_nifti_volume_however_they_were_acquired(reader, tmp_path, acquired):
    folder = write_series(tmp_path / "ct", PATIENT, acquired)
    assert positions(slice_of(reader, folder)) == {85: (3, 0), 170: (0, 2)}
    assert positions(slice_of(reader, folder, axis="coronal", frames=2)) == {85: (1, 0), 255: (0, 2)}
    assert positions(slice_of(reader, folder, axis="sagittal", frames=1)) == {170: (1, 0), 255: (0, 3)}
    assert positions(slice_of(reader, folder, frames=2)) == {255: (3, 2)}
    counts = [len(reader.expand(ImageRef(str(folder), View(frames="all", axis=axis)))) for axis in ACQUIRED]
    assert counts == [3, 6, 4]


def test_an_oblique_acquisition_is_turned_to_its_nearest_axes(reader, tmp_path):
    folder = write_series(tmp_path / "ct", PATIENT)
    turn = np.deg2rad(20)
    across, down = [np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0]
    for path in folder.iterdir():
        dataset = dcmread(path)
        dataset.ImageOrientationPatient = [*map(float, np.round([*across, *down], 6))]
        dcmwrite(path, dataset)
    assert positions(slice_of(reader, folder, axis="coronal", frames=2)) == {85: (1, 0), 255: (0, 2)}


def test_pixels_become_square(reader, tmp_path):
    folder = write_series(tmp_path / "ct", PATIENT, spacing=(1, 2, 5))
    sizes = [reader.open(ImageRef(str(folder), View(axis=axis))).size for axis in ACQUIRED]
    assert sizes == [(4, 12), (4, 15), (6, 8)]


@pytest.mark.parametrize("axis", ACQUIRED)
def test_the_size_of_a_slice_is_known_before_any_is_decoded(reader, tmp_path, axis):
    folder = write_series(tmp_path / "ct", PATIENT, spacing=(1, 2, 5))
    image = ImageRef(str(folder), View(axis=axis))
    assert reader.shown_size(image) == reader.open(image).size


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_three_windows_are_three_channels_to_the_last_bit(reader, tmp_path, photometric):
    values = np.random.default_rng(0).integers(0, 4096, (5, 6, 7)).astype(np.int16)
    rescale = {"RescaleSlope": 1, "RescaleIntercept": -1024, "PhotometricInterpretation": photometric}
    folder = write_series(tmp_path / "ct", values, **rescale)
    single = write_dicom(tmp_path / "a.dcm", values[::-1, ::-1, 3].T, **rescale)
    units = values[::-1, ::-1, 3].T.astype(np.float64) - 1024  # [rows, columns]
    channels = []
    for center, width in THREE:  # PS3.3, C.11.2.1.2.1
        inside = ((units - (center - 0.5)) / (width - 1) + 0.5) * 255
        low, high = units <= center - 0.5 - (width - 1) / 2, units > center - 0.5 + (width - 1) / 2
        levels = np.round(np.where(low, 0, np.where(high, 255, inside)))
        channels.append(255 - levels if photometric == "MONOCHROME1" else levels)
    expected = np.stack(channels, axis=-1).astype(np.uint8)
    assert np.array_equal(np.asarray(reader.open(ImageRef(str(folder), View(THREE, 3)))), expected)
    shown = np.asarray(reader.open(ImageRef(str(single), View(THREE))))
    assert np.array_equal(shown, expected)


def test_the_window_of_the_middle_slice_and_else_the_range_of_the_volume_is_shown(reader, tmp_path):
    plain = write_series(tmp_path / "plain", PATIENT)
    assert slice_of(reader, plain).max() == 170  # of 300, which another slice has
    named = write_series(tmp_path / "named", PATIENT, WindowCenter=[100, 50], WindowWidth=[201, 101])
    assert slice_of(reader, named).max() == 255
    assert slice_of(reader, named)[3, 0] == slice_of(reader, named, window=0)[3, 0] == 128
    assert slice_of(reader, named, window=1)[3, 0] == 255
    assert "has no window 2: it has 2" in problem(reader, named, window=2)


def test_rescale_of_each_slice_and_padding(reader, tmp_path):
    folder = write_series(tmp_path / "pt", PATIENT + np.int16(1), PixelPaddingValue=1, RescaleIntercept=0)
    for path in folder.iterdir():
        dataset = dcmread(path)
        dataset.RescaleSlope = 2 if dataset.ImagePositionPatient[2] == 2 else 0.5
        dcmwrite(path, dataset)
    # 50.5 and 100.5 in the middle, 602 at the head; the padding does not count, and is black.
    assert positions(slice_of(reader, folder)) == {23: (0, 2)}
    assert positions(slice_of(reader, folder, window=(101, 202)))[128] == (0, 2)


@pytest.mark.slow
def test_only_the_wanted_slices_are_decoded(reader, tmp_path, monkeypatch):
    folder = write_series(tmp_path / "ct", np.zeros((4, 4, 9), dtype=np.int16))
    decoded = []
    from medcap.data.images.dicom import series

    greys = series.DicomFile.greys
    monkeypatch.setattr(series.DicomFile, "greys", lambda file: decoded.append(1) or greys(file))
    for image in reader.expand(ImageRef(str(folder), View((40.0, 400.0), "3 even"))):
        reader.open(image)
    assert len(decoded) == 3
    for image in reader.expand(ImageRef(str(folder), View((40.0, 400.0), "3 even", "coronal"))):
        reader.open(image)
    assert len(decoded) == 3 + 9


def test_other_files_and_localizers_of_other_series_are_left_out(reader, tmp_path):
    folder = write_series(tmp_path / "ct", PATIENT)
    (folder / "notes.txt").write_text("a report")
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "inside").mkdir()
    write_dicom(
        folder / "scout.dcm", PATIENT[0], SeriesInstanceUID="9.9", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    assert positions(slice_of(reader, folder)) == {85: (3, 0), 170: (0, 2)}


def change(folder, number, **elements):
    """Change elements of the file at a position along the axis; None removes one."""
    paths = sorted(folder.iterdir(), key=lambda path: dcmread(path).ImagePositionPatient[2])
    dataset = dcmread(paths[number])
    for keyword, value in elements.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    dcmwrite(paths[number], dataset)
    return paths[number]


@pytest.mark.slow
def test_a_series_that_is_no_volume_is_refused_in_one_line(reader, tmp_path):
    volume = np.zeros((4, 6, 5), dtype=np.int16)

    def spoilt(name, **elements):
        folder = write_series(tmp_path / name, volume)
        return folder, change(folder, 3, **elements).name

    folder = write_series(tmp_path / "gap", volume)
    change(folder, 0, ImagePositionPatient=[0, 0, -1.5])
    assert "has a gap: its slices are 1 mm apart, but 2.5 mm between -1.5 and 1 (" in problem(reader, folder)
    folder, name = spoilt("twice", ImagePositionPatient=[0, 0, 2])
    assert "has two slices at one position, 2 mm" in problem(reader, folder)
    folder, name = spoilt("turned", ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    assert "has slices of several orientations: [1, 0, 0, 0, 1, 0] in" in problem(reader, folder)
    folder, name = spoilt("two", SeriesInstanceUID="1.2.4")
    assert "holds 2 DICOM series, and a volume is one: 1.2.3 (4 files), 1.2.4 (1 files)" in problem(reader, folder)
    folder, name = spoilt("nowhere", ImagePositionPatient=None)
    assert f"has no ImagePositionPatient in its file {name}" in problem(reader, folder)
    folder, name = spoilt("spacing", PixelSpacing=[2, 2])
    assert "has slices of several pixel spacings: [1, 1] in" in problem(reader, folder)
    folder, name = spoilt("beside", ImagePositionPatient=[9, 0, 3])
    assert f"{name} is 9 mm beside it" in problem(reader, folder)
    folder, name = spoilt("colours", PhotometricInterpretation="PALETTE COLOR")
    assert "has the colours PALETTE COLOR" in problem(reader, folder)
    folder = write_series(tmp_path / "sizes", volume)
    change(folder, 3, Rows=3, PixelData=b"\0" * 24)
    assert "has slices of several sizes" in problem(reader, folder)
    folder = write_series(tmp_path / "cut", volume)
    path = next(folder.iterdir())
    path.write_bytes(path.read_bytes()[:-20])
    assert f"cannot be read: its file {path.name}" in problem(reader, folder, axis="coronal")
    assert "has no frame 5: it has 5" in problem(reader, write_series(tmp_path / "whole", volume), frames=5)


def test_a_tilted_gantry_shows_only_what_is_not_distorted(reader, tmp_path):
    folder = write_series(tmp_path / "ct", PATIENT)
    for path in folder.iterdir():
        dataset = dcmread(path)
        dataset.ImagePositionPatient = [0, 0.3 * dataset.ImagePositionPatient[2], dataset.ImagePositionPatient[2]]
        dcmwrite(path, dataset)
    assert positions(slice_of(reader, folder)) == {85: (3, 0), 170: (0, 2)}
    assert "a tilted gantry: it has no undistorted coronal slices" in problem(reader, folder, axis="coronal")


def test_a_folder_is_an_image_only_within_the_roots_and_with_dicom_files(tmp_path):
    folder = write_series(tmp_path / "in" / "ct", PATIENT)
    other = write_series(tmp_path / "out" / "ct", PATIENT)
    reader = ImageReader([tmp_path / "in"])
    assert reader.resolve("ct") == folder
    assert reader.check(folder).format == "DICOM"
    for name in (str(other), "../out/ct"):
        with pytest.raises(UserError, match=r"does not exist in|lies outside"):
            reader.resolve(name)
    (tmp_path / "in" / "empty").mkdir()
    (tmp_path / "in" / "empty" / "a.png").write_bytes(b"picture")
    with pytest.raises(UserError, match="the folder of this name holds no DICOM files"):
        reader.resolve("empty")
    (folder / "linked.dcm").symlink_to(next(other.iterdir()))
    with pytest.raises(UserError, match=r"holds linked.dcm, which leads outside the allowed folders"):
        reader.open(str(folder))


def test_a_changed_folder_is_read_anew(reader, tmp_path):
    folder = write_series(tmp_path / "ct", PATIENT)
    everything = ImageRef(str(folder), View(frames="all"))
    assert len(reader.expand(everything)) == 3
    change(folder, 2, SeriesDescription="gone").unlink()
    assert len(reader.expand(everything)) == 2


def test_slices_in_one_file_are_shown_as_stored(reader, tmp_path):
    places = []
    for number in range(3):
        place, item = Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, number]
        item.PlanePositionSequence = [place]
        places.append(item)
    frames = np.stack([np.full((4, 4), number, dtype=np.int16) for number in range(3)])
    path = write_dicom(tmp_path / "a.dcm", frames, PerFrameFunctionalGroupsSequence=places)
    assert len(reader.expand(ImageRef(str(path), View(frames="all")))) == 3
    assert "is one file of 3 slices, which are shown as stored: it has no coronal ones" in problem(
        reader, path, axis="coronal"
    )
    cine = write_dicom(tmp_path / "b.dcm", frames)
    assert len(reader.expand(ImageRef(str(cine), View(frames="all", axis="coronal")))) == 3
