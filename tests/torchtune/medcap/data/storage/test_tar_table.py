import gzip
import io
import tarfile

import pytest

from medcap.data.storage import tar_table
from medcap.data.storage.tar_table import walk_tars
from medcap.errors import UserError


def tar_bytes(*contents):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for index, content in enumerate(contents):
            info = tarfile.TarInfo(f"{index}.jpg")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def refused(tmp_path, content):
    path = tmp_path / "bad.tar"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        walk_tars([path])
    assert "bad.tar" in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


WHOLE = tar_bytes(b"a" * 1000, b"b" * 1000, b"c" * 1000)


def test_the_table_of_a_tar(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes(b"1", b"22"))
    (tmp_path / "b.tar").write_bytes(tar_bytes())
    table = walk_tars([tmp_path / "a.tar", tmp_path / "b.tar"])
    assert table["starts"].tolist() == [0, 2, 2]
    assert table["offsets"].tolist() == [512, 1536]
    assert table["sizes"].tolist() == [1, 2]
    assert table["names"].tobytes() == b"0.jpg1.jpg"
    assert table["name_starts"].tolist() == [0, 5, 10]
    assert sorted(table["by_hash"].tolist()) == [0, 1]


def test_threads_make_the_same_table(tmp_path, monkeypatch):
    paths = [tmp_path / f"{index}.tar" for index in range(5)]
    for index, path in enumerate(paths):
        path.write_bytes(tar_bytes(*[b"x" * index] * (index + 1)))
    expected = walk_tars(paths)
    monkeypatch.setattr(tar_table.time, "thread_time", lambda: 0.0)
    table = walk_tars(paths)
    assert all((table[name] == expected[name]).all() for name in expected)


# Inside a header, inside the content, between two members, and inside the first block of the end marker.
@pytest.mark.parametrize("length", [100, 512, 900, 1600, 2000, 3 * 1536 - 1, 1536, 3 * 1536, 3 * 1536 + 500])
def test_a_tar_that_is_cut_off_is_refused(tmp_path, length):
    assert "cut off" in refused(tmp_path, WHOLE[:length])


def test_an_empty_file_and_text_are_refused(tmp_path):
    assert "is not a tar file" in refused(tmp_path, b"")
    assert "is not a tar file" in refused(tmp_path, b"no tar at all " * 100)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    assert "damaged at byte 1536" in refused(tmp_path, WHOLE[:1600] + b"#" + WHOLE[1601:])


def test_two_files_joined_are_refused(tmp_path):
    assert "two files joined" in refused(tmp_path, WHOLE + WHOLE)


def test_compressed_tars_are_refused(tmp_path):
    assert "compressed tar: unpack it" in refused(tmp_path, gzip.compress(WHOLE))
    for mode in ("w:bz2", "w:xz"):
        buffer = io.BytesIO()
        tarfile.open(fileobj=buffer, mode=mode).close()
        assert "compressed tar" in refused(tmp_path, buffer.getvalue())


def header(name, size, kind=b"0"):
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_impossible_sizes_do_not_loop_or_fill_the_memory(tmp_path):
    negative = b"\xff" * 10 + b"\xfe\0"
    huge = b"%011o\0" % (7 * 2**30)
    end = bytes(1024)
    for content in (
        header("a", negative) + end,
        WHOLE[:1536] + header("a", negative) + end,
        header("a", huge, tarfile.XHDTYPE) + end,
        header("a", huge, tarfile.GNUTYPE_LONGNAME) + end,
    ):
        assert "impossible size" in refused(tmp_path, content)
    assert "cut off in member a:" in refused(tmp_path, header("a", huge) + end)


# -1536 leads back to the extended header itself.
@pytest.mark.parametrize("size", [-1536, -1024, -3072, -9999])
def test_a_negative_size_in_an_extended_header_does_not_loop(tmp_path, size):
    record = b"14 size=%d\n" % size
    content = header("pax", b"%011o\0" % len(record), tarfile.XHDTYPE) + record.ljust(512, b"\0")
    assert "damaged" in refused(tmp_path, WHOLE[:1536] + content + header("a", b"%011o\0" % 0) + bytes(1024))


def test_a_sparse_member_is_refused(tmp_path):
    records = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n25 GNU.sparse.name=a.jpg\n27 GNU.sparse.realsize=100\n"
    content = header("pax", b"%011o\0" % len(records), tarfile.XHDTYPE) + records.ljust(512, b"\0")
    body = b"1\n0\n5\n".ljust(512, b"\0") + b"12345".ljust(512, b"\0")
    assert "sparse" in refused(tmp_path, content + header("a", b"%011o\0" % 517) + body + bytes(1024))
