"""Any CSV file with a column of images and one of texts."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from medcap.datasets.conversion.base import Converter, Examples, Folders, existing_file
from medcap.datasets.conversion.example import Example, each
from medcap.datasets.conversion.fields import image_of, text_of
from medcap.datasets.conversion.instructions import DESCRIBE
from medcap.datasets.published.reading import csv_heading, csv_records
from medcap.datasets.rows.delimited import delimiter_of


@dataclass(frozen=True)
class CsvTable(Converter):
    """A file of your own, separated by commas, or by tabs, without quoting, where its name ends in ``.tsv``.

    Args:
        file: its path.
        image_column: names of images, relative to the data folder, which is the file's own unless another is given.
        text_column: captions, or answers where there are questions.
        question_column: what is asked; None for captions.
    """

    name = "csv"
    converts = "a CSV file of your own: an image and a text in each row, and a question if there is one"
    download = "name the file by --file, and the folder of its images by --data-dir unless it is the file's own"
    captions = True
    default_data = None
    file: str
    image_column: str = "image"
    text_column: str = "text"
    question_column: str | None = None

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--file", required=True, help="the CSV file; tabs separate where it ends in .tsv")
        parser.add_argument("--image-column", default="image", help="column with the images' names (image)")
        parser.add_argument("--text-column", default="text", help="column with captions or answers (text)")
        parser.add_argument("--question-column", help="column with questions, if there is one")

    def output_name(self) -> str:
        return f"{Path(self.file).stem}.jsonl"

    def examples(self, folders: Folders) -> Examples:
        path = existing_file(self.name, self.file)
        folder = folders.data or os.path.dirname(self.file) or "."
        delimiter = delimiter_of(path)
        columns = [name for name in (self.image_column, self.text_column, self.question_column) if name]
        csv_heading(path, columns, delimiter)

        def convert(record: Mapping[str, str]) -> Iterator[Example]:
            question = text_of(record, self.question_column) if self.question_column else ""
            turns = [(question, text_of(record, self.text_column))]
            prompts = None if self.question_column else DESCRIBE
            yield Example(turns, (image_of(record, self.image_column),), folder, prompts)

        return lambda tally: each(csv_records(path, columns, tally, delimiter), convert, tally)
