"""Images of a generate call: read ahead in threads, encoded in batches, each kept for its next questions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from medcap.data.boxes.box import Size
from medcap.data.boxes.frame import Frame
from medcap.data.images.orientation import upright
from medcap.data.images.raster import to_rgb
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.tiles import Tiles
from medcap.data.question_regions import QuestionRegion
from medcap.data.regions.patch_weights import region_weights
from medcap.errors import UserError
from medcap.generation.decoding.prefix_tree import image_key
from medcap.generation.decoding.seen_image import SeenImage
from medcap.generation.request import PreparedImage, RequestImage
from medcap.models.preprocess import Preprocess
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.threads import reading_threads

MAX_BYTES = 512 * 2**20
MAX_THREADS = 4


# What reading an image raises, whatever is wrong with it.
_READ_ERRORS = (OSError, ValueError, SyntaxError, EOFError)


def num_pictures(reader: ImageReader, tiles: Tiles, image: RequestImage | str | Path) -> int:
    """Return the number of pictures that tiles make of a request's image; 1 for one that cannot be read.

    Args:
        reader: finds files.
        tiles: how images are cut.
        image: an image of any kind; a path counts as a reference in the default view.
    """
    if isinstance(image, PreparedImage):
        return 1 if image.pixels.ndim == 3 else len(image.pixels)
    try:
        if isinstance(image, Image.Image):
            return tiles.num_pictures(upright(image).size)
        ref = ImageRef.of(image)
        return reader.num_pictures(tiles, replace(ref, path=str(reader.resolve(ref.path))))
    except (UserError, *_READ_ERRORS):
        # Encoding it fails too, and gives the request the reason.
        return 1


class _Opened(NamedTuple):
    """An image as the tower is shown it, and as what looks at another picture is, where there is such."""

    shown: Tensor  # [3, H, W] or [n, 3, H, W] uint8
    frame: Frame
    own: Tensor | None  # [3, S, S] uint8
    own_frame: Frame | None


class ImageRows:
    """Projected image tokens by image, the least recently used forgotten first.

    Args:
        model: encodes; its tower and projector must be in eval mode.
        preprocess: the tower's.
        reader: opens references.
        batch_size: images that are encoded together.
        max_bytes: device memory for images beyond those of the current batch.
        own_picture: how images become the pictures of what looks at others than the tower; None without such.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        preprocess: Preprocess,
        reader: ImageReader,
        batch_size: int,
        max_bytes: int = MAX_BYTES,
        own_picture: Preprocess | None = None,
    ) -> None:
        self._model = model
        self._preprocess = preprocess
        self._transform = preprocess.transform()
        self._own = own_picture
        self._as_own = None if own_picture is None else own_picture.transform()
        self._reader = reader
        self._batch_size = batch_size
        self._max_bytes = max_bytes
        self._threads = reading_threads(MAX_THREADS)
        self._pending: dict[Hashable, Future[_Opened]] = {}
        self._seen: OrderedDict[Hashable, SeenImage] = OrderedDict()
        self._failures: dict[Hashable, str] = {}

    def __enter__(self) -> ImageRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def prefetch(self, images: Iterable[RequestImage]) -> None:
        """Begin to read images in the background.

        Args:
            images: images of any kind.
        """
        for image in images:
            key = image_key(image)
            if self._is_new(key) and key not in self._pending:
                self._pending[key] = self._threads.submit(self._read, image)

    def encode(self, images: Sequence[RequestImage], ahead: Iterable[RequestImage] = ()) -> None:
        """Make the rows of images; those that cannot be read get a failure instead.

        Args:
            images: images of any kind; repeated ones are encoded once.
            ahead: images that come next; they fill the batch, and the batch after it is begun to be read.
        """
        wanted = dict.fromkeys(image_key(image) for image in images)
        for key in wanted:
            if key in self._seen:
                self._seen.move_to_end(key)
        missing = {image_key(image): image for image in images if self._is_new(image_key(image))}
        if not missing:
            return
        following = iter(ahead)
        self._take(missing, following, self._batch_size)
        self.prefetch(missing.values())
        later: dict[Hashable, RequestImage] = {}
        self._take(later, (image for image in following if image_key(image) not in missing), self._batch_size)
        self.prefetch(later.values())
        opened: dict[Hashable, _Opened] = {}
        for key in missing:
            try:
                opened[key] = self._pending.pop(key).result()
            except UserError as error:
                self._failures[key] = str(error)
        self._seen.update(self._encoded(opened))
        for key in wanted:
            if key in self._seen:
                self._seen.move_to_end(key)
        self._forget(keep=len(wanted))

    def failure(self, image: RequestImage) -> str:
        """Return why an encoded image has no image tokens, or an empty text."""
        return self._failures.get(image_key(image), "")

    def rows_of(self, images: Sequence[RequestImage]) -> Tensor:
        """Return the rows of images that were encoded without failure, one after the other: ``[sum of K_i, d]``."""
        return torch.cat([self._seen[image_key(image)].rows for image in images])

    def seen(self, image: RequestImage) -> SeenImage:
        """Return what was encoded of an image without failure."""
        return self._seen[image_key(image)]

    def encode_region(self, region: QuestionRegion, image: RequestImage) -> Tensor:
        """Return the tokens of a region of an image that was encoded without failure: ``[K, d]``.

        Args:
            region: drawn here where it has no weights yet.
            image: the image.

        Raises:
            UserError: if the region cannot be drawn, or the tower is shown nothing of it.
        """
        seen, encoder = self.seen(image), self._model.region_encoder
        assert encoder is not None and seen.patches is not None, "a prompt names regions only for an encoder"
        weights = region.weights  # [T]
        if weights is None:
            side = self._preprocess.image_size
            weights = region_weights(region.region, seen.frame, side, encoder.form, self._reader)
        # One at a time, so that it does not depend on the others of its batch.
        return self._model.encode_regions(seen.patches[None], torch.from_numpy(weights).to(self._model.device)[None])[0]

    def num_rows(self, image: RequestImage) -> int:
        """Return the number of rows of an image that was encoded without failure."""
        return len(self._seen[image_key(image)].rows)

    def _encoded(self, opened: Mapping[Hashable, _Opened]) -> dict[Hashable, SeenImage]:
        """Encode images of ``[3, H, W]`` or ``[n, 3, H, W]``, ``batch_size`` pictures at a time."""
        pictures = {key: one.shown.reshape(-1, *one.shown.shape[-3:]) for key, one in opened.items()}
        together = [picture for shown in pictures.values() for picture in shown]  # [3, H, W] each
        rows: list[Tensor] = []  # [K, d] of each picture
        patches: list[Tensor | None] = []  # [T, D] of each picture
        for start in range(0, len(together), self._batch_size):
            stacked = torch.stack(together[start : start + self._batch_size]).to(self._model.device)  # [n, 3, H, W]
            # Copies, so that a forgotten image frees its memory though its batch mates are kept.
            encoded, features = self._model.encode_with_patches(stacked)
            rows += [one.clone() for one in encoded.tensor_split(len(stacked))]
            patches += [None] * len(stacked) if features is None else [one.clone() for one in features]
        seen, first = {}, 0
        for key, shown in pictures.items():
            own = rows[first : first + len(shown)]
            picture = shown[0].to(self._model.device) if self._model.reads_pictures else None
            one = opened[key]
            other = None if one.own is None else one.own.to(self._model.device)
            image_rows = own[0] if len(own) == 1 else torch.cat(own)
            seen[key] = SeenImage(image_rows, patches[first], one.frame, picture, other, one.own_frame)
            first += len(shown)
        return seen

    def _is_new(self, key: Hashable) -> bool:
        return key not in self._seen and key not in self._failures

    def _take(self, into: dict[Hashable, RequestImage], images: Iterable[RequestImage], most: int) -> None:
        if len(into) >= most:
            return
        for image in images:
            key = image_key(image)
            if self._is_new(key):
                into[key] = image
                if len(into) >= most:
                    return

    def _read(self, image: RequestImage) -> _Opened:
        if isinstance(image, PreparedImage):
            height, width = image.pixels.shape[-2:]
            size = image.size or (width, height)
            return _Opened(image.pixels, self._preprocess.frame(size, image.fit), image.own, self._own_frame(size))
        try:
            if isinstance(image, Image.Image):
                picture, fit = to_rgb(image), None
            else:
                found = replace(image, path=str(self._reader.resolve(image.path)))
                picture, fit = self._reader.open(found, keep_grey=True), found.view.fit
            own, size = None if self._as_own is None else self._as_own(picture), picture.size
            return _Opened(self._transform(picture, fit), self._preprocess.frame(size, fit), own, self._own_frame(size))
        except _READ_ERRORS as error:
            raise UserError(f"the image cannot be read: {error}") from error

    def _own_frame(self, size: Size) -> Frame | None:
        return None if self._own is None else self._own.frame(size)

    def _forget(self, keep: int) -> None:
        used = sum(image.num_bytes for image in self._seen.values())
        while used > self._max_bytes and len(self._seen) > keep:
            used -= self._seen.popitem(last=False)[1].num_bytes
