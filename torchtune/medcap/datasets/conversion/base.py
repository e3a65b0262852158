"""What a converter is."""

from __future__ import annotations

import argparse
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from medcap.datasets.conversion.example import Example, Tally
from medcap.datasets.download.sources import sources_for
from medcap.errors import UserError
from medcap.files import keep_inputs

SPLITS = ("train", "validation")
Examples = Callable[[Tally], Iterator[tuple[str, Example]]]


@dataclass(frozen=True)
class Output:
    """One file that a converter writes.

    Attributes:
        name: name of the file, in the folder that the user names.
        examples: reads the sources.
    """

    name: str
    examples: Examples


@dataclass(frozen=True)
class Folders:
    """Where a converter reads and writes.

    Attributes:
        data: what downloads are relative to, as the user wrote it: it becomes a part of the rows.
        out: where the output goes, for images that have to be taken out of a file.
        keep_missing: whether a folder of images may be absent.
        file: the one file that the user named for the output; None where the converters name theirs.
    """

    data: str
    out: Path
    keep_missing: bool = False
    file: Path | None = None


@dataclass(frozen=True)
class Converter(ABC):
    """Makes training rows of one published data set. Its fields are its options on the command line.

    Attributes:
        name: what ``medcap prepare`` calls it.
        converts: what it reads and what becomes of it.
        download: what to download, from where, and where it is put.
        output: the file that it writes, where its options do not decide it.
        captions: whether its rows are captions, before which an instruction may stand.
        default_data: folder of all downloads; None where there is none.
    """

    name: ClassVar[str]
    converts: ClassVar[str]
    download: ClassVar[str]
    output: ClassVar[str]
    captions: ClassVar[bool] = False
    default_data: ClassVar[str | None] = "./datasets"

    @classmethod  # noqa: B027
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Declare the converter's own options, one for each field."""

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> Converter:
        """Return the converter for a command line."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

    @abstractmethod
    def examples(self, folders: Folders) -> Examples:
        """Find the sources; nothing is read yet.

        Args:
            folders: where they are.

        Returns:
            The reader of the files: it counts what it leaves out, and yields the location of each example and the
                example.

        Raises:
            UserError: if something is missing: the message names the path and what to download.
        """

    def outputs(self, folders: Folders) -> list[Output]:
        """Return the files that will be written; see :meth:`examples`."""
        return [Output(self.output_name(), self.examples(folders))]

    def output_name(self) -> str:
        """Return the name of its file."""
        return self.output

    def need(self, folders: Folders, *names: str) -> str:
        """Return a file that must be there.

        Args:
            folders: where it is.
            names: relative to the data folder, of which the first that exists is taken.

        Returns:
            The path, with the data folder as the user wrote it.

        Raises:
            UserError: if there is none.
        """
        for name in names:
            path = os.path.join(folders.data, name)
            if os.path.exists(path):
                if folders.file is not None:
                    keep_inputs("--out", folders.file, Path(path))
                return path
        others = f" (nor {', '.join(names[1:])})" if names[1:] else ""
        missing = os.path.join(folders.data, names[0])
        raise UserError(f"{self.name}: {missing}{others} does not exist: {self.advice()}")

    def advice(self) -> str:
        """Return how to get what is missing."""
        names = sources_for(self.name)
        return self.download + (f"; medcap download fetches it ({', '.join(names)})" if names else "")

    def need_images(self, folders: Folders, *names: str) -> str:
        """Return a folder of images that must be there; see :meth:`need`."""
        if folders.keep_missing and not any(os.path.isdir(os.path.join(folders.data, name)) for name in names):
            return os.path.join(folders.data, names[0])
        path = self.need(folders, *names)
        if not os.path.isdir(path):
            raise UserError(f"{self.name}: {path} is not a folder: {self.advice()}")
        return path


def add_split(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses a part of a data set; test sets are for ``medcap/recipes/generate``."""
    parser.add_argument("--split", choices=SPLITS, default="train", help="part of the data set (train)")


def existing_file(converter: str, file: str, option: str = "--file") -> Path:
    """Return the path of a user's own file.

    Args:
        converter: name of the converter, for the message.
        file: value of the option.
        option: its name, for the message.

    Raises:
        UserError: if there is no such file.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"{converter}: {option} {path} {'is a folder' if path.is_dir() else 'does not exist'}")
    return path
