"""Whole sources: listings of the hub, Zenodo and OSF, free space, locks, archives, and runs after runs."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.file_server import Fault, FileServer, file_server
from medcap.cli import main
from medcap.datasets.download import run as downloads
from medcap.datasets.download.client import Client
from medcap.datasets.download.elsewhere import ELSEWHERE
from medcap.datasets.download.run import Request, Summary, download
from medcap.datasets.download.sources import SOURCES
from medcap.errors import UserError
from medcap.locks import hold

JPEG = b"\xff\xd8\xff" + bytes(50)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as state:
        yield state


def serve_json(server: FileServer, path: str, value: Any, **how: Any) -> None:
    server.serve(path, json.dumps(value).encode(), kind="application/json", **how)


def fetch(server: FileServer, name: str, data: Path, **options: Any) -> Summary:
    with Client(mirror=server.url, backoff=0, timeout=5, tries=3) as client:
        return download(Request(name, data, **options), client)


def below(data: Path) -> set[str]:
    files = (path.relative_to(data) for path in data.rglob("*") if path.is_file())
    return {path.as_posix() for path in files if path.parts[0] != ".downloads"}


def zip_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, body in members.items():
            file.writestr(name, body)
    return out.getvalue()


def serve_slake(server: FileServer, images: bytes) -> None:
    """Serve BoKelvin/SLAKE as the hub does, its list on two pages."""
    files = {"train.json": b"[1]", "validation.json": b"[2]", "test.json": b"[3]", "mask.txt": b"1:liver"}
    listing = "/api/datasets/BoKelvin/SLAKE/tree/main?recursive=true"
    entries: list[dict[str, Any]] = [{"type": "directory", "path": "x", "oid": "0", "size": 0}]
    for name, body in files.items():
        oid = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
        entries.append({"type": "file", "path": name, "size": len(body), "oid": oid})
        server.serve(f"/datasets/BoKelvin/SLAKE/resolve/main/{name}", body)
    digest = hashlib.sha256(images).hexdigest()
    stored = {"oid": digest, "size": len(images), "pointerSize": 134}
    last = {"type": "file", "path": "imgs.zip", "size": len(images), "oid": "0", "lfs": stored}
    following = {"Link": f'<https://huggingface.co{listing}&cursor=a>; rel="next"'}
    serve_json(server, listing, entries, headers=following)
    serve_json(server, f"{listing}&cursor=a", [last, {"type": "file", "path": "KG.zip", "size": 1, "oid": "0"}])
    server.serve("/datasets/BoKelvin/SLAKE/resolve/main/imgs.zip", images)


def test_a_hub_data_set_lies_where_its_converter_looks(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve_slake(server, zip_of({"imgs/xmlab1/source.jpg": JPEG, "imgs/xmlab2/source.jpg": JPEG}))
    summary = fetch(server, "slake", tmp_path)
    assert (summary.fetched, summary.unpacked, summary.failures) == (5, 2, [])
    assert "slake: 5 of 5 files to fetch, 384 bytes" in capsys.readouterr().out
    expected = {f"Slake1.0/{name}" for name in ("train.json", "validate.json", "test.json", "mask.txt")}
    assert below(tmp_path) == expected | {"Slake1.0/imgs/xmlab1/source.jpg", "Slake1.0/imgs/xmlab2/source.jpg"}
    sent = dict(server.requests)
    again = fetch(server, "slake", tmp_path, verify=True)
    assert (again.fetched, again.present, again.received) == (0, 5, 0)
    asked = {path for path, count in server.requests.items() if count > sent.get(path, 0)}
    assert all("/tree/main" in path for path in asked)


def test_a_zenodo_record_is_compared_with_its_md5_and_files_are_chosen(server: FileServer, tmp_path: Path) -> None:
    def record(key: str, names: dict[str, str]) -> None:
        files = []
        for name, md5 in names.items():
            link = f"https://zenodo.org/api/records/{key}/files/{name}/content"
            files.append({"key": name, "size": 4, "checksum": f"md5:{md5}", "links": {"self": link}})
            server.serve(link.removeprefix("https://zenodo.org"), b"data")
        serve_json(server, f"/api/records/{key}", {"files": files, "links": {"self": "x"}})

    good = hashlib.md5(b"data").hexdigest()
    record("13358372", {"busi_128.npz": good, "busi_256.npz": "0" * 32, "readme.txt": good})
    record("13359660", {"wbc_256.npz": good})
    summary = fetch(server, "medsegbench", tmp_path, files=("busi_*", "wbc_256.npz"))
    assert below(tmp_path) == {"MedSegBench/busi_128.npz", "MedSegBench/wbc_256.npz"}
    assert summary.failures == [
        (
            "MedSegBench/busi_256.npz",
            f"{server.url}/api/records/13358372/files/busi_256.npz/content: its md5 checksum is {good}, not {'0' * 32}"
            " as published",
        )
    ]
    with pytest.raises(UserError, match=r"--files x\.npz: medsegbench has no such file"):
        fetch(server, "medsegbench", tmp_path, files=("x.npz",))


def test_an_osf_node_is_read_with_its_folders_and_pages(server: FileServer, tmp_path: Path) -> None:
    def file(name: str, body: bytes) -> dict[str, Any]:
        hashes = {"md5": hashlib.md5(body).hexdigest(), "sha256": hashlib.sha256(body).hexdigest()}
        server.serve(f"/download/{len(body)}/", body)
        facts = {"kind": "file", "name": name, "size": len(body), "extra": {"hashes": hashes}}
        return {"attributes": facts, "links": {"download": f"https://osf.io/download/{len(body)}/"}}

    root = "/v2/nodes/89kps/files/osfstorage/"
    related = {"links": {"related": {"href": f"https://api.osf.io{root}5c/"}}}
    folder = {"attributes": {"kind": "folder", "name": "VQA_RAD Image Folder"}, "relationships": {"files": related}}
    following = {"next": f"https://api.osf.io{root}?page=2"}
    serve_json(server, root, {"data": [folder], "links": following})
    serve_json(
        server, f"{root}?page=2", {"data": [file("VQA_RAD Dataset Public.json", b"[]")], "links": {"next": None}}
    )
    serve_json(server, f"{root}5c/", {"data": [file("synpic1.jpg", JPEG)], "links": {"next": None}})
    assert fetch(server, "vqarad", tmp_path).failures == []
    assert below(tmp_path) == {"VQA_RAD/VQA_RAD Dataset Public.json", "VQA_RAD/VQA_RAD Image Folder/synpic1.jpg"}


def test_a_listing_cannot_name_a_file_elsewhere(server: FileServer, tmp_path: Path) -> None:
    entry = {"type": "file", "path": "data/../../../x.parquet", "size": 1, "oid": "0"}
    listing = "/api/datasets/flaviagiammarino/path-vqa/tree/main?recursive=true"
    serve_json(server, listing, [entry])
    with pytest.raises(UserError, match="which is no plain path"):
        fetch(server, "path-vqa", tmp_path)
    for answer in ({"error": "gone"}, [3], [{"type": "file"}]):
        serve_json(server, listing, answer)
        with pytest.raises(UserError, match="does not answer with a list of files"):
            fetch(server, "path-vqa", tmp_path)
    serve_json(server, listing, [{"type": "file", "path": "README.md", "size": 1, "oid": "0"}])
    with pytest.raises(UserError, match=r"hub flaviagiammarino/path-vqa lists no file data/\*.parquet"):
        fetch(server, "path-vqa", tmp_path)
    assert below(tmp_path) == set()


def test_an_archive_that_is_damaged_or_refused_in_part_is_listed(server: FileServer, tmp_path: Path) -> None:
    serve_slake(server, b"no zip")
    (what, reason), *rest = fetch(server, "slake", tmp_path, files=("imgs.zip",)).failures
    assert (what, rest) == ("Slake1.0/imgs.imgs.zip", []) and reason.startswith("it is damaged")
    (tmp_path / what).unlink()
    serve_slake(server, zip_of({"imgs/a/source.jpg": JPEG, "imgs/b/source.jpg": JPEG, "../../up.jpg": JPEG}))
    summary = fetch(server, "slake", tmp_path, files=("imgs.zip",), keep_archives=True)
    assert summary.failures == [(f"{what}: ../../up.jpg", "its name leads out of the folder")]
    assert below(tmp_path) == {what, "Slake1.0/imgs/a/source.jpg", "Slake1.0/imgs/b/source.jpg"}


def test_a_file_of_another_size_that_is_there_is_left_alone(server: FileServer, tmp_path: Path) -> None:
    serve_slake(server, b"")
    (tmp_path / "Slake1.0").mkdir()
    (tmp_path / "Slake1.0" / "train.json").write_bytes(b"my own rows")
    (tmp_path / "Slake1.0" / "test.json").write_bytes(b"[4]")
    options: dict[str, Any] = {"files": ("train.json", "test.json"), "verify": True}
    assert fetch(server, "slake", tmp_path, **options).failures == [
        (
            "Slake1.0/train.json",
            "a file of 11 bytes is there already, the published one has 3: move it away, then it is fetched",
        ),
        ("Slake1.0/test.json", "a file with another git checksum is there already: move it away, then it is fetched"),
    ]
    assert (tmp_path / "Slake1.0" / "train.json").read_bytes() == b"my own rows"


def test_a_disk_that_is_too_small_is_told_before_a_byte_comes(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_slake(server, bytes(1_000_000))
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda path: SimpleNamespace(free=270_000_000))
    with pytest.raises(UserError, match=r"slake needs 2.0 MB with what is unpacked, but 270.0 MB are free"):
        fetch(server, "slake", tmp_path)
    assert not any("/resolve/" in path for path in server.requests)


def test_a_second_process_does_not_fetch_the_same(server: FileServer, tmp_path: Path) -> None:
    lock = hold(tmp_path / ".downloads" / "slake" / "lock")
    assert lock is not None
    with lock, pytest.raises(UserError, match="another process fetches slake"):
        fetch(server, "slake", tmp_path)


def test_llava_meds_files_have_a_second_address(server: FileServer, tmp_path: Path) -> None:
    file = next(file for file in SOURCES["llava-med"].files if file.path.endswith("qa50_fig_captions.json"))
    server.serve("/med_llava/eval/llava_med_eval_qa50_fig_captions.json", bytes(file.size))
    (what, reason), *_ = fetch(server, "llava-med", tmp_path, files=("*qa50_fig_captions.json",)).failures
    assert what == "llava_med/eval/llava_med_eval_qa50_fig_captions.json"
    assert "/media/microsoft/LLaVA-Med/d406e3fc7c3d1e4c797a7676de18cbfd070b6d2c/data/eval/" in reason
    assert f"not {file.sha256} as published" in reason


def test_every_source_says_since_when_it_is_known_and_what_to_do_next() -> None:
    from medcap.datasets.converters.registry import CONVERTERS

    page = (Path(__file__).parents[5] / "docs" / "download.md").read_text(encoding="utf-8")
    assert len(SOURCES) == 18
    for name, source in SOURCES.items():
        assert source.what and source.licence and source.known and source.size, name
        assert source.then and all(then.split()[0] in CONVERTERS for then in source.then), name
        assert f"| `{name}` | {source.what} | {source.size} | {source.licence} | {source.known} |\n" in page
        assert bool(source.files) + bool(source.listings) + source.figures == 1, name


def test_a_set_that_is_not_downloaded_says_why_and_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    from medcap.datasets.converters.registry import CONVERTERS

    page = (Path(__file__).parents[5] / "docs" / "download.md").read_text(encoding="utf-8")
    assert not ELSEWHERE.keys() & SOURCES.keys()
    for name, elsewhere in ELSEWHERE.items():
        assert elsewhere.then.removeprefix("medcap prepare ").split()[0] in CONVERTERS, name
        assert f"| `{name}` | {elsewhere.what} | {elsewhere.why} | {elsewhere.where} |\n" in page
    with pytest.raises(SystemExit) as end:
        main(["download", "mecovqa"])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "medcap: mecovqa is not downloaded, because the names of its files on the hub are not known to us, and its"
        " images are those of SA-Med2D-20M; get it from BlueZeros/MedPLIB on the hub, and SA-Med2D-20M for images and"
        " masks, put it where docs/datasets.md says, then medcap prepare mecovqa\n"
    )
    assert main(["download", "--list"]) == 0
    assert "NOT DOWNLOADED\n  mecovqa  " in capsys.readouterr().out


def test_the_command_lists_fetches_and_ends_with_status_1_if_something_is_missing(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve_slake(server, zip_of({"imgs/a/source.jpg": JPEG, "imgs/b/source.jpg": JPEG}))
    words = ["download", "slake", "--data-dir", str(tmp_path), "--mirror", server.url]
    assert main([*words, "--list"]) == 0
    listed = capsys.readouterr().out
    assert "  3 bytes  Slake1.0/validate.json\n" in listed
    assert "Slake1.0/imgs.imgs.zip (unpacked to Slake1.0/imgs/)\n" in listed
    server.files["/datasets/BoKelvin/SLAKE/resolve/main/train.json"].faults.append(Fault(status=404))
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 1
    shown = capsys.readouterr()
    assert "fetched 4 files (" in shown.out and "1 failure: " in shown.err
    # A log has a line for each state of a bar, and no moves of a cursor.
    assert "\r" not in shown.err and "\x1b" not in shown.err and "\nslake:  99%|" in shown.err
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert (
        "fetched 1 file (3 bytes); 4 were there already" in shown
        and "next: medcap prepare slake, medcap prepare slake-boxes, medcap prepare slake-masks" in shown
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "there is no data set nothing to download: medcap download --list shows them"),
        (["slak"], "there is no data set slak to download: did you mean slake? medcap download --list shows them"),
        ([], "medcap download needs a NAME"),
        (["slake", "--only", "rows.json"], "--only, --urls and --routes are for llava-med-images, not for slake"),
        (["llava-med-images", "--files", "a"], "--files is not for llava-med-images"),
        (["slake", "--mirror", "example.org"], "--mirror example.org must begin with https://"),
    ],
)
def test_options_that_do_not_fit_are_told(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["download", *words, "--data-dir", str(tmp_path)])
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_the_list_names_every_source_and_imports_nothing_large(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "--list"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in SOURCES) and "known: " in shown


def test_without_a_network_the_mirror_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hint = "without a network, --mirror URL takes them from a server that you can reach (docs/download.md)"
    # Nothing listens on this port.
    with Client(mirror="http://127.0.0.1:9", backoff=0, tries=1) as client:
        with pytest.raises(UserError) as error:
            downloads.list_files(Request("slake", tmp_path), client)
        assert str(error.value).endswith(f"; {hint}")
        with pytest.raises(UserError) as error:
            downloads.list_files(Request("slake", tmp_path, mirror="http://127.0.0.1:9"), client)
        assert hint not in str(error.value)
    failed = Summary(tmp_path / "failures.jsonl", failures=[("a.json", "the connection failed (refused)")])
    monkeypatch.setattr(downloads, "download", lambda request: failed)
    with pytest.raises(SystemExit):
        main(["download", "slake", "--data-dir", str(tmp_path)])
    assert hint in capsys.readouterr().err
    failed.failures.append(("b.json", "status 404"))
    with pytest.raises(SystemExit):
        main(["download", "slake", "--data-dir", str(tmp_path)])
    assert hint not in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named_by_its_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"^--data-dir: "):
        download(Request("slake", tmp_path / "file"))
