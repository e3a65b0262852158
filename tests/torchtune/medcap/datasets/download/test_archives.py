"""Archives that want out of their folder, or to fill the disk."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from medcap.datasets.download.archives import ArchiveError, Limits, extract_from_tar, unpack_zip

JPEG = b"\xff\xd8\xff" + bytes(100)


def tar_of(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for info, body in members:
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def everything_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2"])
def test_only_what_is_wanted_comes_out_of_a_tar(tmp_path: Path, mode: str) -> None:
    archive = tar_of(tmp_path / "a.tar", [(member("P/a.jpg"), JPEG), (member("P/b.jpg"), b"other")], mode)
    out = tmp_path / "out"
    done = extract_from_tar(archive, {"P/a.jpg": [out / "1.jpg", out / "2.jpg"]})
    assert (done.written, done.refused) == (2, [])
    assert everything_below(out) == {"1.jpg", "2.jpg"}
    assert (out / "2.jpg").read_bytes() == JPEG


def test_names_that_lead_out_links_and_devices_are_refused_and_listed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("keep", encoding="utf-8")
    archive = tar_of(
        tmp_path / "a.tar.gz",
        [
            (member("../secret"), b"overwritten"),
            (member(str(secret)), b"overwritten"),
            (member("P/link.jpg", tarfile.SYMTYPE, str(secret)), b""),
            (member("P/hard.jpg", tarfile.LNKTYPE, "../secret"), b""),
            (member("P/null.jpg", tarfile.CHRTYPE), b""),
            (member("P/fifo.jpg", tarfile.FIFOTYPE), b""),
            (member("P/good.jpg"), JPEG),
        ],
    )
    out = tmp_path / "out"
    names = ["../secret", str(secret), "P/link.jpg", "P/hard.jpg", "P/null.jpg", "P/fifo.jpg", "P/good.jpg"]
    done = extract_from_tar(archive, {name: [out / f"{number}.jpg"] for number, name in enumerate(names)})
    assert done.written == 1
    assert everything_below(out) == {"6.jpg"}
    assert secret.read_text(encoding="utf-8") == "keep"
    leads_out, no_file = "its name leads out of the folder", "it is no regular file but a link or a device"
    assert done.refused == [
        ("../secret", leads_out),
        (str(secret), leads_out),
        ("P/link.jpg", no_file),
        ("P/hard.jpg", no_file),
        ("P/null.jpg", no_file),
        ("P/fifo.jpg", no_file),
    ]


def test_a_bomb_stops_at_the_bytes_that_come_out(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tar.gz", [(member("P/big"), bytes(5_000_000)), (member("P/a.jpg"), JPEG)])
    assert archive.stat().st_size < 20_000
    with pytest.raises(ArchiveError, match="more bytes come out of it"):
        extract_from_tar(archive, {"P/a.jpg": [tmp_path / "a.jpg"]}, Limits(total_bytes=1_000_000))
    done = extract_from_tar(archive, {"P/big": [tmp_path / "big"]}, Limits(member_bytes=1000))
    assert done.refused == [("P/big", "it has 5,000,000 bytes, more than 1,000")]
    assert not (tmp_path / "a.jpg").exists()


def test_too_many_members_and_a_header_as_large_as_memory_are_refused(tmp_path: Path) -> None:
    many = tar_of(tmp_path / "many.tar", [(member(f"P/{number}"), b"") for number in range(11)], "w")
    with pytest.raises(ArchiveError, match="more than 10 members"):
        extract_from_tar(many, {}, Limits(members=10))
    header = member("P/pax", tarfile.XHDTYPE)
    header.size = 2**31
    (tmp_path / "pax.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + bytes(4096))
    with pytest.raises(ArchiveError, match="impossible size 2147483648"):
        extract_from_tar(tmp_path / "pax.tar", {})


def test_a_tar_that_was_cut_is_damaged_and_leaves_no_half_file(tmp_path: Path) -> None:
    plain = tar_of(tmp_path / "a.tar", [(member("P/a.jpg"), JPEG), (member("P/b.jpg"), bytes(50_000))], "w")
    cut = gzip.compress(plain.read_bytes(), compresslevel=0)[:20_000]
    (tmp_path / "cut.tar.gz").write_bytes(cut)
    out = tmp_path / "out"
    with pytest.raises(ArchiveError, match="it is damaged"):
        extract_from_tar(tmp_path / "cut.tar.gz", {"P/a.jpg": [out / "a.jpg"], "P/b.jpg": [out / "b.jpg"]})
    assert everything_below(out) == {"a.jpg"}


def test_a_member_that_fails_its_check_is_not_written(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tar", [(member("P/a.jpg"), b"<html>")], "w")
    done = extract_from_tar(archive, {"P/a.jpg": [tmp_path / "out" / "a.jpg"]}, check=lambda path: "no picture")
    assert (done.written, done.refused) == (0, [("P/a.jpg", "no picture")])
    assert everything_below(tmp_path / "out") == set()


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, body in members.items():
            file.writestr(name, body)
    return path


def test_the_folder_that_all_images_of_a_zip_have_in_common_is_dropped(tmp_path: Path) -> None:
    inside = {"imgs/x1/source.jpg": JPEG, "imgs/x2/source.jpg": JPEG, "imgs/x1/detection.json": b"[]"}
    archive = zip_of(tmp_path / "a.zip", inside | {"__MACOSX/imgs/._source.jpg": b"", "imgs/.DS_Store": b""})
    assert unpack_zip(archive, tmp_path / "out").written == 3
    assert everything_below(tmp_path / "out") == {"x1/source.jpg", "x2/source.jpg", "x1/detection.json"}


def test_a_flat_zip_refuses_a_second_file_of_one_name(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"a/1.jpg": JPEG, "b/2.jpg": JPEG, "b/1.jpg": b"other"})
    done = unpack_zip(archive, tmp_path / "out", flat=True)
    assert everything_below(tmp_path / "out") == {"1.jpg", "2.jpg"}
    assert done.refused == [("b/1.jpg", "another file of the archive has this name")]
    assert (tmp_path / "out" / "1.jpg").read_bytes() == JPEG


def test_a_zip_stays_in_its_folder(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("../up.jpg", "/root.jpg", "C:\\x.jpg", "run.sh", "good.jpg"):
            file.writestr(name, JPEG)
        file.writestr(link, "/etc/passwd")
    done = unpack_zip(archive, tmp_path / "deep" / "out")
    assert everything_below(tmp_path) == {"a.zip", "deep/out/good.jpg"}
    assert [name for name, _ in done.refused] == ["../up.jpg", "/root.jpg", "C:\\x.jpg", "run.sh", "link.jpg"]


def test_a_zip_beyond_its_bounds_is_refused_before_it_is_written(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"a.jpg": bytes(2_000_000), "b.jpg": JPEG})
    for limits, words in (
        (Limits(members=1), "2 members, more than 1"),
        (Limits(total_bytes=1_000_000), "it says that it holds 2,000,103 bytes, more than 1,000,000"),
        (Limits(member_bytes=1_000_000), "a.jpg has 2,000,000 bytes, more than 1,000,000"),
    ):
        with pytest.raises(ArchiveError, match=words):
            unpack_zip(archive, tmp_path / "out", limits=limits)
    assert everything_below(tmp_path) == {"a.zip"}
    (tmp_path / "no.zip").write_bytes(b"<html>")
    with pytest.raises(ArchiveError, match="it is damaged"):
        unpack_zip(tmp_path / "no.zip", tmp_path / "out")
