"""Pictures of DICOM files: stored values -> units of the modality -> window -> 8 bit."""

from __future__ import annotations

from medcap.data.images.dicom.file import START_BYTES, DicomFile, has_preamble, is_bare
from medcap.data.images.dicom.series import DicomSeries, SeriesCache

__all__ = ["START_BYTES", "DicomFile", "DicomSeries", "SeriesCache", "has_preamble", "is_bare"]
