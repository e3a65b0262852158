"""DICOM files made for a test, and what a reader makes of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.views import DEFAULT_VIEW, View
from medcap.errors import UserError

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"


def dicom_dataset(pixels: np.ndarray, photometric: str = "MONOCHROME2", **elements: Any) -> Dataset:
    """A dataset that holds these stored values, in explicit little endian.

    Args:
        pixels: ``[rows, columns]``, ``[frames, rows, columns]``, or with a last axis of 3 for colours; uint8, int16
            or uint16.
        photometric: how they are to be read.
        elements: further ones by their keyword, or others in place of those that the pixels ask for.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid(entropy_srcs=["test"])
    colours = 3 if photometric in ("RGB", "YBR_FULL", "YBR_FULL_422") else 1
    shape = pixels.shape[:-1] if colours == 3 else pixels.shape
    dataset.Rows, dataset.Columns = shape[-2:]
    if len(shape) == 3:
        dataset.NumberOfFrames = shape[0]
    dataset.SamplesPerPixel = colours
    if colours == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    content = np.ascontiguousarray(pixels).tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def write_dicom(path: Path, pixels: np.ndarray, photometric: str = "MONOCHROME2", **elements: Any) -> Path:
    """Write such a dataset as a file with preamble."""
    dcmwrite(path, dicom_dataset(pixels, photometric, **elements), enforce_file_format=True)
    return path


def write_jpeg_dicom(path: Path, pixels: np.ndarray, header_shape: tuple[int, int] | None = None) -> Path:
    """Write 8-bit greys as a DICOM file compressed by JPEG, whose header may claim another shape."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    dataset = dicom_dataset(pixels)
    if header_shape:
        dataset.Rows, dataset.Columns = header_shape
    dataset.file_meta.TransferSyntaxUID = JPEG_BASELINE
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


def levels(reader: ImageReader, path: Path, view: View | None = None) -> list[list[int]]:
    """The grey levels of a picture whose three channels are equal: ``[rows][columns]``, 0 to 255."""
    image = reader.open(ImageRef(str(path), view or DEFAULT_VIEW))
    assert image.mode == "RGB"
    red, green, blue = np.moveaxis(np.asarray(image), -1, 0)
    assert (red == green).all()
    assert (red == blue).all()
    return red.tolist()


def problem(reader: ImageReader, path: Path, view: View | None = None, check: bool = False) -> str:
    """The one line that names the file and says why it is not read."""
    with pytest.raises(UserError) as caught:
        reader.check(path) if check else levels(reader, path, view)
    message = str(caught.value)
    assert message.startswith(f"image {path} ")
    assert "\n" not in message
    return message
