"""Fetch a source of the table: sizes and free space first, then several files at a time, and every failure listed."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import shutil
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from medcap.datasets.download.archives import ArchiveError, unpack_zip
from medcap.datasets.download.client import MARGIN, Client
from medcap.datasets.download.faults import Stopped, Unavailable, mirror_hint
from medcap.datasets.download.listing import RemoteFile, files_of
from medcap.datasets.download.partial import Target
from medcap.datasets.download.pmc_images import ROUTES, fetch_article, names_in, read_list
from medcap.datasets.download.progress import progress_bar, size_text
from medcap.datasets.download.sources import SOURCES
from medcap.errors import UserError
from medcap.files import atomic_file, make_folder, temporary_name, write_json
from medcap.locks import hold
from medcap.plurals import counted

STATE = ".downloads"  # folder below that of all downloads
_QUEUED = 4  # articles that wait for a thread, for each thread


@dataclass(frozen=True)
class Request:
    """What to fetch.

    Attributes:
        name: a key of ``SOURCES``.
        data_dir: folder of all downloads.
        files: patterns of the files that are wanted, of their paths below ``data_dir`` or their names; empty for all.
        mirror: see :class:`Client`.
        workers: files or articles that are fetched at a time.
        keep_archives: whether archives stay when they have been unpacked.
        verify: compare files that are there already with the published checksums.
        only: data files that name the images that are wanted; of ``llava-med-images`` alone.
        urls: the list of images; by default the one that ``llava-med`` fetches.
        routes: see :func:`medcap.datasets.download.pmc_images.fetch_article`.
    """

    name: str
    data_dir: Path
    files: tuple[str, ...] = ()
    mirror: str = ""
    workers: int = 4
    keep_archives: bool = False
    verify: bool = False
    only: tuple[Path, ...] = ()
    urls: Path | None = None
    routes: tuple[str, ...] = ROUTES


@dataclass
class Summary:
    """What came of it.

    Attributes:
        fetched: number of files or images.
        present: number that were there already.
        received: bytes that came.
        unpacked: number of files that came out of archives.
        failures: what failed, and why.
        report: file that lists the failures; it is there only if there are any.
    """

    report: Path
    fetched: int = 0
    present: int = 0
    received: int = 0
    unpacked: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)


def list_files(request: Request, client: Client | None = None) -> list[RemoteFile]:
    """Return the files of a source that are wanted.

    Args:
        request: which source, and which of its files.
        client: asks the listings.

    Raises:
        UserError: if a listing cannot be had, or no file is wanted.
    """
    with contextlib.ExitStack() as stack:
        asks = client or stack.enter_context(Client(request.mirror))
        try:
            files = files_of(SOURCES[request.name], asks)
        except Unavailable as reason:
            hint = mirror_hint([str(reason)], request.mirror)
            words = "; ".join(filter(None, (f"the list of its files cannot be had: {reason}", hint)))
            raise UserError(f"{request.name}: {words}") from None
    if not request.files:
        return files
    wanted = [
        file
        for file in files
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in request.files for name in _names(file))
    ]
    if not wanted:
        raise UserError(
            f"--files {' '.join(request.files)}: {request.name} has no such file:"
            f" medcap download {request.name} --list shows them"
        )
    return wanted


def download(request: Request, client: Client | None = None) -> Summary:
    """Fetch a source.

    Args:
        request: what to fetch.
        client: fetches; by default one that is closed at the end.

    Returns:
        What came, and what failed.

    Raises:
        UserError: if another process fetches the same source, a listing cannot be had, or the disk is too small.
    """
    state = make_folder(request.data_dir / STATE / request.name, "--data-dir")
    lock = hold(state / "lock")
    if lock is None:
        raise UserError(f"another process fetches {request.name} to {request.data_dir}: wait for it")
    summary = Summary(report=state / "failures.jsonl")
    with lock, contextlib.ExitStack() as stack:
        if client is None:
            client = stack.enter_context(Client(request.mirror))
        if SOURCES[request.name].figures:
            _download_images(request, state, client, summary)
        else:
            _download_files(request, state, client, summary)
        _write_failures(summary)
    return summary


def _download_files(request: Request, state: Path, client: Client, summary: Summary) -> None:
    unpacked = _UnpackedRecord(state / "unpacked.json")
    files, missing = list_files(request, client), list[RemoteFile]()
    for file in files:
        path = request.data_dir / file.path
        if file.unpack and unpacked.has(file):
            summary.present += 1
        elif path.exists() and (fault := _fault(file, path, request.verify)):
            summary.failures.append((file.path, f"{fault}: move it away, then it is fetched"))
        elif path.exists() and not file.unpack:
            summary.present += 1
        else:
            missing.append(file)
    come, needed = _needed(missing, request.data_dir)
    unknown = sum(file.size is None for file in missing)
    more = f" and {unknown} of unknown size" if unknown else ""
    print(f"{request.name}: {len(missing)} of {len(files)} files to fetch, {size_text(come)}{more}", flush=True)
    if not missing:
        return
    free = shutil.disk_usage(request.data_dir).free
    if needed + MARGIN > free:
        raise UserError(
            f"{request.name} needs {size_text(needed)} with what is unpacked, but {size_text(free)} are free in"
            f" {request.data_dir}: make room, or choose by --files"
        )
    with progress_bar(come, request.name, "B", scale=True) as bar:
        advance = _Counter(bar.update, summary)

        def work(file: RemoteFile) -> tuple[int, list[tuple[str, str]]]:
            return _fetch_one(file, request, client, unpacked, advance)

        with contextlib.closing(_in_threads(work, missing, request.workers, client.stop)) as results:
            for file, (written, failures) in results:
                summary.unpacked += written
                summary.failures += failures
                summary.fetched += not any(name == file.path for name, _ in failures)


def _fetch_one(
    file: RemoteFile, request: Request, client: Client, unpacked: _UnpackedRecord, advance: Callable[[int], None]
) -> tuple[int, list[tuple[str, str]]]:
    path = request.data_dir / file.path
    try:
        if not path.exists():
            client.fetch(Target(path, file.addresses, file.size, file.checksum), advance)
        if not file.unpack:
            return 0, []
        assert file.pick is not None
        with progress_bar(None, f"unpacking {path.name}", "file") as bar:

            def show(count: int) -> None:
                if client.stop.is_set():
                    raise Stopped
                bar.update(count)

            done = unpack_zip(path, request.data_dir / file.pick.folder, file.unpack == "flat", advance=show)
    except (Unavailable, ArchiveError) as reason:
        return 0, [(file.path, str(reason))]
    unpacked.add(file)
    if not request.keep_archives:
        path.unlink()
    return done.written, [(f"{file.path}: {member}", reason) for member, reason in done.refused]


def _download_images(request: Request, state: Path, client: Client, summary: Summary) -> None:
    folder = request.data_dir / "llava_med"
    images, tars = folder / "images", make_folder(state / "tars")
    only = names_in(request.only) if request.only else None
    wanted = read_list(request.urls or folder / "llava_med_image_urls.jsonl", images, only)
    summary.present, summary.failures = wanted.present, list(wanted.failures)
    free = shutil.disk_usage(request.data_dir).free
    print(
        f"{request.name}: {counted(wanted.count, 'image')} of {counted(len(wanted.articles), 'article')} to fetch,"
        f" {counted(wanted.present, 'is', 'are')} there; {size_text(free)} are free",
        flush=True,
    )
    if free < 4 * MARGIN:
        raise UserError(f"{request.data_dir} has only {size_text(free)} left: make room for the images")
    with progress_bar(wanted.count, request.name, "image") as bar:
        advance = _Counter(lambda count: None, summary)

        def work(article: tuple[str, Any]) -> tuple[int, list[tuple[str, str]]]:
            tar, figures = article
            return fetch_article(tar, figures, images, tars, client, request.routes, advance)

        articles = _in_threads(work, wanted.articles.items(), request.workers, client.stop)
        with contextlib.closing(articles) as results:
            for article, (written, failures) in results:
                summary.fetched += written
                summary.failures += failures
                failed = counted(len(summary.failures), "failure")
                bar.set_postfix_str(f"{size_text(summary.received)}, {failed}", refresh=False)
                bar.update(len(article[1]))


class _Counter:
    """Counts bytes of all threads."""

    def __init__(self, show: Callable[[int], Any], summary: Summary) -> None:
        self._show, self._summary, self._lock = show, summary, threading.Lock()

    def __call__(self, count: int) -> None:
        with self._lock:
            self._show(count)
            self._summary.received += max(count, 0)


class _UnpackedRecord:
    """Which archives have been unpacked: the archives themselves are deleted then."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            read = {}
        self._archives: dict[str, Any] = read if isinstance(read, dict) else {}

    def has(self, file: RemoteFile) -> bool:
        """Return whether this version of an archive has been unpacked."""
        return self._archives.get(file.path) == _version(file)

    def add(self, file: RemoteFile) -> None:
        """Note that it has."""
        with self._lock:
            self._archives[file.path] = _version(file)
            write_json(self._path, self._archives)


def _version(file: RemoteFile) -> dict[str, Any]:
    return {"size": file.size, "checksum": file.checksum.digest if file.checksum else None}


def _names(file: RemoteFile) -> tuple[str, str, str]:
    """Return what a pattern may mean: the path, the name, and the name that the source has."""
    return file.path, Path(file.path).name, file.addresses[0].rpartition("/")[2]


def _fault(file: RemoteFile, path: Path, verify: bool) -> str:
    """Return what distinguishes a file that is there from the published one."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"a file of {size:,} bytes is there already, the published one has {file.size:,}"
    if verify and file.checksum is not None and file.checksum.of(path) != file.checksum.digest.lower():
        return f"a file with another {file.checksum.algorithm} checksum is there already"
    return ""


def _needed(files: Iterable[RemoteFile], data_dir: Path) -> tuple[int, int]:
    """Return the bytes that are still to come, and the room for them: archives lie beside their files for a while."""
    come, room = 0, 0
    for file in files:
        path, size = data_dir / file.path, file.size or 0
        part = path if path.exists() else temporary_name(path)
        rest = max(0, size - (part.stat().st_size if part.exists() else 0))
        come += rest
        room += rest + size * bool(file.unpack)
    return come, room


def _write_failures(summary: Summary) -> None:
    if not summary.failures:
        summary.report.unlink(missing_ok=True)
        return
    with atomic_file(summary.report) as temporary, temporary.open("w", encoding="utf-8") as file:
        for what, reason in summary.failures:
            file.write(json.dumps({"what": what, "reason": reason}, ensure_ascii=False) + "\n")


def _in_threads(
    work: Callable[[Any], Any], items: Iterable[Any], workers: int, stop: threading.Event
) -> Generator[tuple[Any, Any]]:
    """Do something with each item in several threads, reading only a little ahead; yield results as they come.

    An error ends all threads: they stop at the next block of bytes, and what came stays for the next run.
    """
    waiting, left = dict[Future[Any], Any](), iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="download") as pool:
        try:
            while True:
                for item in islice(left, workers * _QUEUED - len(waiting)):
                    waiting[pool.submit(work, item)] = item
                if not waiting:
                    return
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield waiting.pop(future), future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def shown_failures(summary: Summary, most: int = 10) -> Sequence[str]:
    """Return lines about the first failures."""
    lines = [f"  {what}: {reason}" for what, reason in summary.failures[:most]]
    more = len(summary.failures) - most
    return [*lines, f"  and {more:,} more"] if more > 0 else lines
