import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from helpers.dicom_files import write_dicom
from medcap.data.images.reader import ImageReader
from medcap.data.images.views import View
from medcap.datasets.preparing.tasks import Picture, Row, Task
from medcap.datasets.preparing.worker import Settings, Worker
from medcap.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    Image.new("RGB", (40, 20), (9, 0, 0)).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    write_dicom(tmp_path / "in" / "many.dcm", np.arange(12, dtype=np.uint8).reshape(3, 2, 2))
    return tmp_path


def picture(folder, name, stem):
    return Picture(str(folder / "in" / name), stem)


def run(folder, *entries, is_shard=False, **settings):
    worker = Worker(ImageReader([folder / "in"]), Settings(**settings), folder / "out")
    return worker.run(Task("shard.tar" if is_shard else entries[0].stem, entries, is_shard))


def files(folder):
    return sorted(path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob("*") if path.is_file())


def members(folder):
    with tarfile.open(folder / "out" / "shard.tar") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_a_picture_is_padded_resized_and_written(folder):
    outcome = run(folder, picture(folder, "a.png", "x/a"), size=16)
    assert outcome.pictures == [(str(folder / "in" / "a.png"), ["x/a.png"])]
    written = Image.open(folder / "out" / "x" / "a.png")
    assert written.size == (16, 16)
    assert np.flatnonzero(np.asarray(written)[..., 0].max(axis=1) > 4).tolist() == list(range(4, 12))
    assert files(folder) == ["x/a.png"]


def test_frames_become_a_folder_only_when_all_are_wanted(folder):
    many = picture(folder, "many.dcm", "many")
    assert run(folder, many).pictures[0][1] == ["many.png"]
    assert run(folder, many, view=View(frames="all"), file_format="jpeg").pictures[0][1] == [
        "many/0000.jpg",
        "many/0001.jpg",
        "many/0002.jpg",
    ]
    assert run(folder, picture(folder, "a.png", "a"), view=View(frames="all")).pictures[0][1] == ["a.png"]


def test_a_series_with_a_damaged_frame_leaves_nothing(folder):
    path = folder / "in" / "many.dcm"
    path.write_bytes(path.read_bytes().replace(bytes(range(12)), bytes(range(6))))
    outcome = run(folder, picture(folder, "many.dcm", "many"), view=View(frames="all"))
    assert outcome.pictures == []
    assert len(outcome.failures) == 1
    assert files(folder) == []


def test_failures_say_why_without_the_path(folder):
    (folder / "secret.png").write_bytes((folder / "in" / "a.png").read_bytes())
    (folder / "in" / "link.png").symlink_to(folder / "secret.png")
    [(path, reason)] = run(folder, picture(folder, "bad.png", "bad")).failures
    assert path == str(folder / "in" / "bad.png")
    assert reason.startswith("cannot be opened: ") or reason.startswith("is ")
    [(_, reason)] = run(folder, picture(folder, "link.png", "link")).failures
    assert "lies outside the allowed folders" in reason
    assert files(folder) == []


def test_any_error_of_a_decoder_is_a_failure(folder, monkeypatch):
    def explode(*_):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(ImageReader, "open_frames", explode)
    [(_, reason)] = run(folder, picture(folder, "a.png", "a")).failures
    assert reason == "cannot be prepared: RuntimeError: two lines"


def test_a_folder_that_cannot_be_written_ends_the_run(folder):
    (folder / "out" / "x").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        run(folder, picture(folder, "a.png", "x/a"))


def test_a_shard_holds_pictures_before_their_rows_and_leaves_out_rows_without_theirs(folder):
    outcome = run(
        folder,
        picture(folder, "a.png", "0"),
        Row("row 0", "0.json", '{"n": 0}', ("0",)),
        Row("row 1", "1.json", '{"n": 1}', ("0",)),
        picture(folder, "bad.png", "2.1"),
        picture(folder, "a.png", "2.0"),
        Row("row 2", "2.json", '{"n": 2}', ("2.0", "2.1")),
        Row("row 3", "3.json", '{"n": 3}', ()),
        is_shard=True,
    )
    content = members(folder)
    assert list(content) == ["0.png", "0.json", "1.json", "3.json"]
    assert content["1.json"] == b'{"n": 1}'
    assert Image.open(io.BytesIO(content["0.png"])).size == (40, 40)
    assert outcome.rows == 3
    assert outcome.pictures == [(str(folder / "in" / "a.png"), ["shard.tar!/0.png"])]
    assert [name for name, _ in outcome.failures] == [str(folder / "in" / "bad.png"), "row 2"]


def test_a_shard_without_rows(folder):
    run(folder, picture(folder, "a.png", "x/a"), picture(folder, "bad.png", "b"), is_shard=True)
    assert list(members(folder)) == ["x/a.png"]


def test_the_same_task_gives_the_same_bytes(folder):
    run(folder, picture(folder, "a.png", "a"), is_shard=True)
    first = (folder / "out" / "shard.tar").read_bytes()
    run(folder, picture(folder, "a.png", "a"), is_shard=True)
    assert (folder / "out" / "shard.tar").read_bytes() == first


def test_a_shard_that_is_interrupted_is_not_there(folder, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("medcap.datasets.preparing.worker.encode", stop)
    with pytest.raises(KeyboardInterrupt):
        run(folder, picture(folder, "a.png", "a"), is_shard=True)
    assert files(folder) == []
