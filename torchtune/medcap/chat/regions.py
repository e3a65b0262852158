"""Regions in the chat: typed as a box, a point, a polygon or a mask, and named by the next question."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medcap.chat.masks import extent
from medcap.data.boxes.box import Size
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.regions.draw import as_run_length, draw_region
from medcap.data.regions.patch_weights import patch_weights
from medcap.data.regions.region import Region, region_from_json
from medcap.errors import UserError
from medcap.generation.generator import Generator

_USE = (
    "write /region box X1 Y1 X2 Y2, /region point X Y RADIUS, /region polygon X1 Y1 X2 Y2 X3 Y3 ... or /region mask"
    " FILE, in pixels of the image"
)
# Behind a region: which value of a mask is inside, and which picture of a volume it lies on.
_OPTION = re.compile(r"\s+(value|picture)=(\S*)$")


class ChatRegions:
    """The regions that wait for the next question of a chat.

    Attributes:
        waiting: those regions, with the number of their picture among all that were shown, from 0.
        told: what is said of each.
        before: number of pictures that were shown before those that the next question is about.
    """

    def __init__(self) -> None:
        self.waiting: list[Region] = []
        self.told: list[str] = []
        self.before = 0
        self._pictures: Sequence[ImageRef] = ()  # of the image that was shown last
        self._sizes: Sequence[Size] = ()
        self._shown = 0  # pictures, in all
        self._is_asked = True

    def show(self, pictures: Sequence[ImageRef], sizes: Sequence[Size]) -> None:
        """Take the next regions for those of another image.

        Args:
            pictures: the image, or the slices of a volume that are shown.
            sizes: width and height of each in pixels.
        """
        if self._is_asked:
            self.before, self._is_asked = self._shown, False
        self._pictures, self._sizes = pictures, sizes
        self._shown += len(pictures)

    def add(self, words: str, generator: Generator, reader: ImageReader) -> None:
        """Let a region wait for the next question.

        Args:
            words: ``box 3 2 9 7``, ``point 5 5 2``, ``polygon 1 1 8 2 4 9`` or ``mask a.png value=3``; ``picture=4``
                at the end names a slice of a volume among those that are shown, from 1.
            generator: the run.
            reader: opens a mask.

        Raises:
            UserError: if the run reads no regions, there is no image, the words are no region on it, or the tower is
                shown nothing of it.
        """
        added = generator.tokenizer.added
        if added is None or added.regions is None:
            raise UserError("this run reads no regions, as it has no region_encoder: /box writes a box into the words")
        if not self._pictures:
            raise UserError("show an image first, with /image FILE: a region lies on the image that was shown last")
        words, options = _without_options(words)
        place = _picture(options.pop("picture", "1"), len(self._pictures))
        size, view = self._sizes[place], self._pictures[place].view
        region = _read(words, options)
        mask = draw_region(region, size, reader)  # before it is a run-length: messages name the file
        region = as_run_length(region, reader)
        frame = generator.preprocess.frame(size, view.fit)
        patch_weights(mask, frame, generator.preprocess.image_size, added.regions)  # or it is refused
        number = self._shown - len(self._pictures) + place
        self.waiting.append(Region(region.shape, region.label, number))
        self.told.append(f"{words}{_on(place, len(self._pictures))}, {extent(mask)}")

    def clear(self) -> None:
        """Drop the regions that wait."""
        self.waiting, self.told = [], []

    def end(self) -> None:
        """Forget the regions of a question that was asked."""
        self.clear()
        self._is_asked = True


def _without_options(words: str) -> tuple[str, dict[str, str]]:
    options: dict[str, str] = {}
    while option := _OPTION.search(words):
        options[option[1]] = option[2]
        words = words[: option.start()]
    return words.strip(), options


def _picture(text: str, most: int) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise UserError(f"picture={text}: the image that was shown last has pictures from 1 to {most}")
    return int(text) - 1


def _read(words: str, options: dict[str, str]) -> Region:
    """Read a region that was typed."""
    kind, _, rest = words.partition(" ")
    if options and (kind != "mask" or not options["value"].isdecimal()):
        raise UserError(
            f"value={options['value']}: it is a whole number, and goes with a mask, as in mask a.png value=3"
        )
    if kind == "mask" and rest.strip():
        path = Path(rest.strip().strip("'\"")).expanduser()
        if not path.is_file():
            raise UserError(f"{path}: there is no such file")
        form: dict[str, Any] = {"mask": str(path.resolve())}
        return region_from_json(form | {key: int(value) for key, value in options.items()}, "/region")
    try:
        numbers = [float(word) for word in rest.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if kind == "box" and len(numbers) == 4:
        form = {"box": numbers}
    elif kind == "point" and len(numbers) == 3:
        form = {"point": numbers[:2], "radius": numbers[2]}
    elif kind == "polygon" and len(numbers) >= 6 and len(numbers) % 2 == 0:
        form = {"polygon": [list(point) for point in zip(numbers[::2], numbers[1::2], strict=True)]}
    else:
        raise UserError(_USE)
    return region_from_json(form, f"/region {words}")


def _on(place: int, count: int) -> str:
    return f" on picture {place + 1} of {count}" if count > 1 else ""
