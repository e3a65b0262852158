"""A folder of images and masks, or images and a file of masks in COCO's format."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from medcap.data.json_text import JsonError, parse_json
from medcap.datasets.conversion.base import Folders, existing_file
from medcap.datasets.conversion.listing import sorted_images
from medcap.datasets.conversion.masks import MaskConverter, Source
from medcap.datasets.published import coco, coco_masks
from medcap.datasets.published.mask_folders import classes_by_folder, classes_by_name, has_class_folders, read_folder
from medcap.datasets.published.outlined import OutlinedImage, classes_of
from medcap.datasets.published.reading import Tally
from medcap.errors import UserError

CLASSES_FILE = "classes.json"


@dataclass(frozen=True, kw_only=True)
class MaskFolder(MaskConverter):
    """Images and masks of your own. The layout is found:

    - ``--coco FILE``: polygons or run-lengths of its annotations;
    - a ``classes.json`` (beside the folders or among the masks, or ``--classes``): ``masks/a.png`` holds all objects of
      ``images/a.png``, each with its value;
    - folders of classes among the masks: ``masks/liver/a.png``;
    - otherwise the names: ``masks/a_liver.png``, or with ``--phrase`` any file that begins with the image's name.

    Args:
        images: folder of the images, in the data folder.
        masks: folder of the masks, likewise.
        classes: JSON file with the phrase of each value; None for ``classes.json`` where there is one.
        phrase: what all masks show; None where their names say it.
        coco: file in COCO's format; None for mask files.
        patient_pattern: regular expression for the part of an image's name that says whose it is.
        modality: of all images.
    """

    name = "masks"
    converts = "images and masks of your own: a file for each class, one with values, or a file in COCO's format"
    download = (
        "name the folder that holds images and masks by --data-dir, or other folders in it by --images and --masks"
    )
    default_data = None
    images: str = "images"
    masks: str = "masks"
    classes: str | None = None
    phrase: str | None = None
    coco: str | None = None
    patient_pattern: str | None = None
    modality: str = ""

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--images", default="images", help="folder of the images, in DIR (images)")
        parser.add_argument("--masks", default="masks", help="folder of the masks, in DIR (masks)")
        parser.add_argument("--classes", metavar="FILE", help=f"JSON: the name of each value ({CLASSES_FILE})")
        parser.add_argument("--phrase", help="what all masks show, such as 'polyp'")
        parser.add_argument("--coco", metavar="FILE", help="file in COCO's format with the masks")
        parser.add_argument(
            "--patient-pattern", metavar="REGEX", help="part of an image's name that says whose it is, as its group"
        )
        parser.add_argument("--modality", default="", help="of all images, such as CT")
        super().add_arguments(parser)

    def output_name(self) -> str:
        return f"{Path(self.coco).stem}.jsonl" if self.coco else "masks.jsonl"

    def source(self, folders: Folders) -> tuple[Source, list[str]]:
        if self.coco and (self.classes or self.phrase):
            raise UserError("--coco names the classes itself: leave out --classes and --phrase")
        pattern = self._pattern()
        meta = {"modality": self.modality} if self.modality else {}
        if self.coco:
            path = existing_file(self.name, self.coco, "--coco")
            parts = coco.read(path)
            beside = os.path.join(folders.data, self.images) if folders.data else os.path.dirname(self.coco) or "."
            places = [beside, folders.data] if folders.data else [beside]
            return lambda tally: coco_masks.images(path, parts, tally, "patient"), places
        if not folders.data:
            raise UserError(f"masks: {self.download}")
        there = replace(folders, keep_missing=False)  # the masks are found by the names of the images
        images, masks = self.need_images(there, self.images), self.need_images(there, self.masks)
        classes = self._classes(folders, masks)

        def read(tally: Tally) -> Iterator[OutlinedImage]:
            from medcap.data.images.reader import ImageReader

            named = list(sorted_images(images)), list(sorted_images(masks))
            if classes is not None:
                found = classes_by_name(*named, tally, phrase="values")
            elif not self.phrase and has_class_folders(*named):
                found = classes_by_folder(*named, tally)
            else:
                found = classes_by_name(*named, tally, self.phrase or "")
            yield from read_folder(found, ImageReader([masks]), tally, classes, pattern, meta)

        return read, [images]

    def _classes(self, folders: Folders, masks: str) -> dict[int, str] | None:
        if self.phrase and self.classes:
            raise UserError("--phrase and --classes both name what the masks show: give one of them")
        if self.phrase:
            return None
        places = [os.path.join(folder, CLASSES_FILE) for folder in (folders.data, masks)]
        name = self.classes or next((place for place in places if os.path.isfile(place)), None)
        if name is None:
            return None
        try:
            value = parse_json(Path(name).read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError, JsonError) as error:
            raise UserError(f"{name} cannot be read as JSON: {getattr(error, 'strerror', None) or error}") from error
        return classes_of(value, name)

    def _pattern(self) -> re.Pattern[str] | None:
        try:
            return re.compile(self.patient_pattern) if self.patient_pattern else None
        except re.error as error:
            raise UserError(f"--patient-pattern {self.patient_pattern!r} is no regular expression: {error}") from error
