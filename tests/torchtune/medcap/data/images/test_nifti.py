import gzip
import subprocess
import sys

import nibabel
import numpy as np
import pytest

from medcap.data.images.reader import ImageHeader, ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.views import View
from medcap.errors import UserError

# A patient of 4 x 6 x 3 voxels of 1 mm: 100 on the right, 200 in front, 300 at the head; else 0.
PATIENT = np.zeros((4, 6, 3), dtype=np.int16)
PATIENT[3, 2, 1] = 100
PATIENT[1, 5, 1] = 200
PATIENT[1, 2, 2] = 300


@pytest.fixture
def reader(tmp_path):
    return ImageReader([tmp_path])


def save(path, values=PATIENT, affine=None, kind=nibabel.Nifti1Image, **header):
    image = kind(values, np.eye(4) if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def slice_of(reader, path, **view):
    return np.asarray(reader.open(ImageRef(str(path), View(**view))))[..., 0]


def test_the_header_tells_the_first_two_axes(reader, tmp_path):
    save(tmp_path / "a.nii", np.zeros((5, 3, 7), dtype=np.int16))
    assert reader.check(tmp_path / "a.nii") == ImageHeader("NIfTI", 5, 3)


def problem(reader, path, **view):
    with pytest.raises(UserError) as caught:
        reader.open(ImageRef(str(path), View(**view)))
    message = str(caught.value)
    assert message.startswith(f"image {path} ")
    assert "\n" not in message
    return message


def positions(levels):
    return {int(levels[row, column]): (row, column) for row, column in np.argwhere(levels)}


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "no_suffix"])
def test_slices_are_turned_as_radiologists_look_at_them(reader, tmp_path, name):
    save(tmp_path / "a.nii.gz")
    save(tmp_path / "a.nii")
    if name == "no_suffix":
        (tmp_path / name).write_bytes((tmp_path / "a.nii").read_bytes())
    path = tmp_path / name
    axial = slice_of(reader, path)  # the middle slice; front at the top, the patient's right on the left
    assert axial.shape == (6, 4)
    assert positions(axial) == {85: (3, 0), 170: (0, 2)}
    coronal = slice_of(reader, path, axis="coronal", frames=2)  # head at the top, right on the left
    assert coronal.shape == (3, 4)
    assert positions(coronal) == {85: (1, 0), 255: (0, 2)}
    sagittal = slice_of(reader, path, axis="sagittal", frames=1)  # head at the top, front on the left
    assert sagittal.shape == (3, 6)
    assert positions(sagittal) == {170: (1, 0), 255: (0, 3)}


def test_the_matrix_of_the_header_decides_how_it_is_turned(reader, tmp_path):
    plain = save(tmp_path / "ras.nii")
    turned = save(
        tmp_path / "turned.nii",
        np.ascontiguousarray(PATIENT[::-1].transpose(2, 0, 1)),
        np.array([[0, -1, 0, 3], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]]),
    )
    for axis in ("axial", "coronal", "sagittal"):
        assert slice_of(reader, turned, axis=axis).tolist() == slice_of(reader, plain, axis=axis).tolist()


def test_thick_slices_keep_their_shape(reader, tmp_path):
    path = save(tmp_path / "a.nii", affine=np.diag([1.0, 1, 4, 1]))
    assert slice_of(reader, path, axis="coronal").shape == (12, 4)
    assert slice_of(reader, path).shape == (6, 4)


def test_the_range_is_the_volumes_or_the_headers_or_a_window(reader, tmp_path):
    values = np.zeros((2, 2, 3), dtype=np.int16)
    values[:, :, 1], values[:, :, 2] = 40, 100
    path = save(tmp_path / "a.nii", values)
    assert [slice_of(reader, path, frames=number)[0, 0] for number in range(3)] == [0, 102, 255]
    assert [slice_of(reader, path, frames=number, window=(60, 40))[0, 0] for number in range(3)] == [0, 0, 255]
    named = save(tmp_path / "b.nii", values, cal_min=20, cal_max=120)
    assert [slice_of(reader, named, frames=number)[0, 0] for number in range(3)] == [0, 51, 204]
    assert "offers no windows to choose from" in problem(reader, path, window=0)


def test_slope_and_intercept_give_the_units_of_the_window(reader, tmp_path):
    image = nibabel.Nifti1Image(np.full((2, 2, 1), 40, dtype=np.int16), np.eye(4))
    image.header.set_slope_inter(2, -60)
    nibabel.save(image, tmp_path / "a.nii")
    assert nibabel.load(tmp_path / "a.nii").get_fdata()[0, 0, 0] == 20
    assert slice_of(reader, tmp_path / "a.nii", window=(50, 100))[0, 0] == 51


def test_float_volumes_with_holes(reader, tmp_path):
    values = np.array([np.nan, 0, 0.2, 1], dtype=np.float32).reshape(2, 2, 1)
    assert sorted(slice_of(reader, save(tmp_path / "a.nii", values)).ravel().tolist()) == [0, 0, 51, 255]


def test_of_a_series_the_first_volume_and_one_slice_of_a_plane(reader, tmp_path):
    series = np.stack([PATIENT, PATIENT * 0], axis=-1)
    assert positions(slice_of(reader, save(tmp_path / "a.nii", series))) == {85: (3, 0), 170: (0, 2)}
    plane = save(tmp_path / "b.nii", PATIENT[:, :, 1])
    assert positions(slice_of(reader, plane, window=(150, 300))) == {85: (3, 0), 170: (0, 2)}


def test_second_version_and_big_endian(reader, tmp_path):
    second = save(tmp_path / "a.nii", kind=nibabel.Nifti2Image)
    assert positions(slice_of(reader, second)) == {85: (3, 0), 170: (0, 2)}
    image = nibabel.Nifti1Image(PATIENT, np.eye(4), nibabel.Nifti1Header(endianness=">"))
    nibabel.save(image, tmp_path / "b.nii")
    assert (tmp_path / "b.nii").read_bytes()[:4] == b"\0\0\x01\x5c"
    assert positions(slice_of(reader, tmp_path / "b.nii")) == {85: (3, 0), 170: (0, 2)}


def test_frames_are_slices(reader, tmp_path):
    path = save(tmp_path / "a.nii")
    for axis, count in (("axial", 3), ("coronal", 6)):
        pictures = reader.open_frames(ImageRef(str(path), View(frames="all", axis=axis)))
        assert [number for number, _ in pictures] == list(range(count))
    assert "has no frame 3: it has 3" in problem(reader, path, frames=3)


def test_a_header_that_claims_too_much_is_refused_before_anything_is_read(reader, tmp_path):
    def claim(**fields):
        header = nibabel.Nifti1Header()
        header.set_data_dtype(np.int16)
        header.set_data_shape((4, 4, 4))
        header["magic"], header["vox_offset"] = b"n+1", 352
        for key, value in fields.items():
            header[key] = value
        path = tmp_path / "a.nii.gz"
        path.write_bytes(gzip.compress(header.binaryblock + bytes(4)))
        return problem(reader, path)

    assert "more than the 2,147,483,648 allowed" in claim(dim=[3, 2000, 2000, 2000, 1, 1, 1, 1])
    assert "has slices of 900,000,000 pixels" in claim(dim=[3, 30_000, 30_000, 1, 1, 1, 1, 1])
    assert "more than the 2,147,483,648 allowed" in claim(vox_offset=1e12)
    assert "only volumes" in claim(dim=[6, 2, 2, 2, 2, 2, 2, 1])
    assert "is damaged" in claim()  # no voxels after the header


def test_a_volume_that_is_cut_off(reader, tmp_path):
    values = np.random.default_rng(0).integers(0, 99, (30, 30, 30), dtype=np.int16)
    whole = save(tmp_path / "a.nii.gz", values).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(whole[: len(whole) // 2])
    reader.check(tmp_path / "b.nii.gz")
    assert "is damaged" in problem(reader, tmp_path / "b.nii.gz")


def test_another_file_that_is_gzipped_is_refused(reader, tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"text" * 1000))
    (tmp_path / "b.nii.gz").write_bytes(b"\x1f\x8b")
    for name in ("a.nii.gz", "b.nii.gz"):
        assert "is not a readable image" in problem(reader, tmp_path / name)


@pytest.mark.processes
def test_without_nibabel_one_line_says_what_to_install(tmp_path):
    path = save(tmp_path / "a.nii")
    program = f"""
import sys
sys.modules["nibabel"] = None
from medcap.data.images.reader import ImageHeader, ImageReader
from medcap.errors import UserError
try:
    ImageReader([]).open({str(path)!r})
except UserError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (
        run.stdout.strip() == f"image {path} is a NIfTI volume: reading it needs nibabel, pip install 'medcap[dicom]'"
    )
