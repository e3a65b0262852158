"""LLaVA-Med's images from PMC's articles, by ``medcap download llava-med-images``."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from helpers.file_server import Fault, FileServer, file_server
from medcap.datasets.download.client import Client
from medcap.datasets.download.pmc_images import names_in, read_list
from medcap.datasets.download.run import Request, Summary, download
from medcap.errors import UserError

JPEG = b"\xff\xd8\xff" + bytes(range(256)) * 20
TAR = "/pub/pmc/oa_package/3f/46/PMC{}.tar.gz"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as state:
        yield state


def row(article: int, figure: str, pair: str) -> dict[str, str]:
    address = f"https://ftp.ncbi.nlm.nih.gov{TAR.format(article)}"
    return {"pmc_tar_url": address, "image_file_path": f"PMC{article}/{figure}", "pair_id": pair}


def package(members: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return out.getvalue()


def write_list(data: Path, rows: list[object]) -> Path:
    path = data / "llava_med" / "llava_med_image_urls.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in rows), encoding="utf-8")
    return path


def run(server: FileServer, data: Path, only: tuple[Path, ...] = (), routes: tuple[str, ...] = ("tars",)) -> Summary:
    request = Request("llava-med-images", data, workers=3, only=only, routes=routes)
    with Client(mirror=server.url, backoff=0, timeout=5, tries=3) as client:
        return download(request, client)


def images(data: Path) -> set[str]:
    return {path.name for path in (data / "llava_med" / "images").iterdir()}


def test_each_article_is_fetched_once_and_its_tar_file_is_deleted(server: FileServer, tmp_path: Path) -> None:
    write_list(tmp_path, [row(1, "a.jpg", "11_F1"), row(2, "a.jpg", "22_F1"), row(1, "b.jpg", "11_F2")])
    server.serve(TAR.format(1), package({"PMC1/a.jpg": JPEG, "PMC1/b.jpg": JPEG, "PMC1/text.nxml": bytes(9999)}))
    server.serve(TAR.format(2), package({"PMC2/a.jpg": JPEG}), Fault(status=503, headers={"Retry-After": "0"}))
    summary = run(server, tmp_path)
    assert (summary.fetched, summary.present, summary.failures) == (3, 0, [])
    assert images(tmp_path) == {"11_F1.jpg", "11_F2.jpg", "22_F1.jpg"}
    assert (tmp_path / "llava_med" / "images" / "11_F2.jpg").read_bytes() == JPEG
    assert server.requests == {TAR.format(1): 1, TAR.format(2): 2}
    assert not list(tmp_path.rglob("*.tar.gz*"))
    assert run(server, tmp_path).present == 3
    assert server.requests == {TAR.format(1): 1, TAR.format(2): 2}


def test_everything_that_fails_is_listed_and_tried_again(server: FileServer, tmp_path: Path) -> None:
    path = write_list(
        tmp_path,
        [
            row(1, "gone.jpg", "1_F1"),
            row(2, "missing.jpg", "2_F1"),
            row(3, "page.jpg", "3_F1"),
            row(4, "link.jpg", "4_F1"),
            row(5, "a.jpg", "5_F1"),
            row(6, "a.jpg", "../../6_F1"),
            {**row(7, "a.jpg", "7_F1"), "pmc_tar_url": "https://example.org/pub/pmc/oa_package/3f/46/PMC7.tar.gz"},
            {"pair_id": "8_F1"},
            row(9, "a.jpg", "9_F1"),
        ],
    )
    server.serve(TAR.format(2), package({"PMC2/other.jpg": JPEG}))
    server.serve(TAR.format(3), package({"PMC3/page.jpg": b"<html>"}))
    server.serve(TAR.format(4), package({"PMC4/../../../evil.jpg": JPEG}, {"PMC4/link.jpg": "/etc/passwd"}))
    server.serve(TAR.format(5), b"\x1f\x8bno gzip")
    server.serve(TAR.format(9), package({"PMC9/a.jpg": JPEG}), Fault(cut_after=100))
    summary = run(server, tmp_path)
    assert (summary.fetched, images(tmp_path)) == (1, {"9_F1.jpg"})
    reasons = dict(summary.failures)
    assert {what: reason for what, reason in reasons.items() if what.startswith(path.name)} == {
        f"{path.name} line 6": "pair_id '../../6_F1' is no plain name",
        f"{path.name} line 7": "pmc_tar_url 'https://example.org/pub/pmc/oa_package/3f/46/PMC7.tar.gz' is no article of"
        " https://ftp.ncbi.nlm.nih.gov/pub/pmc/oa_package/",
        f"{path.name} line 8": "it is no row with pair_id, image_file_path and pmc_tar_url",
    }
    moved = TAR.format(1).replace("oa_package", "deprecated/oa_package")
    assert (
        reasons["1_F1"]
        == f"{server.url}{TAR.format(1)}: status 404 Not Found; {server.url}{moved}: status 404 Not Found"
    )
    assert reasons["2_F1"] == "PMC2/missing.jpg: it is not in the article's tar file"
    assert reasons["3_F1"] == "PMC3/page.jpg: it is no JPEG, PNG, GIF or TIFF file"
    assert reasons["4_F1"] == "PMC4/link.jpg: it is no regular file but a link or a device"
    assert reasons["PMC4.tar.gz: PMC4/../../../evil.jpg"] == "its name leads out of the folder"
    assert reasons["5_F1"].startswith("PMC5.tar.gz: it is damaged")
    assert len(summary.failures) == 9
    listed = [json.loads(line) for line in summary.report.read_text(encoding="utf-8").splitlines()]
    assert [(line["what"], line["reason"]) for line in listed] == summary.failures
    assert not list(tmp_path.rglob("*evil*")) and not list(tmp_path.parent.glob("*evil*"))

    server.serve(TAR.format(1), package({"PMC1/gone.jpg": JPEG}))
    again = run(server, tmp_path)
    assert (again.fetched, again.present) == (1, 1)
    assert server.requests[TAR.format(9)] == 2


def test_only_the_images_that_rows_name_are_fetched(server: FileServer, tmp_path: Path) -> None:
    write_list(tmp_path, [row(1, "a.jpg", "1_F1"), row(2, "a.jpg", "2_F1")])
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"id": "2_F1", "image": "2_F1.jpg", "conversations": []}]), encoding="utf-8")
    server.serve(TAR.format(2), package({"PMC2/a.jpg": JPEG}))
    assert run(server, tmp_path, (rows,)).failures == []
    assert server.requests == {TAR.format(2): 1}


def test_single_figures_come_before_tar_files(server: FileServer, tmp_path: Path) -> None:
    write_list(tmp_path, [row(1, "a b.jpg", "1_F1"), row(1, "b.jpg", "1_F2")])
    server.serve("/PMC1.1/a%20b.jpg", JPEG)
    server.serve(TAR.format(1), package({"PMC1/a b.jpg": JPEG, "PMC1/b.jpg": JPEG}))
    assert run(server, tmp_path, routes=("figures",)).failures == [
        ("1_F2", f"{server.url}/PMC1.1/b.jpg: status 404 Not Found")
    ]
    assert server.requests == {"/PMC1.1/a%20b.jpg": 1, "/PMC1.1/b.jpg": 1}
    assert run(server, tmp_path, routes=("figures", "tars")).failures == []
    assert images(tmp_path) == {"1_F1.jpg", "1_F2.jpg"}


def test_a_tar_file_that_was_whole_when_the_program_was_killed_is_not_fetched_again(
    server: FileServer, tmp_path: Path
) -> None:
    write_list(tmp_path, [row(1, "a.jpg", "1_F1")])
    tars = tmp_path / ".downloads" / "llava-med-images" / "tars"
    tars.mkdir(parents=True)
    (tars / "PMC1.tar.gz").write_bytes(package({"PMC1/a.jpg": JPEG}))
    assert run(server, tmp_path).fetched == 1
    assert not server.requests and not list(tars.iterdir())


def test_files_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="medcap download llava-med fetches it, or name it by --urls"):
        read_list(tmp_path / "urls.jsonl", tmp_path)
    with pytest.raises(UserError, match=r"--only .*rows\.json is not there"):
        names_in([tmp_path / "rows.json"])
