"""Which files of a folder are images."""

from __future__ import annotations

import os

# The reader decides by an image's content, not by its suffix.
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".dcm", ".dicom", ".nii", ".nii.gz")


def is_image_name(name: str) -> bool:
    """Return whether a file is an image by its name alone."""
    return name.lower().endswith(SUFFIXES)


def is_image_file(path: str) -> bool:
    """Return whether a file is an image by its name, or because it begins as DICOM files do, whatever its name."""
    if is_image_name(path):
        return True
    # Imported here, because listing the converters needs only names.
    from medcap.data.images.dicom import START_BYTES, has_preamble

    if os.path.basename(path).upper() == "DICOMDIR":  # a table of contents, without pixels
        return False
    try:
        with open(path, "rb") as file:
            return has_preamble(file.read(START_BYTES))
    except OSError:
        return False


def without_suffix(name: str) -> str:
    """Cut off the suffix of an image: ``a/b.nii.gz`` -> ``a/b``; a name without such a suffix stays."""
    lower = name.lower()
    suffix = max((suffix for suffix in SUFFIXES if lower.endswith(suffix)), key=len, default="")
    stem = name[: len(name) - len(suffix)]
    return name if not stem or stem.endswith("/") else stem
