"""LLaVA-Med's images: figures of PMC's articles, by the list of ``llava_med_image_urls.jsonl``.

A line of it is ``{"pmc_tar_url": "https://ftp.ncbi.nlm.nih.gov/pub/pmc/oa_package/3f/46/PMC7236913.tar.gz",
"image_file_path": "PMC7236913/nihms-1587931-f0001.jpg", "pair_id": "32432162_F1"}``; the image becomes
``32432162_F1.jpg`` (microsoft/LLaVA-Med, llava/data/download_images.py). That program fetches all tar files, then
unpacks them all. Here an article's tar file is read and deleted at once; only what is wanted is written.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

from medcap.datasets.download.archives import ArchiveError, Limits, extract_from_tar
from medcap.datasets.download.client import Client
from medcap.datasets.download.faults import Unavailable
from medcap.datasets.download.listing import is_plain_path
from medcap.datasets.download.partial import Target
from medcap.datasets.download.sources import PMC_FIGURE, PMC_HOST, PMC_TARS
from medcap.datasets.published.reading import Tally, json_records
from medcap.errors import UserError

ROUTES = ("figures", "tars")
_MOST_IMAGE_BYTES = 2**28
_MOST_TAR_BYTES = 2**33
# An article's package: some thousand files at most, videos among them.
_LIMITS = Limits(members=100_000, member_bytes=_MOST_IMAGE_BYTES, total_bytes=2**35)
_PAIR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_TAR = re.compile(r"/pub/pmc/((?:deprecated/)?(oa_package/[0-9a-f]{2}/[0-9a-f]{2}/(PMC\d+)\.tar\.gz))")
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class Figure:
    """A figure that is wanted.

    Attributes:
        pair: LLaVA-Med's name of it, without a suffix.
        member: its path in the article's tar file.
    """

    pair: str
    member: str


@dataclass
class Wanted:
    """The list, without what is there already.

    Attributes:
        articles: path of the tar file after ``/pub/pmc/`` -> the figures wanted of it.
        count: number of figures wanted.
        present: number that are there already.
        failures: lines of the list that cannot be used: where they are, and why.
    """

    articles: dict[str, list[Figure]] = field(default_factory=dict)
    count: int = 0
    present: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)


def read_list(path: Path, images: Path, only: Collection[str] | None = None) -> Wanted:
    """Read which figures are wanted.

    Args:
        path: ``llava_med_image_urls.jsonl``.
        images: folder of the images; what is in it is not wanted again.
        only: names of the images that are wanted (``32432162_F1.jpg``); None for all.

    Raises:
        UserError: if the file is not there.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there: medcap download llava-med fetches it, or name it by --urls")
    there = {entry.name for entry in os.scandir(images)} if images.is_dir() else set[str]()
    wanted, seen = Wanted(), set[str]()
    with path.open("rb") as lines:
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            location = f"{path.name} line {number + 1}"
            try:
                row = json.loads(line)
                pair, member, address = (row[key] for key in ("pair_id", "image_file_path", "pmc_tar_url"))
                reason = _refusal(pair, member, address)
            except (ValueError, KeyError, TypeError, RecursionError):
                wanted.failures.append((location, "it is no row with pair_id, image_file_path and pmc_tar_url"))
                continue
            name = f"{pair}.jpg"
            if (only is not None and name not in only) or (not reason and name in seen):
                continue
            if reason:
                wanted.failures.append((location, reason))
                continue
            seen.add(name)
            if name in there:
                wanted.present += 1
                continue
            tar = _TAR.fullmatch(urlsplit(address).path)
            assert tar is not None
            wanted.articles.setdefault(tar[2], []).append(Figure(pair, member))
            wanted.count += 1
    return wanted


def names_in(files: Sequence[Path]) -> set[str]:
    """Return the names of the images of data files (LLaVA-Med's, or of any layout with ``image``).

    Raises:
        UserError: if a file cannot be read, or none of its rows names an image.
    """
    names: set[str] = set()
    for file in files:
        if not file.is_file():
            raise UserError(f"--only {file} is not there: name a data file whose rows have 'image'")
        before = len(names)
        for _, row in json_records(file, Tally()):
            if isinstance(row.get("image"), str):
                names.add(PurePosixPath(row["image"]).name)
        if len(names) == before:
            raise UserError(f"--only {file}: none of its rows names an image that is new: check the file")
    return names


def fetch_article(
    tar: str,
    figures: Sequence[Figure],
    images: Path,
    work: Path,
    client: Client,
    routes: Sequence[str] = ROUTES,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[int, list[tuple[str, str]]]:
    """Fetch figures of one article.

    Args:
        tar: path of its tar file after ``/pub/pmc/``.
        figures: those that are wanted.
        images: folder that they go to.
        work: folder for the tar file, which is deleted once it has been read.
        client: fetches.
        routes: ``figures`` (each as a file of its own), ``tars``, or both in an order.
        advance: called with the bytes that came.

    Returns:
        How many figures were written, and what failed, with the reason: a figure by its ``pair``, or a member of the
        tar file that should not be in one.
    """
    missing, reasons, refused = list(figures), dict[str, list[str]](), list[tuple[str, str]]()
    for route in routes:
        if not missing:
            break
        if route == "figures":
            found = _fetch_figures(tar, missing, images, client, advance)
        else:
            found, refused = _fetch_tar(tar, missing, images, work, client, advance)
        for pair, reason in found.items():
            reasons.setdefault(pair, []).append(reason)
        missing = [figure for figure in missing if figure.pair in found]
    failures = [(figure.pair, "; ".join(reasons[figure.pair])) for figure in missing]
    return len(figures) - len(missing), failures + refused


def picture_fault(path: Path) -> str:
    """Return what is wrong with an image file by its first bytes, "" if they are those of a picture."""
    with path.open("rb") as file:
        return "" if file.read(8).startswith(_STARTS) else "it is no JPEG, PNG, GIF or TIFF file"


def _fetch_figures(
    tar: str, figures: Sequence[Figure], images: Path, client: Client, advance: Callable[[int], None]
) -> dict[str, str]:
    """Fetch single files, and return why some are missing."""
    article, missing = PurePosixPath(tar).name.removesuffix(".tar.gz"), dict[str, str]()
    for figure in figures:
        address = PMC_FIGURE.format(article=article, name=quote(PurePosixPath(figure.member).name))
        path = images / f"{figure.pair}.jpg"
        try:
            client.fetch(Target(path, (address,), most_bytes=_MOST_IMAGE_BYTES, check=picture_fault), advance)
        except Unavailable as reason:
            missing[figure.pair] = str(reason)
    return missing


def _fetch_tar(
    tar: str, figures: Sequence[Figure], images: Path, work: Path, client: Client, advance: Callable[[int], None]
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Fetch the article's tar file, and return why figures are missing, and which members should not be in it."""
    path = work / PurePosixPath(tar).name
    if not path.exists():  # it is whole: a program that was killed had not read it yet
        addresses = tuple(address.format(tar=tar) for address in PMC_TARS)
        try:
            client.fetch(Target(path, addresses, most_bytes=_MOST_TAR_BYTES), advance)
        except Unavailable as reason:
            return {figure.pair: str(reason) for figure in figures}, []
    wanted: dict[str, list[Path]] = {}
    for figure in figures:
        wanted.setdefault(figure.member, []).append(images / f"{figure.pair}.jpg")
    fault, refused = "", list[tuple[str, str]]()
    try:
        refused = extract_from_tar(path, wanted, _LIMITS, picture_fault).refused
    except ArchiveError as error:
        fault = f"{path.name}: {error}"
    path.unlink()
    missing: dict[str, str] = {}
    wrong = dict(refused)
    for figure in figures:
        if not (images / f"{figure.pair}.jpg").exists():
            reason = wrong.pop(figure.member, "") or "it is not in the article's tar file"
            missing[figure.pair] = fault or f"{figure.member}: {reason}"
    return missing, [(f"{path.name}: {member}", reason) for member, reason in wrong.items()]


def _refusal(pair: Any, member: Any, address: Any) -> str:
    """Return why a line of the list is not followed, "" if it is."""
    if not isinstance(pair, str) or _PAIR.fullmatch(pair) is None or ".." in pair:
        return f"pair_id {pair!r:.80} is no plain name"
    if not isinstance(member, str) or not is_plain_path(member):
        return f"image_file_path {member!r:.80} is no plain path"
    parts = urlsplit(address) if isinstance(address, str) else None
    if parts is None or parts.hostname != PMC_HOST or _TAR.fullmatch(parts.path) is None:
        return f"pmc_tar_url {address!r:.120} is no article of https://{PMC_HOST}/pub/pmc/oa_package/"
    return ""
