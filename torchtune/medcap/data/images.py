"""Images from data files: only from allowed folders, only safe formats, always 8-bit RGB."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medcap.errors import UserError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")
MAX_PIXELS = 50_000_000
MAX_BYTES = 256 * 2**20


class ImageReader:
    """Finds and opens the images that data rows name.

    A row may come from anywhere, so a path must resolve (links followed) inside one of ``roots``, and the size is
    read from the header before anything is decoded.

    Args:
        roots: folders that images may lie in. Relative paths are tried against each in turn.
        max_pixels: width x height above which an image is refused.
        max_bytes: file size above which an image is refused.

    Raises:
        UserError: if a root is not a folder.
    """

    def __init__(self, roots: Iterable[str | Path], max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> None:
        self.roots = []
        for root in roots:
            resolved = Path(root).resolve()
            if not resolved.is_dir():
                raise UserError(f"image root {root} is not a folder: correct dataset.image_roots")
            if resolved not in self.roots:
                self.roots.append(resolved)
        self.max_pixels = max_pixels
        self.max_bytes = max_bytes

    def resolve(self, path: str | Path, folder: str | Path | None = None) -> Path:
        """Find the file that a row names.

        Args:
            path: as it stands in the row.
            folder: medcap's ``dir``: a folder, relative to the working directory or to a root, that ``path`` is in.

        Returns:
            The absolute path, links followed.

        Raises:
            UserError: if it lies outside the roots or does not exist.
        """
        named = Path(folder, path) if folder else Path(path)
        if "\0" in str(named):
            raise UserError(f"image path {str(named)!r} holds a NUL character")
        bases = [Path.cwd(), *self.roots] if folder else self.roots
        outside = None
        for base in bases:
            resolved = (base / named).resolve()
            if not any(resolved.is_relative_to(root) for root in self.roots):
                outside = outside or resolved
            elif resolved.is_file():
                return resolved
        if outside is not None and outside.is_file():
            raise UserError(
                f"image {named} lies outside the allowed folders: add its folder to dataset.image_roots"
                f" (allowed now: {', '.join(map(str, self.roots))})"
            )
        raise UserError(f"image {named} does not exist in {', '.join(map(str, self.roots))}")

    def check(self, path: str | Path) -> None:
        """Check size and format by the header alone.

        Raises:
            UserError: if the file is too large, of another format, or damaged at its start.
        """
        self._open_header(Path(path)).close()

    def open(self, path: str | Path) -> Image.Image:
        """Decode an image.

        Args:
            path: a path that :meth:`resolve` returned.

        Returns:
            The upright 8-bit RGB picture: EXIF rotation applied, palettes and CMYK converted, transparency laid on
            white, 16-bit, 32-bit and float greys stretched from their own minimum and maximum to 0..255.

        Raises:
            UserError: if the file is too large, of another format, truncated or otherwise damaged.
        """
        with self._open_header(Path(path)) as image:
            try:
                image.load()
                return to_rgb(image)
            except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
                raise UserError(f"image {path} is damaged: {error}") from error

    def _open_header(self, path: Path) -> Image.Image:
        try:
            size = path.stat().st_size
            if size > self.max_bytes:
                raise UserError(f"image {path} has {size:,} bytes, more than the {self.max_bytes:,} allowed")
            image = Image.open(path, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise UserError(f"image {path} has more than the {self.max_pixels:,} pixels allowed") from error
        except UnidentifiedImageError as error:
            raise UserError(f"image {path} is not a readable image of the formats {', '.join(FORMATS)}") from error
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"image {path} cannot be opened: {error}") from error
        width, height = image.size
        if width * height > self.max_pixels:
            image.close()
            raise UserError(
                f"image {path} is {width} x {height}, more than the {self.max_pixels:,} pixels allowed"
                " (dataset.max_image_pixels)"
            )
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn any picture that Pillow decodes into an upright 8-bit RGB one.

    Colours are converted before anything resizes them: a palette index or a 16-bit value cannot be interpolated.

    Args:
        image: any mode.

    Returns:
        Mode RGB, EXIF orientation applied.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        # A tRNS colour key makes pixels of one colour transparent although the mode has no alpha channel.
        return image if "transparency" not in image.info else _on_white(image.convert("RGBA"))
    if image.mode.startswith(("I", "F")):
        return _stretch(np.asarray(image, dtype=np.float64)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    background = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(background, image).convert("RGB")


def _stretch(values: np.ndarray) -> Image.Image:
    finite = np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 0.0)
    span = high - low
    scaled = (np.where(finite, values, low) - low) * (255.0 / span) if span > 0 else np.zeros_like(values)
    return Image.fromarray(np.round(scaled).astype(np.uint8), mode=None)
