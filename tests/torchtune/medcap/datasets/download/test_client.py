"""Fetching one file from a server that misbehaves in every way that servers do."""

from __future__ import annotations

import email.utils
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.file_server import Fault, FileServer, file_server
from medcap.datasets.download.client import Client
from medcap.datasets.download.faults import Unavailable
from medcap.datasets.download.partial import Checksum, Target
from medcap.errors import UserError

CONTENT = bytes(range(256)) * 4000  # a little more than a MB
SHA = hashlib.sha256(CONTENT).hexdigest()
PATH = "/data/a.bin"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as state:
        yield state


def fetch(server: FileServer, folder: Path, *, size: int | None = None, sha: str = "", **client: object) -> Path:
    """Fetch PATH, whose real host is never asked, as the mirror takes its place."""
    path = folder / "a.bin"
    checksum = Checksum("sha256", sha) if sha else None
    settings = {"backoff": 0.0, "timeout": 5.0} | client
    with Client(mirror=server.url, **settings) as asks:  # type: ignore[arg-type]
        asks.fetch(Target(path, (f"https://example.org{PATH}",), size, checksum))
    return path


def test_a_file_comes_whole_and_nothing_else_stays(server: FileServer, tmp_path: Path) -> None:
    server.serve(PATH, CONTENT)
    assert fetch(server, tmp_path, size=len(CONTENT), sha=SHA).read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_cut_connections_go_on_where_they_stopped(server: FileServer, tmp_path: Path) -> None:
    server.serve(PATH, CONTENT, Fault(cut_after=400_000), Fault(cut_after=300_000))
    assert fetch(server, tmp_path, sha=SHA).read_bytes() == CONTENT
    assert server.ranges[PATH] == ["", "bytes=400000-", "bytes=700000-"]
    assert server.sent[PATH] == len(CONTENT)


def test_a_later_run_fetches_only_the_rest(server: FileServer, tmp_path: Path) -> None:
    server.serve(PATH, CONTENT, Fault(cut_after=400_000), *[Fault(status=500)] * 5)
    with pytest.raises(Unavailable, match=r"status 500 Internal Server Error \(tried 6 times\)"):
        fetch(server, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name == "a.bin"] == []
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.sent[PATH] == len(CONTENT)


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: FileServer, tmp_path: Path) -> None:
    server.serve(PATH, CONTENT, Fault(cut_after=400_000))
    with pytest.raises(Unavailable):
        fetch(server, tmp_path, tries=1)
    other = CONTENT[::-1]
    server.serve(PATH, other, etag='"2"')
    assert fetch(server, tmp_path).read_bytes() == other


def test_without_a_validator_only_a_checksum_allows_going_on(server: FileServer, tmp_path: Path) -> None:
    server.serve(PATH, CONTENT, Fault(cut_after=400_000), etag="")
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges[PATH] == ["", ""]
    server.serve(PATH, CONTENT, Fault(cut_after=400_000), etag="")
    assert fetch(server, tmp_path / "checked", sha=SHA).read_bytes() == CONTENT
    assert server.ranges[PATH][2:] == ["", "bytes=400000-"]


def test_a_server_without_ranges_sends_all_again(server: FileServer, tmp_path: Path) -> None:
    server.serve(PATH, CONTENT, Fault(cut_after=400_000), ranges=False)
    assert fetch(server, tmp_path, sha=SHA).read_bytes() == CONTENT
    assert server.sent[PATH] == 400_000 + len(CONTENT)


def test_pieces_that_do_not_fit_are_dropped_and_fetched_once_more(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / ".a.bin.partial").write_bytes(b"x" * 400_000)
    server.serve(PATH, CONTENT)
    assert fetch(server, tmp_path, sha=SHA).read_bytes() == CONTENT
    assert server.ranges[PATH] == ["bytes=400000-", ""]


def test_a_part_that_was_whole_is_only_checked(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / ".a.bin.partial").write_bytes(CONTENT)
    assert fetch(server, tmp_path, size=len(CONTENT), sha=SHA).read_bytes() == CONTENT
    assert server.requests[PATH] == 0


def test_a_server_without_the_part_that_is_asked_for_is_asked_for_all(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / ".a.bin.partial").write_bytes(b"x" * (len(CONTENT) + 5))
    server.serve(PATH, CONTENT)
    assert fetch(server, tmp_path, sha=SHA).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_waited_for(server: FileServer, tmp_path: Path, status: int) -> None:
    server.serve(PATH, CONTENT, Fault(status=status, headers={"Retry-After": "1"}))
    began = time.monotonic()
    fetch(server, tmp_path)
    assert 1 <= time.monotonic() - began < 4
    assert server.requests[PATH] == 2


def test_retry_after_may_be_a_date_and_may_ask_too_much(server: FileServer, tmp_path: Path) -> None:
    later = email.utils.formatdate(time.time() + 3600, usegmt=True)
    server.serve(PATH, CONTENT, Fault(status=503, headers={"Retry-After": later}))
    with pytest.raises(Unavailable, match=r"status 503 .*the server asks to wait 3\d\d\d s: run it again later"):
        fetch(server, tmp_path)


def test_a_file_that_is_not_there_is_not_asked_for_twice(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"/data/a.bin: status 404 Not Found"):
        fetch(server, tmp_path)
    assert server.requests[PATH] == 1


def test_a_slow_server_counts_as_cut(server: FileServer, tmp_path: Path) -> None:
    server.serve(PATH, CONTENT, Fault(pause=1.0))
    assert fetch(server, tmp_path, timeout=0.3).read_bytes() == CONTENT
    assert server.requests[PATH] == 2


def test_a_wrong_size_a_wrong_checksum_and_a_web_page_are_refused(server: FileServer, tmp_path: Path) -> None:
    server.serve(PATH, CONTENT)
    with pytest.raises(Unavailable, match="it has 1,024,000 bytes, not 1,000 as published"):
        fetch(server, tmp_path, size=1000)
    with pytest.raises(Unavailable, match=f"its sha256 checksum is {SHA}, not {'0' * 64} as published"):
        fetch(server, tmp_path, sha="0" * 64)
    server.serve(PATH, b"<html>log in</html>", kind="text/html; charset=utf-8")
    with pytest.raises(Unavailable, match="a web page came instead of the file"):
        fetch(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_more_bytes_than_are_taken_are_refused_by_header_and_by_count(server: FileServer, tmp_path: Path) -> None:
    server.serve(PATH, CONTENT)
    target = Target(tmp_path / "a.bin", (f"https://example.org{PATH}",), most_bytes=1000)
    with Client(mirror=server.url) as client, pytest.raises(Unavailable, match="more than the 1,000 that are taken"):
        client.fetch(target)
    server.serve(PATH, CONTENT, headers={"Transfer-Encoding": "identity", "Content-Length": "900"})
    with Client(mirror=server.url, tries=1) as client, pytest.raises(Unavailable):
        client.fetch(Target(tmp_path / "a.bin", (f"https://example.org{PATH}",), size=len(CONTENT)))
    assert not (tmp_path / "a.bin").exists()


def test_the_next_address_is_tried_where_the_first_has_nothing(server: FileServer, tmp_path: Path) -> None:
    server.serve("/new/a.bin", CONTENT)
    target = Target(tmp_path / "a.bin", ("https://old.org/a.bin", "https://new.org/new/a.bin"))
    with Client(mirror=server.url) as client:
        client.fetch(target)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_git_checksums_are_those_of_git(tmp_path: Path) -> None:
    (tmp_path / "hello").write_bytes(b"hello\n")
    # git hash-object on a file that holds "hello" and a newline
    assert Checksum("git", "").of(tmp_path / "hello") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_a_mirror_that_is_no_address_is_told() -> None:
    with pytest.raises(UserError, match="--mirror ftp://x must begin with https:// or http://"):
        Client(mirror="ftp://x")
