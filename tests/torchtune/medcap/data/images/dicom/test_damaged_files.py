import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmwrite
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from helpers.dicom_files import dicom_dataset, problem, write_dicom, write_jpeg_dicom
from medcap.data.images.reader import ImageReader
from medcap.errors import UserError

RAMP = np.array([[0, 100], [200, 500]], dtype=np.uint16)


@pytest.fixture
def reader(tmp_path):
    return ImageReader([tmp_path])


def test_pixel_data_that_are_cut_off(reader, tmp_path):
    whole = write_dicom(tmp_path / "a.dcm", np.zeros((64, 64), dtype=np.uint16)).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-100])
    reader.check(tmp_path / "cut.dcm")
    assert "is damaged: " in problem(reader, tmp_path / "cut.dcm")
    (tmp_path / "header.dcm").write_bytes(whole[: -64 * 64 * 2 - 12])
    assert "has no pixel data; is the file cut off?" in problem(reader, tmp_path / "header.dcm")
    short = write_dicom(tmp_path / "few.dcm", np.zeros((64, 64), dtype=np.uint16), Rows=128)
    assert "is damaged: " in problem(reader, short)


@pytest.mark.filterwarnings("ignore:End of file reached")
def test_a_jpeg_that_is_cut_off(reader, tmp_path):
    whole = write_jpeg_dicom(tmp_path / "a.dcm", np.zeros((64, 64), dtype=np.uint8)).read_bytes()
    start = whole.index(b"\xff\xd8")
    (tmp_path / "cut.dcm").write_bytes(whole[: start + 30])
    assert "is it cut off?" in problem(reader, tmp_path / "cut.dcm")


@pytest.mark.parametrize("check", [True, False])
def test_a_header_that_claims_too_many_pixels_is_refused_before_decoding(tmp_path, monkeypatch, check):
    from pydicom.pixels.decoders.base import Decoder

    monkeypatch.setattr(Decoder, "as_array", lambda *_, **__: pytest.fail("it was decoded"))
    small = np.zeros((4, 4), dtype=np.uint8)
    huge = write_dicom(tmp_path / "huge.dcm", small, Rows=65535, Columns=65535)
    reader = ImageReader([tmp_path])
    assert "is 65535 x 65535, more than the 50,000,000 pixels allowed" in problem(reader, huge, check=check)
    many = write_dicom(tmp_path / "many.dcm", small, NumberOfFrames=2_000_000_000)
    assert "is 4 x 4 x 2000000000 frames" in problem(reader, many, check=check)
    assert "is 4 x 4, more than the 15 pixels" in problem(
        ImageReader([tmp_path], max_pixels=15), write_dicom(tmp_path / "a.dcm", small), check=check
    )
    wide = write_dicom(tmp_path / "wide.dcm", small, SamplesPerPixel=60_000)
    assert "has 60000 samples a pixel" in problem(reader, wide, check=check)


def test_a_bomb_inside_the_compressed_data_is_refused_before_decoding(reader, tmp_path, monkeypatch):
    from pydicom.pixels.decoders.base import Decoder

    monkeypatch.setattr(Decoder, "as_array", lambda *_, **__: pytest.fail("it was decoded"))
    path = write_jpeg_dicom(tmp_path / "a.dcm", np.zeros((3000, 3000), dtype=np.uint8), header_shape=(8, 8))
    assert "is 8 x 8 by its header, but its compressed data say 3000 x 3000" in problem(reader, path)
    dataset = dicom_dataset(np.zeros((8, 8), dtype=np.uint8))
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.PixelData = encapsulate([b"\1" + bytes(63) + b"\x81\0" * 5000])
    dataset["PixelData"].is_undefined_length = True
    dcmwrite(tmp_path / "rle.dcm", dataset, enforce_file_format=True)
    assert "frame 0 has 10,064 bytes for 64 bytes of pixels" in problem(reader, tmp_path / "rle.dcm")


def test_a_file_without_pixels_says_what_it_is(reader, tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(Path(get_testdata_file("rtstruct.dcm", download=False)).read_bytes())
    assert "is a DICOM file without pixels (RT Structure Set Storage)" in problem(reader, path, check=True)


def test_a_syntax_that_nothing_decodes(reader, tmp_path):
    dataset = dicom_dataset(np.zeros((4, 4), dtype=np.uint8))
    dcmwrite(tmp_path / "a.dcm", dataset, enforce_file_format=True)
    content = (tmp_path / "a.dcm").read_bytes()
    mpeg = content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0")
    (tmp_path / "a.dcm").write_bytes(mpeg)
    assert "which cannot be decoded" in problem(reader, tmp_path / "a.dcm", check=True)


def test_a_decoder_that_panics_is_a_damaged_image(reader, tmp_path):
    # A run that goes beyond the end of the data makes pylibjpeg-rle's Rust panic, which is no Exception.
    damaged = bytearray(Path(get_testdata_file("MR_small_RLE.dcm", download=False)).read_bytes())
    item = b"\xfe\xff\x00\xe0"
    frame = damaged.index(item, damaged.index(item) + 4)
    damaged[frame + 1956] = 127
    (tmp_path / "a.dcm").write_bytes(damaged)
    assert "is damaged: " in problem(reader, tmp_path / "a.dcm")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_random_damage_gives_one_line_or_a_picture(reader, tmp_path):
    random = np.random.default_rng(0)
    for name in ("CT_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm"):
        whole = bytearray(Path(get_testdata_file(name, download=False)).read_bytes())
        for _ in range(25):
            damaged = bytearray(whole)
            for position in random.integers(0, len(whole), 12):
                damaged[position] = random.integers(0, 256)
            (tmp_path / "a.dcm").write_bytes(damaged)
            try:
                assert reader.open(tmp_path / "a.dcm").mode == "RGB"
            except UserError as error:
                assert "\n" not in str(error)


def test_a_deflate_bomb_is_stopped_early(tmp_path):
    dataset = dicom_dataset(np.zeros((4, 4), dtype=np.uint8))
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    meta_end = 144 + struct.unpack("<I", buffer.getvalue()[140:144])[0]
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(20)) + packer.flush()
    (tmp_path / "a.dcm").write_bytes(buffer.getvalue()[:meta_end] + bomb)
    assert "when it is inflated" in problem(ImageReader([tmp_path], max_bytes=10**7), tmp_path / "a.dcm", check=True)
