"""Folders of images and masks: a mask file for each class, or one whose values are the classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from medcap.data.images.suffixes import without_suffix
from medcap.data.regions.region import MaskFile
from medcap.datasets.published.marked import plain_phrase
from medcap.datasets.published.outlined import OutlinedImage, of_values, outlined, patient_of
from medcap.datasets.published.reading import Tally
from medcap.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from medcap.data.images.reader import ImageReader

NO_IMAGE, NO_CLASS, NO_NAME = "a mask without an image", "a mask without a class in its name", "values without a name"
BAD_MASK, NO_MASK = "a mask cannot be read", "an image without a mask file"
_INSTANCE = re.compile(r"[_-]\d{3,}$")  # number of an instance, as in SA-Med2D's liver_000
_BETWEEN = "_-. "
Named = Mapping[str, list[tuple[str, str]]]


def classes_by_folder(images: list[str], masks: list[str], tally: Tally) -> Named:
    """Sort mask files whose first folder is their class: ``liver/a.png`` is of the image ``a.png``.

    Args:
        images: names of the images, relative to their folder.
        masks: names of the mask files, likewise.
        tally: counts masks without an image.

    Returns:
        Phrase and mask file of each object, by the image.
    """
    known = {without_suffix(name): name for name in images}
    found: dict[str, list[tuple[str, str]]] = {name: [] for name in images}
    for mask in masks:
        folder, _, name = mask.partition("/")
        image = known.get(without_suffix(name)) if name else None
        if image is None:
            tally.skip(NO_IMAGE if name else NO_CLASS, mask)
        else:
            found[image].append((plain_phrase(folder), mask))
    return found


def classes_by_name(images: list[str], masks: list[str], tally: Tally, phrase: str = "") -> Named:
    """Sort mask files whose name is that of their image and their class: ``a_liver.png`` is of the image ``a.png``.

    Of several images that fit, the one with the longest name is meant. A number of three or more digits at the end is
    that of an instance: ``a_liver_000.png``.

    Args:
        images: names of the images, relative to their folder.
        masks: names of the mask files, likewise.
        tally: counts masks without an image or a class.
        phrase: class of all masks, whatever their names say besides the image.

    Returns:
        Phrase and mask file of each object, by the image.
    """
    known = {without_suffix(name): name for name in images}
    found: dict[str, list[tuple[str, str]]] = {name: [] for name in images}
    for mask in masks:
        stem = without_suffix(mask)
        cuts = [len(stem), *(place for place in range(len(stem) - 1, 0, -1) if stem[place] in _BETWEEN)]
        cut = next((place for place in cuts if stem[:place] in known), None)
        if cut is None:
            tally.skip(NO_IMAGE, mask)
            continue
        words = phrase or plain_phrase(_INSTANCE.sub("", stem[cut:]).strip(_BETWEEN))
        if not words:
            tally.skip(NO_CLASS, mask)
            continue
        found[known[stem[:cut]]].append((words, mask))
    return found


def read_folder(
    named: Named,
    reader: ImageReader,
    tally: Tally,
    classes: Mapping[int, str] | None = None,
    pattern: re.Pattern[str] | None = None,
    meta: Mapping[str, str] | None = None,
) -> Iterator[OutlinedImage]:
    """Read the masks of images.

    Args:
        named: phrase and mask file of each object, by the image.
        reader: opens the mask files.
        tally: counts the images, and what cannot be used.
        classes: phrase of each value of a mask file, which then holds several objects; None where every value of at
            least 1 is inside.
        pattern: finds the patient in an image's name.
        meta: further fields of all rows.
    """
    read = _by_values(reader, tally, classes) if classes is not None else _whole(reader)
    for name, entries in named.items():
        tally.read += 1
        if not entries:
            tally.skip(NO_MASK, name)  # nobody may have looked: it says nothing about what is absent
            continue
        try:
            masks = [found for phrase, mask in entries for found in read(phrase, mask)]
            yield outlined(name, (name,), masks, patient_of(pattern, name), meta)
        except UserError as error:
            tally.skip(BAD_MASK, f"{name}: {error}")


def _whole(reader: ImageReader) -> Callable[[str, str], list[tuple[str, np.ndarray]]]:
    from medcap.data.regions.draw import read_mask

    return lambda phrase, mask: [(phrase, read_mask(MaskFile(mask), reader))]


def _by_values(
    reader: ImageReader, tally: Tally, classes: Mapping[int, str]
) -> Callable[[str, str], list[tuple[str, np.ndarray]]]:
    def read(_: str, mask: str) -> list[tuple[str, np.ndarray]]:
        stored = reader.stored_values(reader.resolve(mask))
        if not stored.exact:
            raise UserError(f"{mask} is JPEG, which changes values: masks with several values are PNG files")
        found, unknown = of_values(stored.values, classes)
        if unknown:
            tally.skip(NO_NAME, f"{mask}: {', '.join(map(str, unknown[:8]))}")
        return found

    return read


def has_class_folders(images: list[str], masks: list[str]) -> bool:
    """Return whether the first folder of a mask file is its class, rather than one that the images have, too.

    Args:
        images: names of the images, relative to their folder.
        masks: names of the mask files, likewise.
    """
    known = set(map(without_suffix, images))
    inside = [mask.partition("/") for mask in masks if "/" in mask]
    if any(without_suffix(name) in known for _, _, name in inside):
        return True
    folders = {name.partition("/")[0] for name in images if "/" in name}
    return any(folder not in folders for folder, _, _ in inside)
