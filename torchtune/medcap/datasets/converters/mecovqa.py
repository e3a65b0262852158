"""MeCoVQA: complex questions, questions about a region, and masks."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from medcap.data.regions.region import Region, regions_as_json
from medcap.datasets.conversion.base import Converter, Examples, Folders
from medcap.datasets.conversion.example import Example, SkipRecord, Tally
from medcap.datasets.conversion.questions import find_source, locate
from medcap.datasets.published import mecovqa
from medcap.datasets.published.finding import Found, Layout, find_files
from medcap.datasets.published.outlined import as_run_length
from medcap.errors import UserError

if TYPE_CHECKING:
    import numpy as np

EMPTY = "a mask without a pixel"


@dataclass(frozen=True)
class MeCoVqa(Converter):
    """The training files; masks and regions stand in the rows as run-lengths.

    Merged masks, which SA-Med2D-20M lacks, are made of the instances of their class.

    Args:
        parts: which of complex, region and grounding.
        merged_masks: folder that also gets each merged mask as a PNG file under the name that MedPLIB's rows have for
            it, so that these can be used as they are; None for none.
    """

    name = "mecovqa"
    converts = "MeCoVQA: complex questions, questions about a region, and masks"
    download = (
        "put the training files of MeCoVQA (BlueZeros/MedPLIB on the hub) into MeCoVQA, and SA-Med2D-20M's folder"
        " SAMed2Dv1 with images and masks beside it"
    )
    output = "mecovqa_train.jsonl"
    parts: tuple[str, ...] = mecovqa.PARTS
    merged_masks: str | None = None

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--parts", nargs="+", choices=mecovqa.PARTS, default=mecovqa.PARTS, help="parts of the set (all)"
        )
        parser.add_argument(
            "--merged-masks", metavar="DIR", help="also write the merged masks as PNG files, as MedPLIB names them"
        )

    def examples(self, folders: Folders) -> Examples:
        files = [path for found in self._files(folders) for path in found.files]
        images = self.need(folders, "SAMed2Dv1", *(f"{name}/SAMed2Dv1" for name in mecovqa.FOLDERS))

        def read(tally: Tally) -> Iterator[tuple[str, Example]]:
            from medcap.data.images.reader import ImageReader

            records = [it for path in files for it in mecovqa.conversations(path, tally) if it.part in self.parts]
            named = [name for it in records for turn in it.turns for name in (*turn.masks, *turn.regions)]
            masks = mecovqa.MaskFiles(ImageReader([images]), [Path(images)], named)
            for it in records:
                try:
                    yield it.location, locate(self._example(it, masks), [images])
                except SkipRecord as reason:
                    tally.skip(str(reason), it.location)
                except UserError as error:
                    tally.skip("a mask cannot be read", f"{it.location}: {error}")

        return read

    def _files(self, folders: Folders) -> list[Found]:
        layout = mecovqa.layout("train")
        kinds = {part: layout.kinds[part] for part in self.parts}
        first = find_source(self, folders, Layout(layout.folders, kinds, layout.images))
        each = [find_files(first.folder, ("",), {part: patterns}) for part, patterns in kinds.items()]
        return [found for found in each if found is not None]

    def _example(self, it: mecovqa.Conversation, masks: mecovqa.MaskFiles) -> Example:
        fields: dict[str, Any] = dict(mecovqa.fields_of(it))
        for key, names in (
            ("masks", [name for turn in it.turns for name in turn.masks]),
            ("regions", [name for turn in it.turns for name in turn.regions]),
        ):
            if names:
                fields[key] = regions_as_json([self._region(name, masks) for name in names])
        return Example([(turn.question, turn.answer) for turn in it.turns], it.images, fields=fields)

    def _region(self, name: str, masks: mecovqa.MaskFiles) -> Region:
        made = masks.made
        mask = masks(name)
        if not mask.any():
            raise SkipRecord(EMPTY)
        if self.merged_masks is not None and masks.made > made:
            _write(mask, Path(self.merged_masks, PurePosixPath(name).name))
        return Region(as_run_length(mask))


def _write(mask: np.ndarray, path: Path) -> None:
    import numpy as np
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
