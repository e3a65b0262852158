"""Images of a generate call: read ahead in threads, encoded in batches, each kept for its next questions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType

import torch
from PIL import Image
from torch import Tensor

from medcap.data.images.raster import to_rgb
from medcap.data.images.reader import ImageReader
from medcap.errors import UserError
from medcap.generation.decoding.prefix_tree import image_key
from medcap.generation.request import PreparedImage, RequestImage
from medcap.models.towers.base import Preprocess
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.workers import num_processors

MAX_BYTES = 512 * 2**20
MAX_THREADS = 4


class ImageRows:
    """Projected image tokens by image, the least recently used forgotten first.

    Args:
        model: encodes; its tower and projector must be in eval mode.
        preprocess: the tower's.
        reader: opens references.
        batch_size: images that are encoded together.
        max_bytes: device memory for images beyond those of the current batch.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        preprocess: Preprocess,
        reader: ImageReader,
        batch_size: int,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._model = model
        self._transform = preprocess.transform()
        self._reader = reader
        self._batch_size = batch_size
        self._max_bytes = max_bytes
        self._threads = ThreadPoolExecutor(max_workers=min(MAX_THREADS, num_processors()))
        self._pending: dict[Hashable, Future[Tensor]] = {}
        self._rows: OrderedDict[Hashable, Tensor] = OrderedDict()  # [K, d] each
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
            if key in self._rows:
                self._rows.move_to_end(key)
        missing = {image_key(image): image for image in images if self._is_new(image_key(image))}
        if not missing:
            return
        following = iter(ahead)
        self._take(missing, following, self._batch_size)
        self.prefetch(missing.values())
        later: dict[Hashable, RequestImage] = {}
        self._take(later, (image for image in following if image_key(image) not in missing), self._batch_size)
        self.prefetch(later.values())
        pixels: dict[Hashable, Tensor] = {}
        for key in missing:
            try:
                pixels[key] = self._pending.pop(key).result()
            except UserError as error:
                self._failures[key] = str(error)
        keys = list(pixels)
        for start in range(0, len(keys), self._batch_size):
            chunk = keys[start : start + self._batch_size]
            stacked = torch.stack([pixels[key] for key in chunk]).to(self._model.device)  # [n, 3, H, W]
            # Copies, so that a forgotten image frees its memory though its batch mates are kept.
            encoded = [rows.clone() for rows in self._model.encode_images(stacked)]  # n of [K, d]
            self._rows.update(zip(chunk, encoded, strict=True))
        for key in wanted:
            if key in self._rows:
                self._rows.move_to_end(key)
        self._forget(keep=len(wanted))

    def failure(self, image: RequestImage) -> str:
        """Return why an encoded image has no image tokens, or an empty text."""
        return self._failures.get(image_key(image), "")

    def stack(self, images: Sequence[RequestImage]) -> Tensor:
        """Return the rows of images that were encoded without failure: ``[N, K, d]``."""
        return torch.stack([self._rows[image_key(image)] for image in images])

    def _is_new(self, key: Hashable) -> bool:
        return key not in self._rows and key not in self._failures

    def _take(self, into: dict[Hashable, RequestImage], images: Iterable[RequestImage], most: int) -> None:
        if len(into) >= most:
            return
        for image in images:
            key = image_key(image)
            if self._is_new(key):
                into[key] = image
                if len(into) >= most:
                    return

    def _read(self, image: RequestImage) -> Tensor:
        if isinstance(image, PreparedImage):
            return image.pixels
        try:
            if isinstance(image, Image.Image):
                return self._transform(to_rgb(image))
            found = replace(image, path=str(self._reader.resolve(image.path)))
            return self._transform(self._reader.open(found, keep_grey=True), found.view.fit)
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise UserError(f"the image cannot be read: {error}") from error

    def _forget(self, keep: int) -> None:
        used = sum(rows.nbytes for rows in self._rows.values())
        while used > self._max_bytes and len(self._rows) > keep:
            used -= self._rows.popitem(last=False)[1].nbytes
