"""Images from files: finding them, and reading every format to 8-bit pictures."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # Imported on first use, so that importing a part of this package costs no more than that part.
    if name == "ImageReader":
        from medcap.data.images.reader import ImageReader

        return ImageReader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
