"""Fetch files over HTTP: what is there already is not fetched again, and a file has its name only when it is whole."""

from __future__ import annotations

import functools
import json
import re
import shutil
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx2

from medcap.datasets.download.answers import Open, Response
from medcap.datasets.download.faults import NoRange, Passing, Stopped, Unavailable
from medcap.datasets.download.partial import Part, Target
from medcap.errors import UserError

MARGIN = 256 * 2**20  # bytes that stay free
_ENOUGH = 2**20  # bytes after which a cut connection counts as progress
_MOST_JSON = 64 * 2**20
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


@functools.cache
def _certificates() -> ssl.SSLContext:
    return httpx2.create_ssl_context()  # takes a third of a second


class Client:
    """Fetches over HTTP; several threads may use one.

    Args:
        mirror: address that takes the place of ``https://host`` in every address; its path goes before theirs.
        tries: tries of a file that follow each other without progress.
        patience: longest wait in seconds that a server may ask for.
        timeout: seconds without a byte after which a connection counts as cut.
        backoff: seconds before the second try; doubled with each one, up to a minute.
        stop: ends all waiting and fetching when it is set.
    """

    def __init__(
        self,
        mirror: str = "",
        tries: int = 6,
        patience: float = 600,
        timeout: float = 60,
        backoff: float = 1,
        stop: threading.Event | None = None,
    ) -> None:
        if mirror and (urlsplit(mirror).scheme not in ("http", "https") or not urlsplit(mirror).netloc):
            raise UserError(f"--mirror {mirror} must begin with https:// or http:// and name a host")
        self.stop = stop or threading.Event()
        self._mirror = mirror.rstrip("/")
        self._tries, self._patience, self._backoff = tries, patience, backoff
        self._free_again: dict[str, float] = {}  # host -> when it may be asked again
        # Encodings are not asked for: sizes, ranges and checksums are those of the file itself.
        self._http = httpx2.Client(
            verify=_certificates(),
            follow_redirects=True,
            timeout=httpx2.Timeout(timeout, connect=min(timeout, 30)),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=32),
            headers={"User-Agent": "medcap", "Accept-Encoding": "identity"},
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def address(self, address: str) -> str:
        """Return where an address is asked for: the mirror's, if there is one."""
        if not self._mirror:
            return address
        parts = urlsplit(address)
        return self._mirror + parts.path + (f"?{parts.query}" if parts.query else "")

    def get_json(self, address: str) -> tuple[Any, str]:
        """Fetch a JSON document.

        Args:
            address: where it is.

        Returns:
            The document, and the address of the next page by the ``Link`` header, or "".

        Raises:
            Unavailable: if it cannot be had, or is none.
        """

        def ask() -> tuple[Any, str]:
            body = bytearray()
            with self._request(address, {}) as response:
                for block in response.iter_bytes():
                    body += block
                    if len(body) > _MOST_JSON:
                        raise Unavailable(f"the list of files has more than {_MOST_JSON} bytes")
                following = response.links.get("next", {}).get("url", "")
            try:
                return json.loads(body), following
            except (ValueError, RecursionError):
                raise Unavailable("the answer is no JSON") from None

        return self._with_tries(address, ask)

    def fetch(self, target: Target, advance: Callable[[int], None] = lambda count: None) -> None:
        """Fetch a file, or the rest of it.

        Args:
            target: the file.
            advance: called with the bytes that came, with a negative number where some are dropped.

        Raises:
            Unavailable: if no address has it; the reason names each of them.
            Stopped: if the program is ending.
            UserError: if the disk is full.
        """
        target.path.parent.mkdir(parents=True, exist_ok=True)
        reasons = []
        for address in target.addresses:
            try:
                self._with_tries(address, lambda address=address: self._attempt(address, target, advance))
                return
            except Unavailable as reason:
                reasons.append(f"{self.address(address)}: {reason}")
        raise Unavailable("; ".join(reasons))

    def _with_tries(self, address: str, ask: Callable[[], Any]) -> Any:
        host, failed = urlsplit(self.address(address)).netloc, 0
        while True:
            self._wait_for(host)
            try:
                return ask()
            except Passing as fault:
                failed = 1 if fault.gained >= _ENOUGH else failed + 1
                if failed >= self._tries:
                    raise Unavailable(f"{fault} (tried {failed} times)") from None
                if fault.wait is None:
                    if self.stop.wait(min(self._backoff * 2 ** (failed - 1), 60)):
                        raise Stopped from None
                elif fault.wait > self._patience:
                    asked = f"the server asks to wait {fault.wait:.0f} s: run it again later"
                    raise Unavailable(f"{fault}; {asked}") from None
                else:  # a server that asks for a pause asks all threads
                    self._free_again[host] = max(self._free_again.get(host, 0), time.monotonic() + fault.wait)

    def _wait_for(self, host: str) -> None:
        rest = self._free_again.get(host, 0) - time.monotonic()
        if (rest > 0 and self.stop.wait(rest)) or self.stop.is_set():
            raise Stopped

    def _request(self, address: str, headers: dict[str, str]) -> Open:
        return Open(self._http.stream("GET", self.address(address), headers=headers))

    def _attempt(self, address: str, target: Target, advance: Callable[[int], None]) -> None:
        part = Part(target)
        start = part.usable(advance)
        if target.size is None or start < target.size or not start:
            headers = {"Range": f"bytes={start}-"} | part.condition() if start else {}
            try:
                with self._request(address, headers) as response:
                    start, total = self._read_head(response, start, part, target, advance)
                    part.begin(response.headers)
                    self._read_body(response, start, total, part, advance)
            except NoRange:
                part.drop(advance)
                raise
        part.finish(whole=start == 0, advance=advance)

    def _read_body(
        self, response: Response, start: int, total: int | None, part: Part, advance: Callable[[int], None]
    ) -> None:
        most = part.target.most_bytes if total is None else min(part.target.most_bytes, total)
        with part.path.open("ab") as file:
            for block in response.iter_raw():  # as they come: larger blocks would be lost with the connection
                if self.stop.is_set():
                    raise Stopped
                if start + response.gained + len(block) > most:
                    part.drop(advance)
                    raise Unavailable(f"more than {most:,} bytes came")
                file.write(block)
                response.gained += len(block)
                advance(len(block))
        came = start + response.gained
        if total is not None and came < total:
            gained = response.gained
            raise Passing(f"the connection was cut after {came:,} of {total:,} bytes", gained=gained)

    def _read_head(
        self, response: Response, start: int, part: Part, target: Target, advance: Callable[[int], None]
    ) -> tuple[int, int | None]:
        """Return where the body begins and how many bytes the whole file has, if that is known."""
        # Before anything is dropped: it may be the page of a hotel's network.
        if "text/html" in response.headers.get("content-type", "") and target.path.suffix not in (".html", ".htm"):
            raise Unavailable("a web page came instead of the file")
        length = response.number("content-length")
        if start and response.status == 206:
            span = _RANGE.fullmatch(response.headers.get("content-range", "").strip())
            if span is None or int(span[1]) != start:
                part.drop(advance)
                raise Passing("the server sent another part of the file than it was asked for")
            total = int(span[3]) if span[3] != "*" else int(span[2]) + 1
        else:  # the server knows no ranges, or has another version by now
            start, total = 0, length
        if target.size is not None and total is not None and total != target.size:
            raise Unavailable(f"it has {total:,} bytes, not {target.size:,} as published")
        if total is not None and total > target.most_bytes:
            raise Unavailable(f"it has {total:,} bytes, more than the {target.most_bytes:,} that are taken")
        needed, free = (total or 0) - start, shutil.disk_usage(target.path.parent).free
        if needed + MARGIN > free:
            raise UserError(f"{target.path} needs {needed / 1e9:.1f} GB more, but {free / 1e9:.1f} GB are free there")
        if not start:
            part.drop(advance)
        return start, total if total is not None else target.size
