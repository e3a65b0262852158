"""A folder of images: each has a text file next to it, or lies in the subfolder of its class."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medcap.data.images.suffixes import without_suffix
from medcap.datasets.conversion.base import Converter, Examples, Folders, Output
from medcap.datasets.conversion.example import Example, SkipRecord, Tally, each
from medcap.datasets.conversion.instructions import DESCRIBE
from medcap.datasets.conversion.listing import sorted_images
from medcap.datasets.published.reading import progress
from medcap.errors import UserError

LABELS = ("text", "class")


@dataclass(frozen=True)
class ImageFolder(Converter):
    """Images of your own in a folder, searched with all folders in it.

    Args:
        labels: ``text``: the caption of ``a/b.png`` is in ``a/b.txt``. ``class``: it is the name of the first folder,
            with blanks for its underscores.
        question: what is asked; None for captions.
    """

    name = "folder"
    converts = "a folder of your own: images with a .txt beside each, or in a subfolder for each class"
    download = "name the folder by --data-dir"
    captions = True
    default_data = None
    labels: str = "text"
    question: str | None = None

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--labels", choices=LABELS, default="text", help="where the words come from (text)")
        parser.add_argument("--question", help="asked of every image, such as 'Which class is this?'")

    def outputs(self, folders: Folders) -> list[Output]:
        return [Output(f"{Path(folders.data).resolve().name or 'folder'}.jsonl", self.examples(folders))]

    def examples(self, folders: Folders) -> Examples:
        if not folders.data or not os.path.isdir(folders.data):
            raise UserError(f"folder: --data-dir {folders.data or '(not given)'} is not a folder of images")

        def convert(name: str) -> Iterator[Example]:
            words = self._words(folders.data, name)
            prompts = None if self.question else DESCRIBE
            yield Example([(self.question or "", words)], (name,), folders.data, prompts)

        def images(tally: Tally) -> Iterator[tuple[str, str]]:
            def leave_out(name: str) -> None:
                # Next to captions, a file without one may be anything.
                path = Path(folders.data, name)
                if self.labels == "class" or (path.suffix != ".txt" and path.with_suffix(".txt").is_file()):
                    tally.skip("a file that is not an image", str(path))

            for name in progress(sorted_images(folders.data, leave_out), "images", "image"):
                tally.read += 1
                yield os.path.join(folders.data, name), name

        return lambda tally: each(images(tally), convert, tally)

    def _words(self, folder: str, name: str) -> str:
        if self.labels == "class":
            parent, _, _ = name.partition("/")
            if parent == name:
                raise SkipRecord("an image that is in no class's folder")
            return parent.replace("_", " ")
        path = Path(folder, f"{without_suffix(name)}.txt")
        try:
            words = path.read_text(encoding="utf-8-sig").strip()
        except FileNotFoundError:
            raise SkipRecord("there is no .txt of its name") from None
        except (OSError, UnicodeDecodeError):
            raise SkipRecord("its .txt cannot be read as UTF-8") from None
        if not words:
            raise SkipRecord("its .txt is empty")
        return words
