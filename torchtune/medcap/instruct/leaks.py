"""Rows whose image is one of a test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medcap.data.images.reader import ImageReader
from medcap.data.images.roots import LimitKeys
from medcap.datasets.leakage.image_hashes import hash_images
from medcap.datasets.leakage.image_sources import ImageFile, list_images
from medcap.datasets.leakage.search import DISTANCE, KINDS, ImageSet, find_leaks
from medcap.datasets.published.reading import progress
from medcap.errors import UserError
from medcap.plurals import counted, none_of

_NOT_COMPARED = (
    "image cannot be read and was not compared",
    "images cannot be read and were not compared",
)


@dataclass(frozen=True)
class HeldOutSets:
    """Test sets that no row may share an image with.

    Attributes:
        sources: data files, or folders of images.
        image_roots: folders that images may be in, besides the files' own and the working one.
        distance: bits of 64 that may differ, and six times as many of 256; see :func:`find_leaks`.
        processes: processes that hash images; None for one a processor.
    """

    sources: Sequence[Path] = ()
    image_roots: Sequence[Path] = ()
    distance: int = DISTANCE
    processes: int | None = None


@dataclass
class FoundLeaks:
    """What was found.

    Attributes:
        by_image: name of an image in the rows -> the reason why it is left out.
        compared: images of the rows that were compared.
        unreadable: images of the rows that cannot be read, and so were not compared.
        flat: images of the rows of one colour, which are not compared.
        test_images: images of each test set, by its name.
        notices: lines that the user should see.
    """

    by_image: dict[str, str] = field(default_factory=dict)
    compared: int = 0
    unreadable: int = 0
    flat: int = 0
    test_images: dict[str, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


def find_leaked_images(images: Sequence[str], source: Path, tests: HeldOutSets) -> FoundLeaks:
    """Look for images of rows in test sets.

    Args:
        images: the names of the rows' images, each once.
        source: the file of the rows; images lie in its folder, the working one or one of ``image_roots``.
        tests: the test sets.

    Returns:
        What was found.

    Raises:
        UserError: if a test set cannot be read, none of its images can, or none of the rows'.
    """
    for test in tests.sources:
        if not test.exists():
            raise UserError(f"--test {test} does not exist: give a data file or a folder of images")
    found = FoundLeaks()
    reader = ImageReader([source.parent, Path.cwd(), *tests.image_roots], keys=LimitKeys("--image-root", None))
    paths: dict[str, list[str]] = {}
    files: list[ImageFile] = []
    for name in images:
        try:
            path = str(reader.resolve(name))
        except UserError as error:
            files.append(ImageFile(name, str(error)))
            continue
        if path not in paths:
            files.append(ImageFile(path))
        paths.setdefault(path, []).append(name)
    own = ImageSet(str(source))
    hashed = list(own.usable(progress(hash_images(files, tests.processes), "images", "image")))
    found.compared, found.unreadable, found.flat = own.images - own.flat, own.unreadable, own.flat
    if own.unreadable and not own.images:
        raise UserError(
            f"{source}: {none_of(own.unreadable, 'image')} can be read, so nothing can be compared with --test; the"
            f" first: {own.problems[0][1]} (name their folder by --image-root)"
        )
    if own.unreadable:
        found.notices.append(
            f"{counted(own.unreadable, *_NOT_COMPARED)} with the test sets; the first:"
            f" {own.problems[0][1]} (name their folder by --image-root)"
        )
    for test in tests.sources if hashed else ():
        side = ImageSet(str(test))
        # Each of our images that is in the test set is wanted, so ours take the place of the test images here.
        theirs = progress(hash_images(list_images(test, tests.image_roots), tests.processes), test.name, "image")
        leakage = find_leaks(side.usable(theirs), hashed, tests.distance)
        if side.images == 0:
            raise UserError(
                f"--test {test}: {none_of(side.unreadable, 'image')} can be read; the first:"
                f" {side.problems[0][1]} (name the images' folder by --image-root)"
            )
        if side.unreadable:
            found.notices.append(f"{test}: {counted(side.unreadable, *_NOT_COMPARED)}")
        found.test_images[str(test)] = side.images
        for leak in leakage.leaks:
            for name in paths[leak.test]:
                found.by_image.setdefault(name, f"{KINDS[leak.kind]} as {leak.train} of {test}")
    return found
