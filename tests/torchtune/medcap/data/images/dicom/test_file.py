import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_rescale, apply_windowing
from pydicom.uid import JPEG2000Lossless, RLELossless

from helpers.dicom_files import dicom_dataset, levels, problem, write_dicom, write_jpeg_dicom
from medcap.data.images.dicom import is_bare
from medcap.data.images.dicom.greys import window_levels
from medcap.data.images.reader import ImageHeader, ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.views import View

RAMP = np.array([[0, 100], [200, 500]], dtype=np.uint16)


@pytest.fixture
def reader(tmp_path):
    return ImageReader([tmp_path])


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm"])
def test_real_files_have_the_levels_of_the_standard(reader, tmp_path, name):
    source = get_testdata_file(name, download=False)
    path = tmp_path / "a.dcm"
    path.write_bytes(Path(source).read_bytes())
    dataset = dcmread(source)
    values = apply_rescale(dataset.pixel_array, dataset).astype(float)
    if "WindowCenter" in dataset:
        dataset.PixelRepresentation, dataset.BitsStored = 0, 16  # what pydicom scales its result to
        windowed = apply_windowing(values, dataset)
        expected = windowed / (2**16 - 1) * 255
    else:
        expected = (values - values.min()) / (values.max() - values.min()) * 255
    # Adding an intercept makes the last digits differ between the two ways to write the formula.
    assert np.abs(np.array(levels(reader, path)) - expected).max() <= 0.5 + 1e-9


def test_without_a_window_the_range_is_stretched(reader, tmp_path):
    assert levels(reader, write_dicom(tmp_path / "a.dcm", RAMP)) == [[0, 51], [102, 255]]


def test_the_header_tells_columns_and_rows(reader, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((3, 5), dtype=np.uint16))
    assert reader.check(path) == ImageHeader("DICOM", 5, 3)


def test_eight_bits_are_levels_already(reader, tmp_path):
    values = np.array([[10, 20], [30, 40]], dtype=np.uint8)
    assert levels(reader, write_dicom(tmp_path / "a.dcm", values)) == [[10, 20], [30, 40]]
    four_bits = {"BitsStored": 4, "HighBit": 3}
    assert levels(reader, write_dicom(tmp_path / "b.dcm", values // 10, **four_bits)) == [[17, 34], [51, 68]]


def test_a_window_is_in_rescaled_units(reader, tmp_path):
    # Hounsfield units -1000, -900, -800, -500; the linear function of a width w reaches both ends within w - 1.
    options = {"RescaleSlope": 1, "RescaleIntercept": -1000, "WindowCenter": -749.5, "WindowWidth": 501}
    path = write_dicom(tmp_path / "a.dcm", RAMP, **options)
    assert levels(reader, path) == [[0, 51], [102, 255]]
    assert levels(reader, path, View(window=(-879.5, 121))) == [[0, 85], [255, 255]]


def test_signed_pixels(reader, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.array([[-200, -100], [0, 300]], dtype=np.int16))
    assert levels(reader, path) == [[0, 51], [102, 255]]


def test_one_of_several_windows_is_chosen(reader, tmp_path):
    windows = {"WindowCenter": [250.5, 50.5], "WindowWidth": [501, 101]}
    path = write_dicom(tmp_path / "a.dcm", RAMP, **windows)
    assert levels(reader, path) == levels(reader, path, View(window=0)) == [[0, 51], [102, 255]]
    assert levels(reader, path, View(window=1)) == [[0, 255], [255, 255]]
    assert "has no window 2: it has 2, numbered from 0" in problem(reader, path, View(window=2))


@pytest.mark.parametrize(
    ("function", "expected"),
    [("LINEAR", [0, 103, 255]), ("LINEAR_EXACT", [0, 102, 255]), ("SIGMOID", [30, 102, 225])],
)
def test_window_functions(function, expected):
    values = np.array([0, 40, 100])
    assert window_levels(values, 50, 100, function).tolist() == expected


def test_a_window_of_width_one_is_a_threshold():
    assert window_levels(np.array([9, 10, 11]), 10.5, 1).tolist() == [0, 0, 255]


def test_a_window_that_is_none_is_passed_over(reader, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=0, WindowWidth=0)
    assert levels(reader, path) == [[0, 51], [102, 255]]


def test_monochrome1_is_dark_where_its_values_are_high(reader, tmp_path):
    assert levels(reader, write_dicom(tmp_path / "a.dcm", RAMP, "MONOCHROME1")) == [[255, 204], [153, 0]]


def lut(first, bits, data):
    item = Dataset()
    item.LUTDescriptor = [len(data), first, bits]
    item.LUTData = data
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return [item]


def test_lookup_tables(reader, tmp_path):
    table = lut(100, 10, [0, 1023, 511])
    path = write_dicom(tmp_path / "a.dcm", np.array([[0, 100], [101, 300]], np.uint16), VOILUTSequence=table)
    assert levels(reader, path) == [[0, 0], [255, 127]]
    # A table is made for the image, so it goes before a window, unless a window is asked for by its number.
    both = {"VOILUTSequence": table, "WindowCenter": 250.5, "WindowWidth": 501}
    path = write_dicom(tmp_path / "b.dcm", RAMP, **both)
    assert levels(reader, path) == [[0, 0], [127, 127]]
    assert levels(reader, path, View(window=0)) == [[0, 51], [102, 255]]
    modality = {"ModalityLUTSequence": lut(0, 16, [500, 400, 100]), "WindowCenter": 300.5, "WindowWidth": 401}
    path = write_dicom(tmp_path / "c.dcm", np.array([[0, 1], [2, 9]], np.uint16), **modality)
    assert levels(reader, path) == [[255, 191], [0, 0]]


def test_padding_has_no_part_in_the_range(reader, tmp_path):
    values = np.array([[-2000, 0], [100, 500]], dtype=np.int16)
    assert levels(reader, write_dicom(tmp_path / "a.dcm", values, PixelPaddingValue=-2000)) == [[0, 0], [51, 255]]


def test_the_middle_frame_is_the_picture_and_others_can_be_had(reader, tmp_path):
    frames = np.stack([np.full((2, 2), 10 * number, dtype=np.uint8) for number in range(5)])
    path = write_dicom(tmp_path / "a.dcm", frames)
    assert levels(reader, path) == [[20, 20], [20, 20]]
    assert levels(reader, path, View(frames=4)) == [[40, 40], [40, 40]]
    pictures = reader.open_frames(ImageRef(str(path), View(frames="all")))
    every = [(number, image.getpixel((0, 0))[0]) for number, image in pictures]
    assert every == [(0, 0), (1, 10), (2, 20), (3, 30), (4, 40)]
    assert "has no frame 5: it has 5, numbered from 0" in problem(reader, path, View(frames=5))


def test_frames_of_an_enhanced_file_have_their_own_values(reader, tmp_path):
    def group(sequence, **elements):
        item, inner = Dataset(), Dataset()
        for keyword, value in elements.items():
            setattr(inner, keyword, value)
        setattr(item, sequence, [inner])
        return item

    shared = group("PixelValueTransformationSequence", RescaleSlope=2, RescaleIntercept=0)
    own = [
        group("FrameVOILUTSequence", WindowCenter=center, WindowWidth=width)
        for center, width in ((500.5, 1001), (250.5, 501))
    ]
    groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": own}
    path = write_dicom(tmp_path / "a.dcm", np.stack([RAMP, RAMP]), **groups)
    assert levels(reader, path, View(frames=0)) == [[0, 51], [102, 255]]
    assert levels(reader, path, View(frames=1)) == [[0, 102], [204, 255]]


def test_colours(reader, tmp_path):
    colours = np.array([[[255, 0, 0], [0, 128, 255]]] * 2, dtype=np.uint8)
    image = reader.open(write_dicom(tmp_path / "rgb.dcm", colours, "RGB"))
    assert np.asarray(image)[0].tolist() == [[255, 0, 0], [0, 128, 255]]
    deep = reader.open(write_dicom(tmp_path / "deep.dcm", colours.astype(np.uint16) * 256, "RGB"))
    assert np.asarray(deep)[0].tolist() == [[255, 0, 0], [0, 128, 255]]
    grey = np.full((2, 2, 3), 128, dtype=np.uint8)
    grey[..., 0] = 77
    image = reader.open(write_dicom(tmp_path / "ybr.dcm", grey, "YBR_FULL"))
    assert np.asarray(image)[0].tolist() == [[77, 77, 77]] * 2
    palette = {f"{name}PaletteColorLookupTableDescriptor": [2, 0, 16] for name in ("Red", "Green", "Blue")}
    for name, data in (("Red", (0, 65535)), ("Green", (32896, 0)), ("Blue", (0, 0))):
        palette[f"{name}PaletteColorLookupTableData"] = struct.pack("<2H", *data)
    indices = np.array([[0, 1], [1, 0]], dtype=np.uint8)
    image = reader.open(write_dicom(tmp_path / "palette.dcm", indices, "PALETTE COLOR", **palette))
    assert np.asarray(image)[0].tolist() == [[0, 128, 0], [255, 0, 0]]


def test_pixels_that_are_not_square_are_resized(reader, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((10, 20), dtype=np.uint8), PixelSpacing=[2.0, 1.0])
    assert reader.open(path).size == (20, 20)
    path = write_dicom(tmp_path / "b.dcm", np.zeros((10, 20), dtype=np.uint8), PixelSpacing=[1e6, 1.0])
    assert "10000000 with square pixels" in problem(reader, path)


def test_a_jpeg_inside(reader, tmp_path):
    grey = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
    found = np.array(levels(reader, write_jpeg_dicom(tmp_path / "a.dcm", grey)))
    assert np.abs(found - grey.astype(int)).max() <= 6


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_lossless_compression_changes_nothing(reader, tmp_path, syntax):
    values = np.random.default_rng(0).integers(0, 4000, (2, 40, 37), dtype=np.uint16)
    dataset = dicom_dataset(values)
    dataset.compress(syntax, generate_instance_uid=False)
    dcmwrite(tmp_path / "small.dcm", dataset, enforce_file_format=True)
    plain = write_dicom(tmp_path / "plain.dcm", values)
    assert levels(reader, tmp_path / "small.dcm") == levels(reader, plain)


@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_bigendian", "MR_small_implicit"],
)
def test_the_same_image_in_every_transfer_syntax(tmp_path, name):
    plain, other = (
        ImageReader([]).open(get_testdata_file(f"{file}.dcm", download=False)) for file in ("MR_small", name)
    )
    assert other.tobytes() == plain.tobytes()


def test_a_deflated_file_is_read_but_not_beyond_the_byte_cap(reader, tmp_path):
    dataset = dicom_dataset(np.zeros((500, 500), dtype=np.uint16))
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    path = tmp_path / "a.dcm"
    dcmwrite(path, dataset, enforce_file_format=True)
    assert reader.open(path).size == (500, 500)
    assert path.stat().st_size < 10_000
    assert "more than the 100,000 bytes allowed" in problem(ImageReader([tmp_path], max_bytes=100_000), path)


@pytest.mark.parametrize("name", ["none", "scan.dcm", "scan.png", "1.2.840.1"])
def test_the_name_says_nothing(reader, tmp_path, name):
    assert levels(reader, write_dicom(tmp_path / name, RAMP)) == [[0, 51], [102, 255]]


def test_a_picture_named_dcm_is_a_picture(reader, tmp_path):
    Image.new("L", (3, 2), 9).save(tmp_path / "a.dcm", "PNG")
    assert levels(reader, tmp_path / "a.dcm") == [[9, 9, 9], [9, 9, 9]]


def test_a_text_named_dcm_is_refused(reader, tmp_path):
    (tmp_path / "a.dcm").write_text("patient,finding\n1,none\n" * 20)
    assert "not a readable image of the formats" in problem(reader, tmp_path / "a.dcm", check=True)


@pytest.mark.parametrize("implicit", [False, True])
def test_a_file_without_preamble(reader, tmp_path, implicit):
    dataset = dicom_dataset(RAMP)
    del dataset.file_meta
    path = tmp_path / "bare.dcm"
    dcmwrite(path, dataset, implicit_vr=implicit, little_endian=True)
    assert path.read_bytes()[:2] == b"\x08\x00"
    assert levels(reader, path) == [[0, 51], [102, 255]]


@pytest.mark.parametrize("start", [b"", b"\x08\x00", b"hello, this is a text", b"\x08\x00\x16\x00\xff\xff\xff\xff" * 2])
def test_something_that_is_not_an_element_is_not_taken_for_one(start):
    assert not is_bare(start)


def test_a_member_of_a_tar_is_read(tmp_path):
    import tarfile

    write_dicom(tmp_path / "a.dcm", RAMP)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "a.dcm", "x/a.dcm")
    reader = ImageReader([tmp_path / "a.tar"])
    reader.check(reader.resolve("x/a.dcm"))
    assert levels(reader, reader.resolve("x/a.dcm")) == [[0, 51], [102, 255]]


@pytest.mark.processes
def test_without_pydicom_one_line_says_what_to_install(tmp_path):
    write_dicom(tmp_path / "a.dcm", RAMP)
    program = f"""
import sys
sys.modules["pydicom"] = None
from medcap.data.images.reader import ImageHeader, ImageReader
from medcap.errors import UserError
try:
    ImageReader([]).open({str(tmp_path / "a.dcm")!r})
except UserError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    expected = f"image {tmp_path}/a.dcm is a DICOM file: reading it needs pydicom, pip install 'medcap[dicom]'"
    assert run.stdout.strip() == expected


@pytest.mark.processes
def test_reading_pictures_imports_nothing_for_scans(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    program = f"""
import sys
from medcap.data.images.reader import ImageHeader, ImageReader
ImageReader([]).open({str(tmp_path / "a.png")!r})
print([name for name in sys.modules if name.split(".")[0] in ("pydicom", "nibabel", "torch")])
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("blanks", [b"", b"  ", b"    "])
def test_a_number_of_frames_of_blanks_is_one(reader, tmp_path, blanks):
    path = write_dicom(tmp_path / "a.dcm", np.arange(16, dtype=np.uint16).reshape(4, 4))
    dataset = dcmread(path)
    dataset.NumberOfFrames = 1
    dataset.save_as(path)
    whole = path.read_bytes()
    element = b"\x28\x00\x08\x00IS\x02\x00"
    assert whole.count(element) == 1
    start = whole.index(element)
    length = len(blanks).to_bytes(2, "little")
    path.write_bytes(whole[: start + 6] + length + blanks + whole[start + 10 :])
    assert levels(reader, path)[0] == [0, 17, 34, 51]


def test_a_number_of_frames_that_is_not_a_number_is_named(reader, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.uint16), NumberOfFrames=11)
    path.write_bytes(path.read_bytes().replace(b"IS\x02\x0011", b"IS\x02\x00ab"))
    assert problem(reader, path).endswith("has no whole number as NumberOfFrames")
