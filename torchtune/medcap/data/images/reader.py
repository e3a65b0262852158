"""Images from data files: only from allowed folders, only safe formats, always 8-bit RGB."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from medcap.data.images.dicom import START_BYTES, DicomFile, has_preamble, is_bare
from medcap.data.images.nifti import NiftiFile, is_nifti
from medcap.data.images.raster import FORMATS, coloured, decode, open_raster
from medcap.data.images.reference import ImageRef
from medcap.data.images.roots import TRAINING_KEYS, ImageRoots, LimitKeys
from medcap.data.images.shown_size import AnyFile, shown_size
from medcap.data.images.tiles import Tiles
from medcap.data.images.views import DEFAULT_VIEW, View
from medcap.data.storage.tar_files import TarFiles
from medcap.errors import TooManyPixelsError, UserError, is_of_the_machine

# Rows without turns name their image so: ours and LLaVA-Med's, OmniMedVQA, VQA-RAD, SLAKE.
IMAGE_KEYS = ("image", "images", "image_path", "image_name", "img_name")
MAX_PIXELS = 50_000_000
MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class ImageHeader:
    """What the header of an image says.

    Attributes:
        format: Pillow's name of it, ``DICOM`` or ``NIfTI``.
        width: width in stored pixels, before any rotation; for a volume, the width of its stored axial slices.
        height: height in stored pixels as well.
    """

    format: str
    width: int
    height: int


class ImageReader:
    """Finds and opens the images that data rows name.

    A row may come from anywhere, so a path must resolve (links followed) inside one of ``roots``, and the size is
    read from the header before anything is decoded.

    Images may also be in tar files. A member is found by its name, where no folder has a file of that name, and is
    from then on called ``/folder/train-000000.tar!/sub/a.jpg``. A row may use this form too, but only for tar files
    that are among the roots: no other is ever opened.

    Args:
        roots: folders that images may be in, tar files, or names of many tar files as
            :func:`medcap.data.storage.tar_files.find_tars` expands them (``shards/train-{000000..000099}.tar``).
            Relative paths are tried against each in turn, folders first.
        max_pixels: width x height above which an image is refused.
        max_bytes: file size above which an image is refused.
        cache: folder to keep the tables of tar files in.
        keys: what messages call the limits.

    Attributes:
        roots: the folders and the tar files, links followed; a reader made from these finds the same images.

    Raises:
        UserError: if a root is neither a folder nor a tar file, or a tar file is damaged.
    """

    def __init__(
        self,
        roots: Iterable[str | Path | TarFiles],
        max_pixels: int = MAX_PIXELS,
        max_bytes: int = MAX_BYTES,
        cache: Path | None = None,
        keys: LimitKeys = TRAINING_KEYS,
    ) -> None:
        self._within = ImageRoots(roots, cache, keys)
        self.roots = self._within.all
        self.max_pixels = max_pixels
        self.max_bytes = max_bytes
        self.keys = keys

    def resolve(self, path: str | Path, folder: str | Path | None = None) -> Path:
        """Find the file that a row names.

        Args:
            path: path as it is in the row.
            folder: medcap 2024's ``dir``: the folder of ``path``, relative to the working directory or to a root.

        Returns:
            The absolute path, links followed; ``file.tar!/name`` for a member of a tar file.

        Raises:
            UserError: if it is outside the roots or does not exist.
        """
        return self._within.resolve(path, folder)

    def check(self, path: str | Path) -> ImageHeader:
        """Check size and format from the header only.

        Args:
            path: a path that :meth:`resolve` returned.

        Returns:
            The facts of the header.

        Raises:
            UserError: if the file is too large, of another format, or damaged at its start.
        """
        with contextlib.ExitStack() as closing:
            image = self._open_header(Path(path), closing)
            return ImageHeader(str(image.format), *image.size)

    def shown_size(self, image: ImageRef) -> tuple[int, int]:
        """Read the size of the picture that :meth:`open` would return, without decoding it.

        Args:
            image: a reference whose path :meth:`resolve` returned.

        Returns:
            Width and height: upright, and of a DICOM or NIfTI file with square pixels.

        Raises:
            UserError: if the file is too large, of another format, or damaged at its start, or has no such frame.
        """
        with contextlib.ExitStack() as closing:
            file = self._open_file(Path(image.path), closing, whole=False)
            with self._named(image.path):
                return shown_size(self._identify(file, closing, whole=False), image.view, file)

    def num_pictures(self, tiles: Tiles, image: ImageRef) -> int:
        """Return the number of pictures that tiles make of an image; raises what :meth:`shown_size` raises."""
        return tiles.num_pictures(self.shown_size(image))

    def open(self, image: ImageRef | str | Path, keep_grey: bool = False) -> Image.Image:
        """Decode an image.

        Args:
            image: a reference whose path :meth:`resolve` returned, or such a path: then the middle frame, and the
                window of the file.
            keep_grey: leave a picture without colour in mode L; resizing it takes half the time, to the same pixels.

        Returns:
            The upright 8-bit RGB picture: EXIF rotation applied, palettes and CMYK converted, transparency laid on
            white; greys and colours of more than 8 bits, signed ones and floats stretched from their own minimum and
            maximum to 0..255; DICOM and NIfTI as :mod:`medcap.data.images.dicom` and
            :mod:`medcap.data.images.nifti` say.

        Raises:
            UserError: if the file is too large, of another format, truncated or otherwise damaged.
        """
        with contextlib.closing(self.open_frames(ImageRef.of(image), keep_grey)) as pictures:
            return next(pictures)[1]

    def open_bytes(self, data: bytes, view: View = DEFAULT_VIEW) -> Image.Image:
        """Decode an image that is in memory, such as one that came over a network; no path is involved.

        Args:
            data: the content of a file, of any format that :meth:`open` reads.
            view: which frame or slice, and which window.

        Returns:
            As :meth:`open`.

        Raises:
            UserError: as :meth:`open`.
        """
        name = Path("of this request")
        with contextlib.ExitStack() as closing:
            with self._named(name):
                self._check_bytes(len(data))
                image = self._identify(io.BytesIO(data), closing, whole=True)
            with self._named(name):
                if isinstance(image, Image.Image):
                    return coloured(decode(image, view))
                return coloured(next(image.pictures(view))[1])

    def open_frames(self, image: ImageRef, keep_grey: bool = False) -> Generator[tuple[int | None, Image.Image]]:
        """Decode frames of a DICOM file or slices of a NIfTI volume, one after the other; of other formats the first.

        Args:
            image: a reference whose path :meth:`resolve` returned.
            keep_grey: whether to keep grey, as in :meth:`open`.

        Yields:
            The frame's number from 0, None where there is only one; and the picture, as :meth:`open` returns it.

        Raises:
            UserError: as :meth:`open`, and if there is no such frame or window.
        """
        with contextlib.ExitStack() as closing:
            file = self._open_header(Path(image.path), closing, whole=True)
            if isinstance(file, Image.Image):
                with self._named(image.path):
                    picture = decode(file, image.view)
                yield None, picture if keep_grey else coloured(picture)
                return
            pictures = file.pictures(image.view)
            while True:
                with self._named(image.path):
                    found = next(pictures, None)
                if found is None:
                    return
                yield found[0] if file.frames > 1 else None, found[1] if keep_grey else coloured(found[1])

    def _open_header(self, path: Path, closing: contextlib.ExitStack, whole: bool = False) -> AnyFile:
        """Return the image, its header checked, not decoded yet.

        Args:
            path: path of a file or a member.
            closing: gets what must be closed afterwards.
            whole: whether it will be decoded.
        """
        file = self._open_file(path, closing, whole)
        with self._named(path):
            return self._identify(file, closing, whole)

    def _open_file(self, path: Path, closing: contextlib.ExitStack, whole: bool) -> BinaryIO:
        """Open a file or a member, checked for its bytes; see ``_open_header``."""
        member = self._within.member(path)
        with self._named(path):
            self._check_bytes(path.stat().st_size if member is None else member[0].size(member[1]))
            if member is None:
                return closing.enter_context(path.open("rb"))
            # One read of the whole where all of it is wanted, as a decoder asks for a few kB at a time.
            file = io.BytesIO(member[0].read(member[1])) if whole else member[0].open(member[1])
            return closing.enter_context(file)

    def _check_bytes(self, size: int) -> None:
        if size > self.max_bytes:
            raise UserError(f"has {size:,} bytes, more than the {self.max_bytes:,} allowed")

    def _identify(self, file: BinaryIO, closing: contextlib.ExitStack, whole: bool) -> AnyFile:
        """Return what a file is by its content; see ``_open_header``."""
        start = file.read(START_BYTES)
        file.seek(0)
        if not has_preamble(start):
            with contextlib.suppress(UnidentifiedImageError):
                return open_raster(file, start, whole, self.max_pixels, closing)
        file.seek(0)
        if is_nifti(file):
            return NiftiFile(file, self.max_pixels)
        if has_preamble(start) or is_bare(start):
            return DicomFile(file, start, self.max_pixels, self.max_bytes, header_only=not whole)
        raise UserError(f"is not a readable image of the formats {', '.join(FORMATS)}, DICOM, NIfTI")

    @contextlib.contextmanager
    def _named(self, path: str | Path) -> Generator[None]:
        """Say which image an error is about, whatever it is: no list covers what damaged files make decoders raise."""
        limit = f" ({self.keys.pixels})" if self.keys.pixels else ""
        try:
            yield
        except TooManyPixelsError as error:
            raise UserError(f"image {path} {error}{limit}") from error
        except UserError as error:
            raise UserError(f"image {path} {error}") from error
        except Image.DecompressionBombError as error:
            raise UserError(f"image {path} has more than the {self.max_pixels:,} pixels allowed{limit}") from error
        except Exception as error:
            if is_of_the_machine(error):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            # The system's errors have a number, decoders' errors have none.
            trouble = "cannot be opened" if isinstance(error, OSError) and error.errno else "is damaged"
            raise UserError(f"image {path} {trouble}: {reason}") from error
