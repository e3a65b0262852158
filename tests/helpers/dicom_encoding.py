"""DICOM files in every transfer syntax that a test can write itself."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)

from helpers.dicom_files import dicom_dataset
from helpers.jpeg_lossless import encode_lossless

SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg 2000": JPEG2000Lossless,
    "jpeg lossless": JPEGLosslessSV1,
}


def dicom_bytes(cells: np.ndarray, syntax: str, photometric: str = "MONOCHROME2", **elements: Any) -> bytes:
    """Write what the pixels are held in as a file.

    Args:
        cells: ``[rows, columns]``, or with a last axis of 3 for colours.
        syntax: one of ``SYNTAXES``.
        photometric: how they are to be read.
        elements: elements as in ``dicom_dataset``; or a pair of type and value, for an element that must have this
            type.
    """
    typed = {key: value for key, value in elements.items() if isinstance(value, tuple)}
    dataset = dicom_dataset(cells, photometric, **{key: elements[key] for key in elements.keys() - typed})
    for key, (kind, value) in typed.items():
        dataset.add_new(key, kind, value)
    dataset.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
    if syntax == "big endian":
        dataset.PixelData = _big_endian(dataset["PixelData"].value, cells.dtype.itemsize, dataset["PixelData"].VR)
        turn_tables(dataset)
    elif syntax == "jpeg 2000":
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    elif syntax == "rle":
        put_compressed(dataset, [encode_rle(cells)], RLELossless)
    elif syntax == "jpeg lossless":
        bits = dataset.BitsStored if dataset.HighBit == dataset.BitsStored - 1 else dataset.BitsAllocated
        samples = cells.view(f"u{cells.dtype.itemsize}") & (2**bits - 1)
        put_compressed(dataset, [encode_lossless(samples, bits)], JPEGLosslessSV1)
    return file_bytes(dataset)


def encode_rle(cells: np.ndarray) -> bytes:
    """Encode a frame as literal runs (PS3.5, annex G), a segment for each byte of each sample, the highest first."""
    planes = cells[..., None] if cells.ndim == 2 else cells
    width = cells.dtype.itemsize
    segments = []
    for sample in range(planes.shape[-1]):
        octets = np.ascontiguousarray(planes[..., sample]).view(np.uint8).reshape(-1, width)
        for number in reversed(range(width)):
            data = octets[:, number].tobytes()
            runs = [data[position : position + 128] for position in range(0, len(data), 128)]
            coded = b"".join(bytes([len(run) - 1]) + run for run in runs)
            segments.append(coded + b"\x80" * (len(coded) % 2))
    starts = np.cumsum([64, *map(len, segments)])[:-1]
    header = struct.pack("<I", len(segments)) + starts.astype("<u4").tobytes()
    return b"".join([header.ljust(64, b"\0"), *segments])


def put_compressed(dataset: Dataset, streams: list[bytes], syntax: str, offsets: bool = True) -> None:
    """Replace the pixels of a dataset by compressed frames."""
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate(streams, has_bot=offsets)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


def file_bytes(dataset: Dataset) -> bytes:
    """Write a dataset in its own transfer syntax."""
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def turn_tables(dataset: Dataset) -> None:
    """Turn round the words of lookup tables, which pydicom writes as they are."""
    for element in dataset.iterall():
        if element.VR == "OW" and element.keyword != "PixelData":
            element.value = np.frombuffer(element.value, dtype="<u2").astype(">u2").tobytes()


def _big_endian(data: bytes, width: int, kind: str) -> bytes:
    width = max(width, 2 if kind == "OW" else 1)
    return np.frombuffer(data, dtype=f"<u{width}").astype(f">u{width}").tobytes()
