import io
import multiprocessing
import os
import pickle
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from helpers.open_files import open_files_below
from medcap.data.storage import tar_files, tar_table
from medcap.data.storage.tar_files import TarFiles, find_tars, is_tar_pattern
from medcap.errors import UserError


def write_tar(path, members, **options):
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def tar(tmp_path):
    return write_tar(tmp_path / "a.tar", [("x.jpg", b"first"), ("./sub/y.jpg", b"second"), ("empty", b"")])


def test_members_are_found_by_exact_name_and_read(tar):
    files = TarFiles([tar])
    assert [files.read(files.find(name)) for name in ("x.jpg", "./x.jpg", "sub/y.jpg", "empty")] == [
        b"first",
        b"first",
        b"second",
        b"",
    ]
    assert [files.find(name) for name in ("X.jpg", "y.jpg", "x", "", "sub", "../x.jpg")] == [None] * 6
    assert list(files.names()) == [files.name(member) for member in range(3)] == ["x.jpg", "sub/y.jpg", "empty"]
    assert files.path(1) == Path(f"{tar}!/sub/y.jpg")
    assert (len(files), files.size(1)) == (3, 6)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(tmp_path, form):
    names = ["d" * 90 + "/" + "f" * 90 + ".jpg", "Röntgen/胸.png"]
    files = TarFiles([write_tar(tmp_path / "a.tar", [(name, name.encode()) for name in names], format=form)])
    assert [files.read(files.find(name)).decode() for name in names] == names


def test_names_that_are_not_utf8_stay_apart(tmp_path):
    names = ["\udcff.jpg", "\udcfe.jpg"]
    members = [(name, bytes([index])) for index, name in enumerate(names)]
    options = {"format": tarfile.GNU_FORMAT, "encoding": "utf-8", "errors": "surrogateescape"}
    files = TarFiles([write_tar(tmp_path / "a.tar", members, **options)])
    assert list(files.names()) == ["\\xff.jpg", "\\xfe.jpg"]
    assert files.read(files.find("\\xfe.jpg")) == b"\1"


def test_only_regular_files_are_members(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"member{kind.decode()}")
            info.type, info.linkname = kind, str(tmp_path / "secret")
            tar.addfile(info)
    assert len(TarFiles([tmp_path / "a.tar"])) == 0


def test_the_first_tar_wins_and_within_one_the_last_member(tmp_path):
    paths = [
        write_tar(tmp_path / "a.tar", [("x", b"a1"), ("y", b"y"), ("x", b"a2")]),
        write_tar(tmp_path / "b.tar", [("x", b"b")]),
    ]
    files = TarFiles(paths)
    assert files.read(files.find("x")) == b"a2"
    assert files.read(files.find("x", tar=1)) == b"b"
    assert files.find("y", tar=1) is None
    assert [files.tar_of(member) for member in range(4)] == [0, 0, 0, 1]


def test_a_name_in_many_tars_is_found_in_each(tmp_path):
    paths = [
        write_tar(tmp_path / f"{index}.tar", [("x", b""), ("y", b"%d" % index), ("x", b"%d" % index)])
        for index in range(9)
        if index != 4
    ]
    files = TarFiles([*paths[:4], write_tar(tmp_path / "none.tar", [("z", b"")]), *paths[4:]])
    found = [files.find("x", tar) for tar in range(9)]
    assert found[4] is None
    assert [files.read(member) for member in found if member is not None] == [b"%d" % i for i in range(9) if i != 4]


def test_names_whose_hashes_are_equal_stay_apart(tmp_path, monkeypatch):
    for module in (tar_files, tar_table):
        monkeypatch.setattr(module, "hash_name", lambda encoded: np.uint64(7))
    paths = [write_tar(tmp_path / f"{tar}.tar", [(name, (name + tar).encode()) for name in "xyz"]) for tar in "ab"]
    files = TarFiles(paths)
    assert [files.read(files.find(name, tar)) for tar in (None, 0, 1) for name in "xz"] == [
        *(b"xa", b"za"),
        *(b"xa", b"za"),
        *(b"xb", b"zb"),
    ]
    assert files.find("w") is None
    assert files.find("w", 1) is None


def test_the_system_is_notified_of_sequential_reading(tar, monkeypatch):
    told = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *arguments: told.append(arguments[1:]), raising=False)
    TarFiles([tar]).read(0)
    assert told == []
    TarFiles([tar], sequential=True).read(0)
    assert told == [(0, 0, os.POSIX_FADV_SEQUENTIAL)]


def test_what_is_not_a_file_is_no_tar(tmp_path):
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(UserError, match=r"pipe\.tar is not a tar file"):
        TarFiles([tmp_path / "pipe.tar"])
    with pytest.raises(UserError, match=r"none\.tar cannot be opened"):
        TarFiles([tmp_path / "none.tar"])


def test_a_name_that_climbs_is_only_a_name(tmp_path):
    files = TarFiles([write_tar(tmp_path / "a.tar", [("../../etc/passwd", b"data"), ("/etc/passwd", b"more")])])
    assert files.read(files.find("../../etc/passwd")) == b"data"
    assert files.read(files.find("etc/passwd")) == b"more"


def test_a_member_opens_as_a_file_that_reads_in_place(tmp_path):
    content = bytes(range(256)) * 400
    files = TarFiles([write_tar(tmp_path / "a.tar", [("before", b"b" * 700), ("x", content), ("after", b"a" * 700)])])
    with files.open(files.find("x")) as file:
        assert file.read(3) == b"\0\1\2"
        assert file.seek(-5, io.SEEK_END) == len(content) - 5
        assert file.read() == content[-5:]
        assert file.read(1) == b""
        assert file.seek(100_000) == 100_000
        assert file.read(10) == content[100_000:100_010]
        with pytest.raises(OSError, match="before the start"):
            file.raw.seek(-1)


@pytest.mark.processes
def test_pickled_and_forked_copies_read_the_same(tar, tmp_path):
    for cache in (None, tmp_path / "cache"):
        files = TarFiles([tar], cache, "the label", sequential=True)
        files.read(0)
        copied = pickle.loads(pickle.dumps(files))
        assert (copied.read(1), copied.label, copied.fingerprint) == (b"second", "the label", files.fingerprint)
        assert len(pickle.dumps(files)) < 1000
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        child = context.Process(target=lambda pipe, opened: pipe.send(opened.read(1)), args=(there, files))
        child.start()
        assert here.poll(20)
        assert here.recv() == b"second"
        child.join(20)
        assert files.read(0) == b"first"


def test_threads_read_more_files_than_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_files, "_MAX_DESCRIPTORS", 3)
    tars = [write_tar(tmp_path / f"{index}.tar", [("x", b"%d" % index)]) for index in range(12)]
    interval = sys.getswitchinterval()
    try:
        sys.setswitchinterval(1e-6)  # the threads interrupt each other at every step
        for _ in range(5):
            files = TarFiles(tars)
            with ThreadPoolExecutor(8) as pool:
                assert list(pool.map(files.read, [*range(12)] * 50)) == [b"%d" % index for index in range(12)] * 50
            assert 1 <= len(open_files_below(tmp_path)) <= 3
            del files
    finally:
        sys.setswitchinterval(interval)


def test_a_tar_that_changes_after_it_was_opened_is_an_error(tar):
    files = TarFiles([tar])
    pickled = pickle.dumps(files)
    write_tar(tar, [("x.jpg", b"FIRST"), ("sub/y.jpg", b"longer than before"), ("z", b"")])
    os.utime(tar, ns=(1, 1))
    with pytest.raises(UserError, match=r"a\.tar has changed since"):
        files.read(0)
    with pytest.raises(UserError, match="has changed since"):
        pickle.loads(pickled)


def test_a_tar_that_is_cut_while_it_is_open_is_an_error(tar):
    files = TarFiles([tar])
    files.read(0)
    os.truncate(tar, 1024)
    with pytest.raises(UserError, match=r"a\.tar has become shorter"):
        files.read(1)


def test_fingerprint_is_of_the_content_alone(tmp_path):
    members = [("x", b"1"), ("y", b"22")]
    one = TarFiles([write_tar(tmp_path / "a.tar", members)])
    (tmp_path / "sub").mkdir()
    os.utime(write_tar(tmp_path / "sub" / "b.tar", members), ns=(1, 1))
    assert TarFiles([tmp_path / "sub" / "b.tar"]).fingerprint == one.fingerprint
    others = [
        [write_tar(tmp_path / "c.tar", [("x", b"1"), ("z", b"22")])],
        [write_tar(tmp_path / "d.tar", [("x", b"1"), ("y", b"333")])],
        [write_tar(tmp_path / "e.tar", members[::-1])],
        [write_tar(tmp_path / "f.tar", members[:1]), write_tar(tmp_path / "g.tar", members[1:])],
        [tmp_path / "g.tar", tmp_path / "f.tar"],
    ]
    assert len({one.fingerprint, *(TarFiles(paths).fingerprint for paths in others)}) == 6


def test_the_cache_is_used_until_a_tar_changes(tar, tmp_path, monkeypatch):
    walks = []

    def walk(paths):
        walks.append(len(paths))
        return walk_tars(paths)

    walk_tars = tar_files.walk_tars
    monkeypatch.setattr(tar_files, "walk_tars", walk)
    cache = tmp_path / "cache"
    for _ in range(3):
        assert TarFiles([tar], cache).read(1) == b"second"
    assert walks == [1]
    write_tar(tar, [("x.jpg", b"1"), ("sub/y.jpg", b"changed")])
    os.utime(tar, ns=(1, 1))
    assert TarFiles([tar], cache).read(1) == b"changed"
    assert walks == [1, 1]


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"", lambda content: b"x" * 500])
def test_a_damaged_cache_is_made_again(tar, tmp_path, damage):
    cache = tmp_path / "cache"
    TarFiles([tar], cache)
    (entry,) = (cache / "tars").iterdir()
    file = entry / "offsets.npy"
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert TarFiles([tar], cache).read(1) == b"second"
    assert file.read_bytes() == whole
    assert list((cache / "tars").iterdir()) == [entry]


def test_a_cache_that_cannot_be_written_does_not_matter(tar, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert TarFiles([tar], tmp_path / "cache").read(1) == b"second"


def test_many_may_make_the_cache_at_once(tar, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: TarFiles([tar], tmp_path / "cache"), range(24)))
    assert {files.read(1) for files in opened} == {b"second"}
    assert len(list((tmp_path / "cache" / "tars").iterdir())) == 1


def test_names_of_tar_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("t-08.tar", "t-09.tar", "t-10.tar", "v.tar", "odd{1}.tar"):
        Path(name).touch()
    (tmp_path / "folder.tar").mkdir()

    def found(pattern):
        return [path.name for path in find_tars(pattern)]

    assert found("t-{08..10}.tar") == ["t-08.tar", "t-09.tar", "t-10.tar"]
    assert found("t-{10..08}.tar") == ["t-10.tar", "t-09.tar", "t-08.tar"]
    assert found("{v,t-{09..10}}.tar") == ["v.tar", "t-09.tar", "t-10.tar"]
    assert found("t-*.tar") == ["t-08.tar", "t-09.tar", "t-10.tar"]
    assert found("{v,v}.tar") == ["v.tar"]
    assert found("odd{1}.tar") == ["odd{1}.tar"]
    assert found(str(tmp_path / "*.tar")) == ["odd{1}.tar", "t-08.tar", "t-09.tar", "t-10.tar", "v.tar"]
    with pytest.raises(UserError, match=r"tar file t-11\.tar \(of t-\{09\.\.11\}\.tar\) does not exist"):
        find_tars("t-{09..11}.tar")
    with pytest.raises(UserError, match=r"no tar file matches none-\*\.tar"):
        find_tars("none-*.tar")
    with pytest.raises(UserError, match="more than 100,000"):
        find_tars("t-{0..9999999999}.tar")


def test_which_names_mean_tar_files():
    names = ("a.tar", "a-{0..9}.tar", "x/*.TAR", "a.tar.gz", "a.tgz", "a.jsonl", "tar", "a.tar/x.json")
    assert [is_tar_pattern(name) for name in names] == [True, True, True, True, True, False, False, False]
