"""MedSegBench: 35 standardised sets of images and masks."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from medcap.datasets.conversion.base import Folders, existing_file
from medcap.datasets.conversion.masks import MaskConverter, Source
from medcap.datasets.published import medsegbench
from medcap.datasets.published.outlined import classes_of
from medcap.errors import UserError


@dataclass(frozen=True, kw_only=True)
class MedSegBench(MaskConverter):
    """A file of MedSegBench; what ``--split test`` writes is for ``test_pixel_grounding``.

    Args:
        file: its path, such as ``polypgen_256.npz``.
        split: ``train``, ``validation`` or ``test``.
        names: phrase of each value from 1 on; None for those of the package medsegbench.
        category: suffix of the arrays of a set with several labels of each image.
    """

    name = "medsegbench"
    converts = "MedSegBench: an npz file of images and masks"
    download = "download a file such as polypgen_256.npz from Zenodo (record 13358372) and name it by --file"
    default_data = None
    file: str
    split: str = "train"
    names: tuple[str, ...] | None = None
    category: str = ""

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--file", required=True, help="the npz file")
        parser.add_argument(
            "--split", choices=list(medsegbench.SPLITS), default="train", help="part of the data set (train)"
        )
        parser.add_argument(
            "--names", nargs="+", help="what the values from 1 on show, such as polyp (from the package medsegbench)"
        )
        parser.add_argument("--category", default="", help="of a set with several labels: what follows train_label_")
        super().add_arguments(parser)

    @property
    def _stem(self) -> str:
        return f"{Path(self.file).stem}{f'_{self.category}' if self.category else ''}_{self.split}"

    def output_name(self) -> str:
        return f"{self._stem}.jsonl"

    def source(self, folders: Folders) -> tuple[Source, list[str]]:
        path = existing_file(self.name, self.file)
        if self.names is not None:
            classes = classes_of(["background", *self.names], "--names")
        elif (known := medsegbench.known_classes(path)) is not None:
            classes = known
        else:
            raise UserError(
                f"{self.name}: nothing says what the values of {path} show: give --names, such as --names polyp, or"
                " install the package medsegbench, which names those of sets with several classes"
            )
        arrays = medsegbench.open_arrays(path, self.split, self.category)
        images = os.path.join(folders.out, f"{self._stem}_images")
        return lambda tally: medsegbench.images(path, arrays, Path(images), classes, tally), [images]
