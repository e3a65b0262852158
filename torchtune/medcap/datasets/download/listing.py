"""Ask the Hugging Face hub, Zenodo or OSF which files there are, with sizes and checksums."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from medcap.datasets.download.client import Client
from medcap.datasets.download.faults import Unavailable
from medcap.datasets.download.partial import Checksum
from medcap.datasets.download.sources import HUB, OSF, ZENODO, Listing, Pick, Source

_MOST_PAGES = 1000


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be fetched.

    Attributes:
        path: where it goes, below the folder of all downloads; for an archive that is unpacked, the archive itself.
        addresses: tried in this order.
        size: in bytes, if it is known.
        checksum: where one is published.
        pick: how it was picked from a listing.
    """

    path: str
    addresses: tuple[str, ...]
    size: int | None = None
    checksum: Checksum | None = None
    pick: Pick | None = None

    @property
    def unpack(self) -> str:
        """How it is unpacked, "" if it is not."""
        return self.pick.unpack if self.pick else ""


def files_of(source: Source, client: Client) -> list[RemoteFile]:
    """Return the files of a source.

    Args:
        source: an entry of the table.
        client: asks the listings.

    Raises:
        Unavailable: if a listing cannot be had, or has none of the files that are picked from it.
    """
    found = {
        file.path: RemoteFile(file.path, file.addresses, file.size, Checksum("sha256", file.sha256))
        for file in source.files
    }
    for listing in source.listings:
        try:
            picked = list(_picked(listing, client))
        except (KeyError, TypeError, AttributeError, ValueError):
            raise Unavailable(f"{listing.kind} {listing.key} does not answer with a list of files") from None
        if not picked:
            patterns = ", ".join(pick.pattern for pick in listing.picks)
            raise Unavailable(f"{listing.kind} {listing.key} lists no file {patterns}: its files have changed")
        for file in picked:
            found.setdefault(file.path, file)
    return list(found.values())


def _picked(listing: Listing, client: Client) -> Iterator[RemoteFile]:
    for file in _READERS[listing.kind](listing.key, client):
        if not isinstance(file.size, int | None) or not isinstance(file.addresses[0], str):
            raise TypeError
        if not is_plain_path(file.path):
            raise Unavailable(f"{listing.kind} {listing.key} lists the file {file.path!r}, which is no plain path")
        pick = next((pick for pick in listing.picks if fnmatch.fnmatchcase(file.path, pick.pattern)), None)
        if pick is not None:
            path = str(PurePosixPath(pick.folder) / (pick.name or file.path))
            if pick.unpack:
                # Beside the folder that it is unpacked to: two archives of one name must not meet.
                path = str(PurePosixPath(pick.folder).parent / f"{PurePosixPath(pick.folder).name}.{_flat(file.path)}")
            yield RemoteFile(path, file.addresses, file.size, file.checksum, pick)


def is_plain_path(path: str) -> bool:
    """Return whether a path with ``/`` stays in its folder on every system, and names a file."""
    parts = path.split("/")
    return not any(part in ("", ".", "..") or "\\" in part or ":" in part or "\0" in part for part in parts)


def _flat(path: str) -> str:
    return path.replace("/", "-")


def _hub_files(key: str, client: Client) -> Iterator[RemoteFile]:
    """Read ``GET /api/datasets/KEY/tree/main``, whose pages are linked by the ``Link`` header."""
    address = f"{HUB}/api/datasets/{key}/tree/main?recursive=true"
    for entries in _pages(address, client, lambda document: document):
        for entry in entries:
            if entry.get("type") != "file":
                continue
            path, stored = str(entry["path"]), entry.get("lfs") or {}
            checksum = Checksum("sha256", str(stored["oid"])) if stored else Checksum("git", str(entry["oid"]))
            yield RemoteFile(path, (f"{HUB}/datasets/{key}/resolve/main/{quote(path)}",), entry["size"], checksum)


def _zenodo_files(key: str, client: Client) -> Iterator[RemoteFile]:
    """Read ``GET /api/records/KEY``."""
    for entries in _pages(f"{ZENODO}/api/records/{key}", client, lambda document: document["files"]):
        for entry in entries:
            algorithm, _, digest = str(entry["checksum"]).partition(":")
            checksum = Checksum(algorithm, digest) if algorithm in ("md5", "sha256") and digest else None
            yield RemoteFile(str(entry["key"]), (entry["links"]["self"],), entry["size"], checksum)


def _osf_files(key: str, client: Client) -> Iterator[RemoteFile]:
    """Read ``GET /v2/nodes/KEY/files/osfstorage/``, its pages and its folders."""
    folders = [(f"{OSF}/v2/nodes/{key}/files/osfstorage/", "")]
    while folders:
        address, folder = folders.pop()
        for entries in _pages(address, client, lambda document: document["data"]):
            for entry in entries:
                facts = entry["attributes"]
                path = f"{folder}{facts['name']}"
                if facts["kind"] == "folder":
                    folders.append((entry["relationships"]["files"]["links"]["related"]["href"], f"{path}/"))
                    continue
                digests = (facts.get("extra") or {}).get("hashes") or {}
                algorithm = next((name for name in ("sha256", "md5") if digests.get(name)), "")
                checksum = Checksum(algorithm, str(digests[algorithm])) if algorithm else None
                yield RemoteFile(path, (entry["links"]["download"],), facts.get("size"), checksum)


_READERS: Mapping[str, Callable[[str, Client], Iterator[RemoteFile]]] = {
    "hub": _hub_files,
    "zenodo": _zenodo_files,
    "osf": _osf_files,
}


def _pages(address: str, client: Client, entries_of: Callable[[Any], Any]) -> Iterator[list[dict[str, Any]]]:
    """Yield the entries of each page; :func:`files_of` tells of entries that are something else."""
    for _ in range(_MOST_PAGES):
        document, following = client.get_json(address)
        entries = entries_of(document)
        if not isinstance(entries, list):
            raise TypeError
        yield entries
        links = document.get("links") if isinstance(document, dict) else None
        address = following or (links.get("next") if isinstance(links, dict) else "") or ""
        if not address:
            return
    raise Unavailable(f"{client.address(address)} has more than {_MOST_PAGES} pages")
