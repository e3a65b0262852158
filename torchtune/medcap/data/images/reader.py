"""Images from data files: only from allowed folders, only safe formats, always 8-bit RGB."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Generator, Hashable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from medcap.data.images.dicom import START_BYTES, DicomFile, DicomSeries, SeriesCache, has_preamble, is_bare
from medcap.data.images.frame_choice import MIDDLE, choose_frames
from medcap.data.images.image_errors import image_errors
from medcap.data.images.nifti import NiftiFile, is_nifti
from medcap.data.images.pixel_samples import MAX_PIXELS
from medcap.data.images.raster import FORMATS, coloured, decode, open_raster
from medcap.data.images.reference import ImageRef
from medcap.data.images.roots import TRAINING_KEYS, ImageRoots, LimitKeys
from medcap.data.images.shown_size import AnyFile, shown_size
from medcap.data.images.stored_values import StoredValues, stored_values
from medcap.data.images.tiles import Tiles, refuse_fit
from medcap.data.images.views import DEFAULT_VIEW, View
from medcap.data.images.volume import Volume, VolumeCache
from medcap.data.storage.tar_files import TarFiles
from medcap.errors import UserError, ViewError

# Rows without turns name their image so: ours and LLaVA-Med's, OmniMedVQA, VQA-RAD, SLAKE.
IMAGE_KEYS = ("image", "images", "image_path", "image_name", "img_name")
MAX_BYTES = 256 * 2**20
_SERIES_PROBE = 32  # files of a folder among which one must be DICOM
_MOST_SLICES = 10_000


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

    A folder that holds one DICOM series is one image, a volume.

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
        self._volumes, self._series = VolumeCache(), SeriesCache()

    def resolve(self, path: str | Path, folder: str | Path | None = None) -> Path:
        """Find the file that a row names.

        Args:
            path: path as it is in the row.
            folder: medcap 2024's ``dir``: the folder of ``path``, relative to the working directory or to a root.

        Returns:
            The absolute path, links followed; ``file.tar!/name`` for a member of a tar file.

        Raises:
            UserError: if it is outside the roots or does not exist, or is a folder without a DICOM file.
        """
        found = self._within.resolve(path, folder)
        if found.is_dir() and not any(_is_dicom(found / name) for name in self._files_of(found, _SERIES_PROBE)):
            raise UserError(f"image {path} does not exist as a file, and the folder of this name holds no DICOM files")
        return found

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

    def expand(self, image: ImageRef) -> list[ImageRef]:
        """Return a reference for each picture that one means, in order; of several frames, each has its number.

        Args:
            image: a reference whose path :meth:`resolve` returned.

        Returns:
            The reference itself where it means one picture; ``N even`` and ``all`` of a file with one frame mean it.

        Raises:
            UserError: if there is no such frame, or the header cannot be read.
        """
        if image.view.frames in (MIDDLE, 0):
            return [image]
        with contextlib.ExitStack() as closing:
            file = self._open_header(Path(image.path), closing)
            with self._named(image.path):
                views = _expanded(file, image.view)
                if image.drawing is not None and len(views) > 1:
                    raise ViewError(f"means {len(views)} pictures, but a mask lies on one: name one frame")
        return [replace(image, view=view) for view in views]

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
            opened, file = self._open(Path(image.path), closing)
            with self._named(image.path):
                return shown_size(opened, image.view, file)

    def num_pictures(self, tiles: Tiles, image: ImageRef) -> int:
        """Return the number of pictures that tiles make of an image; raises what :meth:`shown_size` raises.

        A ``fit`` of the image is refused here, where rows are checked, and not when training reaches its pixels.
        """
        refuse_fit(image.view.fit, tiles)
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

    def stored_values(self, path: str | Path) -> StoredValues:
        """Read the numbers that the pixels of a picture hold, such as a mask's.

        Args:
            path: a path that :meth:`resolve` returned.

        Returns:
            As :func:`medcap.data.images.stored_values.stored_values`, which also says what is refused.
        """
        with contextlib.ExitStack() as closing:
            opened, file = self._open(Path(path), closing, whole=True)
            with self._named(path):
                return stored_values(opened, file)

    def stored_values_of_bytes(self, data: bytes) -> StoredValues:
        """Read the numbers that the pixels of a picture in memory hold; see :meth:`stored_values`."""
        with contextlib.ExitStack() as closing, self._named("of this request"):
            self._check_bytes(len(data))
            file = io.BytesIO(data)
            return stored_values(self._identify(file, closing, whole=True), file)

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
        return next(self.open_bytes_frames(data, view))

    def expand_bytes(self, data: bytes, view: View) -> list[View]:
        """Return the views of the single pictures that a view of an image in memory means; see :meth:`expand`."""
        if view.frames in (MIDDLE, 0):
            return [view]
        with contextlib.ExitStack() as closing, self._named("of this request"):
            self._check_bytes(len(data))
            return _expanded(self._identify(io.BytesIO(data), closing, whole=False), view)

    def has_greys_of_its_own(self, data: bytes) -> bool:
        """Return whether an image in memory is DICOM or NIfTI, so that windows and perhaps slices can be chosen."""
        with contextlib.ExitStack() as closing, self._named("of this request"):
            self._check_bytes(len(data))
            return isinstance(self._identify(io.BytesIO(data), closing, whole=False), DicomFile | NiftiFile)

    def open_bytes_frames(self, data: bytes, view: View) -> Generator[Image.Image]:
        """Decode all pictures that a view of an image in memory means, one after the other; see :meth:`open_bytes`."""
        with contextlib.ExitStack() as closing, self._named("of this request"):
            self._check_bytes(len(data))
            image = self._identify(io.BytesIO(data), closing, whole=True)
            if isinstance(image, DicomFile | NiftiFile):
                for _, picture in image.pictures(view):
                    yield coloured(picture)
                return
            for _ in choose_frames(view.frames, 1):
                single = decode(image, view) if isinstance(image, Image.Image) else next(image.pictures(view))[1]
                yield coloured(single)

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
                yield None, self._finished(picture, image, keep_grey)
                return
            pictures = file.pictures(image.view)
            while True:
                with self._named(image.path):
                    found = next(pictures, None)
                if found is None:
                    return
                yield found[0] if file.frames > 1 else None, self._finished(found[1], image, keep_grey)

    def _finished(self, picture: Image.Image, image: ImageRef, keep_grey: bool) -> Image.Image:
        """Return a decoded picture as a caller wants it, with what is drawn on it."""
        if image.drawing is None:
            return picture if keep_grey else coloured(picture)
        with self._named(image.path):
            return image.drawing.on(coloured(picture), self)

    def _open_header(self, path: Path, closing: contextlib.ExitStack, whole: bool = False) -> AnyFile:
        """Return the image, its header checked, not decoded yet.

        Args:
            path: path of a file, a member or the folder of a series.
            closing: gets what must be closed afterwards.
            whole: whether it will be decoded.
        """
        return self._open(path, closing, whole)[0]

    def _open(self, path: Path, closing: contextlib.ExitStack, whole: bool = False) -> tuple[AnyFile, BinaryIO | None]:
        """Return the image and the file that it is in; no file for the folder of a series."""
        member = self._within.member(path)
        with self._named(path):
            if member is None and path.is_dir():
                return self._open_series(path), None
            state = path.stat() if member is None else None
            size = state.st_size if state is not None else member[0].size(member[1])  # type: ignore[index]
            self._check_bytes(size)
            file: BinaryIO
            if member is None:
                file = closing.enter_context(path.open("rb"))
            else:
                # One read of the whole where all of it is wanted, as a decoder asks for a few kB at a time.
                file = io.BytesIO(member[0].read(member[1])) if whole else member[0].open(member[1])
                closing.enter_context(file)
            return self._identify(file, closing, whole, (str(path), size, state and state.st_mtime_ns)), file

    def _open_series(self, folder: Path) -> DicomSeries:
        names = self._files_of(folder)
        if len(names) > _MOST_SLICES:
            raise UserError(f"holds {len(names):,} files, more than the {_MOST_SLICES:,} slices of one volume")

        def open_slice(name: str, whole: bool) -> DicomFile | None:
            with (folder / name).open("rb") as file:
                start = file.read(START_BYTES)
                if not (has_preamble(start) or is_bare(start)):
                    return None
                file.seek(0)
                self._check_bytes(os.fstat(file.fileno()).st_size)
                return DicomFile(file, start, self.max_pixels, self.max_bytes, header_only=not whole)

        stack = self._series.get(str(folder), names, open_slice)
        return DicomSeries(stack, open_slice, self.max_pixels, partial(self._volumes.get, stack))

    def _files_of(self, folder: Path, most: int | None = None) -> list[str]:
        """Return the names of a folder's files that may belong to a series.

        Args:
            folder: links followed.
            most: return no more than these, the first ones.
        """
        found = []
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.name[0] == "." or entry.name.upper() == "DICOMDIR" or not entry.is_file():
                continue
            if entry.is_symlink() and not self._within.allow(Path(entry.path).resolve()):
                raise UserError(f"image {folder} holds {entry.name}, which leads outside the allowed folders")
            found.append(entry.name)
            if len(found) == most:
                break
        return found

    def _check_bytes(self, size: int) -> None:
        if size > self.max_bytes:
            raise UserError(f"has {size:,} bytes, more than the {self.max_bytes:,} allowed")

    def _identify(
        self, file: BinaryIO, closing: contextlib.ExitStack, whole: bool, key: Hashable | None = None
    ) -> AnyFile:
        """Return what a file is by its content; see ``_open_header``. A volume with a key is kept."""
        start = file.read(START_BYTES)
        file.seek(0)
        if not has_preamble(start):
            with contextlib.suppress(UnidentifiedImageError):
                return open_raster(file, start, whole, self.max_pixels, closing)
        file.seek(0)
        if is_nifti(file):
            keep: Callable[[Callable[[], Volume]], Volume] = partial(self._volumes.get, key) if key else _read_again
            return NiftiFile(file, self.max_pixels, keep)
        if has_preamble(start) or is_bare(start):
            return DicomFile(file, start, self.max_pixels, self.max_bytes, header_only=not whole)
        raise UserError(f"is not a readable image of the formats {', '.join(FORMATS)}, DICOM, NIfTI")

    def _named(self, path: str | Path) -> contextlib.AbstractContextManager[None]:
        return image_errors(path, self.max_pixels, self.keys)


def _expanded(file: AnyFile, view: View) -> list[View]:
    count = file.count(view.axis) if isinstance(file, DicomFile | DicomSeries | NiftiFile) else 1
    numbers = choose_frames(view.frames, count)
    return [replace(view, frames=MIDDLE if count == 1 else number) for number in numbers]


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    return has_preamble(start) or is_bare(start)


def _read_again(load: Callable[[], Volume]) -> Volume:
    return load()
