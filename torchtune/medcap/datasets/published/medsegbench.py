"""MedSegBench's files: ``polypgen_256.npz`` with ``train_images``, ``train_label`` and likewise ``val`` and ``test``.

Sources: Zenodo 13358372; zekikus/MedSegBench, ``medsegbench/dataset.py`` and ``info.py`` (package medsegbench 1.0.0).
Some sets have several labels of each image, whose arrays have one more word: ``train_label_WORD``.
"""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcap.datasets.published.outlined import OutlinedImage, classes_of, of_values, outlined
from medcap.datasets.published.reading import Tally, progress
from medcap.errors import UserError

if TYPE_CHECKING:
    import numpy as np

SPLITS = {"train": "train", "validation": "val", "test": "test"}
NO_NAME, OTHER_SHAPE = "values without a name", "an image or a label of an unknown shape"
_PLAIN = ("foreground", "object")  # names that say nothing


def open_arrays(path: Path, split: str, category: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Read the images and labels of a split.

    Args:
        path: the file.
        split: ``train``, ``validation`` or ``test``.
        category: suffix of the arrays of a set with several.

    Returns:
        Images ``[n, H, W]`` or ``[n, H, W, 3]`` uint8, and labels ``[n, H, W]``.

    Raises:
        UserError: if the file cannot be read, or lacks one of them; it names those that are there.
    """
    import numpy as np

    end = f"_{category}" if category else ""
    names = f"{SPLITS[split]}_images{end}", f"{SPLITS[split]}_label{end}"
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no zip file")
        with closing(np.load(path, allow_pickle=False)) as file:
            there: list[str] = file.files
            # Sets with several labels may have one array of images.
            images = names[0] if names[0] in there else f"{SPLITS[split]}_images"
            if images not in there or names[1] not in there:
                raise UserError(
                    f"{path} has no {names[0]} and {names[1]}; it has {', '.join(there) or 'nothing'}: name what stands"
                    " behind train_label_ by --category"
                )
            pictures, labels = file[images], file[names[1]]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as npz: {error}") from error
    if len(pictures) != len(labels):
        raise UserError(f"{path}: {len(pictures)} images but {len(labels)} labels")
    return pictures, labels


def known_classes(path: Path) -> dict[int, str] | None:
    """Return the names of a file's values in the package medsegbench; None without it, or where they say nothing."""
    flag = path.stem.rpartition("_")[0] or path.stem
    try:
        info: Mapping[str, Any] = importlib.import_module("medsegbench.info").INFO
    except ImportError:
        return None
    labels = info.get(flag, {}).get("pixel_labels")
    classes = classes_of(labels, f"medsegbench.info of {flag}") if labels else None
    return None if classes is None or any(name.lower() in _PLAIN for name in classes.values()) else classes


def images(
    path: Path, arrays: tuple[np.ndarray, np.ndarray], folder: Path, classes: Mapping[int, str], tally: Tally
) -> Iterator[OutlinedImage]:
    """Write the images of a split as PNG files and read their masks.

    Args:
        path: the file, for messages and names.
        arrays: what :func:`open_arrays` returned.
        folder: where the images are written; a file that is there is kept.
        classes: phrase of each value.
        tally: counts the images, and values that are no class.
    """
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number, (picture, label) in enumerate(progress(zip(*arrays, strict=True), path.name, "image")):
        tally.read += 1
        location, name = f"{path}, image {number}", f"{number:06d}.png"
        picture, label = np.squeeze(picture), np.squeeze(label)
        if picture.dtype != np.uint8 or label.ndim != 2 or picture.shape[2:] not in ((), (3,)) or picture.ndim < 2:
            tally.skip(OTHER_SHAPE, f"{location}: {picture.dtype} {picture.shape} and {label.shape}")
            continue
        if not (folder / name).is_file():
            Image.fromarray(picture).save(folder / name)
        masks, unknown = of_values(label, classes)
        if unknown:
            tally.skip(NO_NAME, f"{location}: {', '.join(map(str, unknown[:8]))}")
        yield outlined(location, (name,), masks)
