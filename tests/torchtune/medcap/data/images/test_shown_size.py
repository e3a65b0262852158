"""The size that a header tells is the size of the decoded picture, for every format and every way to turn one."""

import io
import tarfile

import nibabel
import numpy as np
import pytest
from PIL import ExifTags, Image

from helpers.dicom_files import write_dicom
from helpers.raster_files import png_bytes, png_chunk
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.tiles import Tiles
from medcap.data.images.views import View
from medcap.errors import UserError

WIDE = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20  # 4 x 3
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="%d"/></x:xmpmeta>'
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")


def sizes(path, **view):
    """The size by the header, and that of the decoded picture."""
    reader, ref = ImageReader([path.parent]), ImageRef(str(path), View(**view))
    return reader.shown_size(ref), reader.open(ref).size


def exif(orientation):
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    return tags


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(tmp_path, name):
    Image.fromarray(WIDE).save(tmp_path / "a", name)
    assert sizes(tmp_path / "a") == ((4, 3), (4, 3))


@pytest.mark.parametrize("name", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 10))
def test_every_orientation(tmp_path, name, orientation):
    Image.fromarray(WIDE).save(tmp_path / "a", name, exif=exif(orientation))
    expected = (3, 4) if 5 <= orientation <= 8 else (4, 3)
    assert sizes(tmp_path / "a") == (expected, expected)


@pytest.mark.parametrize("name", ["JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_an_orientation_that_only_xmp_tells(tmp_path, name, orientation):
    options = {"tiffinfo": {700: XMP % orientation}} if name == "TIFF" else {"xmp": XMP % orientation}
    Image.fromarray(WIDE).save(tmp_path / "a", name, **options)
    expected = (3, 4) if orientation == 6 else (4, 3)
    assert sizes(tmp_path / "a") == (expected, expected)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", ["eXIf", "iTXt", "damaged"])
def test_a_png_may_tell_its_orientation_after_the_pixels(tmp_path, bits, place, kind):
    chunk = {
        "eXIf": png_chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0")),
        "iTXt": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % 6),
        "damaged": png_chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff"),
    }[kind]
    (tmp_path / "a.png").write_bytes(png_bytes(WIDE, bits, 0, **{place: png_chunk(b"tEXt", b"a\0b") + chunk}))
    expected = (4, 3) if kind == "damaged" else (3, 4)
    assert sizes(tmp_path / "a.png") == (expected, expected)


@pytest.mark.parametrize("orientation", [1, 3, 5, 8])
def test_a_tiff_file_of_sixteen_bits(tmp_path, orientation):
    Image.fromarray(WIDE.astype(np.uint16) * 200).save(tmp_path / "a.tif", tiffinfo={274: orientation})
    expected = (3, 4) if orientation > 4 else (4, 3)
    assert sizes(tmp_path / "a.tif") == (expected, expected)


def test_a_gif_whose_frame_is_larger_than_its_screen(tmp_path):
    Image.fromarray(WIDE).save(tmp_path / "a.gif")
    data = bytearray((tmp_path / "a.gif").read_bytes())
    data[6:10] = (2).to_bytes(2, "little") * 2
    (tmp_path / "a.gif").write_bytes(data)
    assert sizes(tmp_path / "a.gif") == ((4, 3), (4, 3))


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({}, (4, 3)),
        ({"PixelSpacing": [1, 1.005]}, (4, 3)),
        ({"PixelSpacing": [2, 1]}, (4, 6)),
        ({"ImagerPixelSpacing": [0.1, 0.25]}, (10, 3)),
        ({"PixelAspectRatio": [3, 1]}, (4, 9)),
        ({"PixelSpacing": [0, 1]}, (4, 3)),
    ],
)
def test_dicom_has_square_pixels(tmp_path, elements, expected):
    write_dicom(tmp_path / "a.dcm", WIDE, **elements)
    assert sizes(tmp_path / "a.dcm") == (expected, expected)


def test_each_frame_of_a_dicom_file_has_its_own_spacing(tmp_path):
    from pydicom import Dataset

    def group(spacing):
        item, measures = Dataset(), Dataset()
        measures.PixelSpacing = spacing
        item.PixelMeasuresSequence = [measures]
        return item

    groups = [group([1, 1]), group([2, 1]), group([1, 2])]
    write_dicom(tmp_path / "a.dcm", np.stack([WIDE] * 3), PerFrameFunctionalGroupsSequence=groups)
    assert [sizes(tmp_path / "a.dcm", frames=frame) for frame in (0, 1, 2, "middle")] == [
        ((4, 3), (4, 3)),
        ((4, 6), (4, 6)),
        ((8, 3), (8, 3)),
        ((4, 6), (4, 6)),
    ]


# Axes of the array -> of the patient: as they are, exchanged and mirrored, oblique.
AFFINES = (
    np.diag([1, 2, 4, 1]),
    np.array([[0, 0, 4, 0], [-1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]]),
    np.array([[0.9, 0.1, 0, 0], [0.1, 1.8, 0.2, 0], [0, 0.3, 4.1, 0], [0, 0, 0, 1]]),
)


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6), (5, 6, 7, 2), (5, 6, 7, 1)])
@pytest.mark.parametrize("axis", ["sagittal", "coronal", "axial"])
def test_slices_of_a_nifti_volume_lie_as_the_patient_does(tmp_path, affine, shape, axis):
    image = nibabel.Nifti1Image(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), affine.astype(float))
    nibabel.save(image, tmp_path / "a.nii.gz")
    told, shown = sizes(tmp_path / "a.nii.gz", axis=axis)
    assert told == shown


def test_a_nifti_volume_with_an_empty_matrix_lies_as_it_is_stored(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 7), np.int16), np.diag([1, 2, 4, 1.0])), tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[252:256] = (0).to_bytes(2, "little") + (1).to_bytes(2, "little")  # qform_code, sform_code
    data[280:328] = bytes(48)  # srow_x, srow_y, srow_z
    (tmp_path / "a.nii").write_bytes(data)
    for axis, size in (("sagittal", (6, 14)), ("coronal", (5, 28)), ("axial", (5, 12))):
        assert sizes(tmp_path / "a.nii", axis=axis) == (size, size)


def test_literal_sizes_of_slices(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 7), np.int16), np.diag([1, 2, 4, 1.0])), tmp_path / "a.nii")
    found = [sizes(tmp_path / "a.nii", axis=axis)[0] for axis in ("sagittal", "coronal", "axial")]
    assert found == [(6, 14), (5, 28), (5, 12)]


def test_of_a_tar_file_little_is_read(tmp_path):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (300, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", exif=exif(6))
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        entry = tarfile.TarInfo("a.jpg")
        entry.size = buffer.tell()
        file.addfile(entry, io.BytesIO(buffer.getvalue()))
    reader = ImageReader([tmp_path / "a.tar"])
    ref = ImageRef(str(reader.resolve("a.jpg")))
    assert reader.shown_size(ref) == reader.open(ref).size == (300, 200)
    assert reader.num_pictures(Tiles(100, 4), ref) == 5


def test_what_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    write_dicom(tmp_path / "a.dcm", WIDE)
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 7), np.int16), np.eye(4)), tmp_path / "a.nii")
    for name, view in (("a.png", {}), ("a.dcm", {"frames": 1}), ("a.nii", {"frames": 7}), ("missing.png", {})):
        with pytest.raises(UserError, match=name):
            ImageReader([tmp_path]).shown_size(ImageRef(str(tmp_path / name), View(**view)))
    with pytest.raises(UserError, match="more than the 10 pixels"):
        ImageReader([tmp_path], max_pixels=10).shown_size(ImageRef(str(tmp_path / "a.dcm")))
