"""Rows in tar shards of the WebDataset layout: all files of one sample adjacent, under one key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medcap.data.images.row_entry import image_entry
from medcap.data.images.suffixes import is_image_name
from medcap.data.json_text import JsonError, parse_json
from medcap.data.row_layouts import CONVERSATION_KEYS, IMAGE_FIELDS, split_images
from medcap.data.storage.cache import keep_arrays
from medcap.data.storage.tar_files import TarFiles, find_tars, is_tar_pattern, member_name
from medcap.datasets.rows.sharegpt import IMAGE, caption_row
from medcap.errors import UserError
from medcap.plurals import counted

_TEXT_TYPES = frozenset({"json", "txt"})
CAPTION_KEYS = ("caption", "text")
MAX_TEXT_BYTES = 64 * 2**20
SHARDS_AT_A_TIME = 8
_FORMAT = 1


def is_shards(source: str | Path) -> bool:
    """Return whether a dataset's source means tar shards: a tar file, or a glob or brace pattern of them."""
    return is_tar_pattern(source)


def open_shards(source: str | Path, cache: Path | None) -> ShardRows:
    """Open tar shards as rows.

    Args:
        source: ``train-{000000..000099}.tar``, a glob or one tar file.
        cache: folder to keep the tables of members and samples in.

    Returns:
        The rows.

    Raises:
        UserError: if no file matches, one is missing or damaged, or there are no samples.
    """
    return ShardRows(Path(source), TarFiles(find_tars(source), cache, str(source), sequential=True), cache)


def split_name(name: str) -> tuple[str, str] | None:
    """Split a member's name into its sample's key and its extension.

    The rule is WebDataset's (base_plus_ext in webdataset/tariterators.py of webdataset/webdataset at 59a46e5): the
    key ends at the first dot of the last component, so ``a.b/c.seg.png`` has the key ``a.b/c`` and the extension
    ``seg.png``; extensions are compared in lower case.

    Args:
        name: the member.

    Returns:
        Key and extension; None for what belongs to no sample: names without an extension, hidden files, and names
        that begin with ``__..__``, which hold metadata.
    """
    folder, slash, last = name.rpartition("/")
    stem, dot, extension = last.partition(".")
    first = name.partition("/")[0]
    if not stem or not dot or (first.startswith("__") and first.endswith("__") and len(first) >= 4):
        return None
    return folder + slash + stem, extension.lower()


class ShardRows:
    """Rows of tar shards by their number.

    A sample's row is, in this order: ``key.json`` with ``conversations`` or ``messages``; the caption in ``key.txt``;
    the caption in ``key.json`` under ``caption`` or ``text``. Images of the sample are all members of an image type,
    in the order of the file.

    Args:
        path: the source as the user gave it, for messages.
        files: the shards.
        cache: folder to keep the table of samples in.

    Attributes:
        path: the source as the user gave it.
        files: the shards.
        fingerprint: identity of the content, not of paths or times.
        sequential: True: the shards are read from their beginning to their end.

    Raises:
        UserError: if there are no samples.

    Example:
        >>> rows = open_shards("shards/train-{000000..000099}.tar", cache_folder())
        >>> reader = ImageReader([*rows.shards, *image_roots])
        >>> record = read_record(rows.read(0), rows.path, 0, reader.resolve)
    """

    sequential = True

    def __init__(self, path: Path, files: TarFiles, cache: Path | None = None) -> None:
        self.path = path
        self.files = files
        self.fingerprint = files.fingerprint
        self._cache = cache
        folder = cache / "shards" / f"{_FORMAT}-{files.fingerprint}" if cache else None
        samples = keep_arrays(folder, lambda: _group_samples(files))
        # [samples] the first member and the one after the last, which are in one shard.
        self._first, self._end = samples["first"], samples["end"]
        if not len(self):
            raise UserError(f"{path} holds no samples: names in it must be like key.jpg, key.json or key.txt")
        # [shards + 1] the first sample of each.
        self._starts: np.ndarray = np.searchsorted(self._first, files.starts)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._first)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle what it takes to open the shards again, not the table."""
        return ShardRows, (self.path, self.files, self._cache)

    @property
    def shards(self) -> list[TarFiles]:
        """The roots that an ``ImageReader`` needs for these rows."""
        return [self.files]

    def name(self, index: int) -> str:
        """Return how messages to the user call this row."""
        first = int(self._first[index])
        return f"{self.files.paths[self.files.tar_of(first)]}, sample {self._key(first)}"

    def read(self, index: int) -> dict[str, Any]:
        """Read one sample's row; its images are named by their members' paths and not read.

        Args:
            index: index, counted from 0.

        Returns:
            A row as ``medcap.data.row_layouts.read_record`` takes it.

        Raises:
            UserError: if the sample has no text, no image where one is needed, or its JSON is damaged.
        """
        try:
            return self._read(index)
        except UserError as error:
            raise UserError(f"{self.name(index)}: {error}") from None

    def order(self, generator: np.random.Generator | None) -> np.ndarray:
        """Return an order in which the shards are read from front to back.

        On a network file system or a disk with moving heads a random read costs milliseconds and fetches far more
        than the sample, while reading on is free. So the shards are shuffled and opened ``SHARDS_AT_A_TIME`` at once
        (a little fewer where that makes all groups alike), and the samples of such a group are interleaved at
        random, each shard's in the order of the file. That draws the next shard with a probability proportional to
        what it has left. Neighbours in a shard thus stay about a group's number of shards apart: shuffle samples
        before they are written into shards.

        Args:
            generator: decides the order; None keeps the order of the files.

        Returns:
            Every row number once, int64 [n].
        """
        if generator is None:
            return np.arange(len(self), dtype=np.int64)
        counts = np.diff(self._starts)
        shards = generator.permutation(np.flatnonzero(counts))
        parts = []
        for group in np.array_split(shards, -(-len(shards) // SHARDS_AT_A_TIME)):
            turns = np.repeat(np.arange(len(group), dtype=np.uint8), counts[group])
            generator.shuffle(turns)
            starts = self._starts.tolist()
            samples = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in group])
            part = np.empty(len(turns), dtype=np.int64)
            # The i-th turn of a shard takes its i-th sample.
            part[np.argsort(turns, kind="stable")] = samples
            parts.append(part)
        return np.concatenate(parts)

    def _key(self, member: int) -> str:
        return (split_name(self.files.name(member)) or ("", ""))[0]

    def _members(self, index: int) -> dict[str, int]:
        """Return the sample's members by their extension, in the order of the file."""
        members: dict[str, int] = {}
        for member in range(int(self._first[index]), int(self._end[index])):
            split = split_name(self.files.name(member))
            if split is None:
                continue
            if split[1] in members:
                raise UserError(f"there is more than one .{split[1]} file: give each extension once")
            members[split[1]] = member
        return members

    def _read(self, index: int) -> dict[str, Any]:
        members = self._members(index)
        images = [member for extension, member in members.items() if is_image_name(f".{extension}")]
        value = self._json(members["json"]) if "json" in members else None
        if isinstance(value, dict) and any(key in value for key in (*CONVERSATION_KEYS, "messages")):
            return self._name_images(value, images, self.files.tar_of(int(self._first[index])))
        if "txt" in members:
            caption: Any = self._text(members["txt"])
        elif isinstance(value, dict):
            caption = next((value[key] for key in CAPTION_KEYS if key in value), None)
        elif "json" in members:
            raise UserError(f".json must hold an object, not {type(value).__name__}")
        else:
            raise UserError(f"there is no .json or .txt: {self._apart(members)}")
        if caption is None:
            raise UserError("there is no 'conversations', 'messages', 'caption' or 'text' in .json, and no .txt")
        if not isinstance(caption, str) or not caption.strip():
            raise UserError("its caption must be text that is not empty")
        if not images:
            raise UserError(f"there is no image for its caption: {self._apart(members)}")
        return self._caption_row(images, caption.strip())

    def _apart(self, members: dict[str, int]) -> str:
        """Say why the files of a sample may not be together."""
        for extension, member in members.items():
            if "." in extension and (extension.rpartition(".")[2] in _TEXT_TYPES or is_image_name(extension)):
                key = self._key(member).rpartition("/")[2]
                return (
                    f"the key of {self.files.name(member)} is {key!r}, as a key ends at the first dot of a name; pack"
                    " files whose names have no dot before the type"
                )
        return "keep all files of one sample adjacent (tar --sort=name)"

    def _caption_row(self, images: list[int], caption: str) -> dict[str, Any]:
        paths = [str(self.files.path(member)) for member in images]
        row = caption_row(paths[0], caption, "")
        del row["meta"]
        if len(paths) > 1:
            row["image"] = paths
            row["conversations"][0]["value"] = "\n".join([IMAGE] * len(paths))
        return row

    def _text(self, member: int) -> str:
        size = self.files.size(member)
        if size > MAX_TEXT_BYTES:
            raise UserError(f"{self.files.name(member)} has {size:,} bytes, more than the {MAX_TEXT_BYTES:,} allowed")
        try:
            return self.files.read(member).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.files.name(member)} is not UTF-8 text: {error}") from error

    def _json(self, member: int) -> Any:
        try:
            return parse_json(self._text(member))
        except JsonError as error:
            raise UserError(f"{self.files.name(member)} is not valid JSON ({error})") from error

    def _name_images(self, row: dict[str, Any], images: list[int], shard: int) -> dict[str, Any]:
        """Give the images that a row names this shard's paths; a row that names none gets the sample's images."""
        turns_key = next(key for key in (*CONVERSATION_KEYS, "messages") if key in row)
        parts = [part for part in _parts(row[turns_key]) if part.get("type") == "image"]
        if isinstance(row.get("id"), str):  # what ColonINST's rows name their file by
            known = self._own_path(row["id"], images, shard)
            if known and row.get("image") == Path(row["id"]).stem:
                row["image"] = known
            row["id"] = known or row["id"]
        named = False
        for field in IMAGE_FIELDS:
            if row.get(field):
                names = row[field] if isinstance(row[field], list) else [row[field]]
                row[field] = [self._own_image(name, images, shard) for name in names]
                named = True
        for part in parts:
            for field in ("content", "text", "image"):
                if isinstance(part.get(field), str) and part[field]:
                    part[field] = self._own_path(part[field], images, shard) or part[field]
                    named = True
        if named:
            return row
        placeholders = sum(map(_count_placeholders, _texts(row[turns_key]))) + len(parts)
        if placeholders and not images:
            raise UserError(f"its text has {counted(placeholders, 'image placeholder')}, but the sample has no image")
        if images and not placeholders:
            raise UserError(
                f"the sample has {counted(len(images), 'image')}, but its text has no placeholder: put <image> before"
                " it, as it counts only at the start or the end of a turn"
            )
        if images:
            row["image"] = [str(self.files.path(member)) for member in images]
        return row

    def _own_image(self, image: Any, images: list[int], shard: int) -> Any:
        """Return an image of a row with the path that it means."""
        name, own = image_entry(image, "image")
        path = self._own_path(name, images, shard) or name
        return {**own, "image": path} if own else path

    def _own_path(self, name: str, images: list[int], shard: int) -> str | None:
        """Return the path of the image of this sample, or else of this shard, that a row's name means.

        Two shards may hold the same names, so a row must not be left to whichever shard is looked into first.
        """
        siblings = {self.files.name(member): member for member in images}
        member = siblings.get(member_name(name))
        if member is None and is_image_name(name):
            member = self.files.find(name, shard)
        if member is None:
            # The folder that the image lay in before it was packed does not count.
            last = name.rpartition("/")[2]
            same = [member for sibling, member in siblings.items() if sibling.rpartition("/")[2] == last]
            member = same[0] if len(same) == 1 else None
        return None if member is None else str(self.files.path(member))


def _turns(turns: Any) -> Iterator[Mapping[str, Any]]:
    yield from (turn for turn in turns if isinstance(turn, Mapping)) if isinstance(turns, list) else ()


def _parts(turns: Any) -> Iterator[dict[str, Any]]:
    """Content parts of OpenAI's layout."""
    for turn in _turns(turns):
        if isinstance(turn.get("content"), list):
            yield from (part for part in turn["content"] if isinstance(part, dict))


def _texts(turns: Any) -> Iterator[str]:
    """All texts of the turns; what is not text is left for ``read_record`` to complain about."""
    for turn in _turns(turns):
        yield from (turn[key] for key in ("value", "content") if isinstance(turn.get(key), str))
    for part in _parts(turns):
        if part.get("type") == "text":
            yield from (part[key] for key in ("content", "text") if isinstance(part.get(key), str))


def _count_placeholders(text: str) -> int:
    return sum(part["type"] == "image" for part in split_images(text))


def _group_samples(files: TarFiles) -> dict[str, np.ndarray]:
    """Find the samples: ``first`` and ``end``, int64 [n], the first member and the one after the last."""
    first: list[int] = []
    end: list[int] = []
    starts = set(files.starts)
    current: str | None = None
    for member, name in enumerate(files.names()):
        if member in starts:
            current = None
        split = split_name(name)
        if split is None:
            continue
        if split[0] == current:
            end[-1] = member + 1
        else:
            current = split[0]
            first.append(member)
            end.append(member + 1)
    return {"first": np.array(first, dtype=np.int64), "end": np.array(end, dtype=np.int64)}
