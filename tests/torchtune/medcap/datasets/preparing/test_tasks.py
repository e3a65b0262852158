import os

import numpy as np
import pytest
from PIL import Image

from helpers.dicom_files import write_dicom
from medcap.datasets.preparing.tasks import Names, Picture, Row, Task, file_tasks, list_folders, shard_tasks
from medcap.errors import UserError


def stems(folders, out="/nowhere"):
    pictures, others = list_folders(folders, out)
    return [picture.stem for picture in pictures], others


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_images_are_recognised_by_suffix_or_as_dicom_by_content(tmp_path):
    touch(tmp_path, "b/x.PNG", "b/a.nii.gz", "a.txt", "b/c/y.dcm", ".hidden.png", "._b.png", ".git/x.png", "DICOMDIR")
    write_dicom(tmp_path / "1.2.840.113", np.zeros((2, 2), dtype=np.uint8))
    write_dicom(tmp_path / "DICOMDIR", np.zeros((2, 2), dtype=np.uint8))
    found, others = list_folders([tmp_path], tmp_path / "out")
    assert [(picture.source, picture.stem) for picture in found] == [
        (str(tmp_path / "1.2.840.113"), "1.2.840.113"),
        (str(tmp_path / "b" / "a.nii.gz"), "b/a"),
        (str(tmp_path / "b" / "x.PNG"), "b/x"),
        (str(tmp_path / "b" / "c" / "y.dcm"), "b/c/y"),
    ]
    assert others == 4


def test_the_output_is_not_a_source(tmp_path):
    touch(tmp_path, "a.png", "out/a.png")
    assert stems([tmp_path], tmp_path / "out") == (["a"], 0)


def test_every_source_has_a_name_of_its_own(tmp_path):
    touch(tmp_path, "a.dcm", "a.jpg", "a.jpg.png", "a.png", "b/0000.dcm", "b.dcm", "c.png")
    assert stems([tmp_path])[0] == ["a", "a.jpg", "a.jpg.png", "a.png", "b.dcm", "c", "b/0000"]


def test_names_are_given_once():
    names = Names(["folder"])
    given = [names.take(name) for name in ("a.png", "a.jpg", "a.jpg", "folder", ".png", "x/.png")]
    assert given == ["a", "a.jpg", "a.jpg-2", "folder-2", ".png", "x/.png"]


def test_several_folders_keep_their_names_apart(tmp_path):
    touch(tmp_path, "one/a.png", "two/a.png")
    assert stems([tmp_path / "one", tmp_path / "two"])[0] == ["one/a", "two/a"]


def test_a_source_that_is_missing(tmp_path):
    with pytest.raises(UserError, match="is neither a folder nor a JSON"):
        list_folders([tmp_path / "none"], tmp_path)


def test_shards_hold_whole_groups():
    pictures = [Picture(f"{number}.png", str(number)) for number in range(5)]
    tasks = list(shard_tasks([[picture] for picture in pictures], 2))
    assert [(task.name, len(task.entries)) for task in tasks] == [
        ("images-000000.tar", 2),
        ("images-000001.tar", 2),
        ("images-000002.tar", 1),
    ]
    rows = [Row(f"row {number}", f"{number}.json", "{}", ("0",)) for number in range(3)]
    tasks = list(shard_tasks([[pictures[0], *rows], [pictures[1], rows[0]]], 2))
    assert [len(task.entries) for task in tasks] == [4, 2]


def test_a_fingerprint_changes_with_all_that_a_task_depends_on(tmp_path):
    path = tmp_path / "a.png"
    Image.new("L", (2, 2)).save(path)
    [task] = file_tasks([Picture(str(path), "a")])
    first = task.fingerprint()
    assert first == Task("a", (Picture(str(path), "a"),), is_shard=False).fingerprint()
    assert first != Task("b", (Picture(str(path), "a"),), is_shard=False).fingerprint()
    os.utime(path, ns=(0, 12345))
    assert task.fingerprint() != first
    row = Row("r", "0.json", "{}", ())
    changed = Row("r", "0.json", "{} ", ())
    assert Task("a", (row,), is_shard=True).fingerprint() != Task("a", (changed,), is_shard=True).fingerprint()
