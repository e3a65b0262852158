import json

import pytest
from PIL import Image

from medcap.datasets.leakage.image_sources import list_images
from medcap.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "a.JPG", "sub/c.webp"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def write(folder, rows, name="data.json"):
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)) if name.endswith("l") else json.dumps(rows), encoding="utf-8")
    return path


def names(images, folder):
    return [image.name.removeprefix(f"{folder}/") for image in images]


def test_a_folder_is_searched_with_its_folders(folder):
    assert names(list_images(folder), folder) == ["a.JPG", "b.png", "sub/c.webp"]


def test_scans_without_a_suffix_are_images_of_a_folder(folder):
    (folder / "IM0001").write_bytes(bytes(128) + b"DICM")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (folder / "sub" / "d.nii.gz").write_bytes(b"")
    assert names(list_images(folder), folder) == ["IM0001", "a.JPG", "b.png", "sub/c.webp", "sub/d.nii.gz"]


def test_every_layout_names_its_images_once(folder):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "x"}]
    rows = [
        {"image": "b.png", "conversations": turns},
        {"image": "c.webp", "meta": "dir=sub", "conversations": turns},
        {"id": "a.JPG", "image": "a", "conversations": turns},
        {"messages": [{"role": "user", "content": [{"type": "image", "content": "b.png"}]}]},
        {"question": "What?", "reference": "x", "image": "sub/c.webp"},
        {"question": "Both?", "reference": "x", "images": ["a.JPG", "b.png"]},
        {"image_path": "b.png"},
        {"image_name": "b.png"},
        {"img_name": "b.png"},
        {"question": "Without?", "reference": "x"},
    ]
    images = list(list_images(write(folder, rows, "data.jsonl")))
    assert names(images, folder) == ["b.png", "sub/c.webp", "a.JPG"]
    assert all(image.problem is None for image in images)
    assert names(list_images(write(folder, [rows[4]])), folder) == ["sub/c.webp"]


def test_image_roots_come_in_addition_to_the_files_own_folder(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    path = write(elsewhere, [{"image": "b.png"}])
    (missing,) = list_images(path)
    assert "b.png does not exist" in missing.problem
    (found,) = list_images(path, [folder])
    assert (found.name, found.problem) == (str(folder / "b.png"), None)


def test_what_is_wrong_with_a_row_is_reported_and_its_images_are_still_looked_at(folder):
    turns = [{"from": "gpt", "value": "a"}, {"from": "gpt", "value": "b"}]
    images = list(list_images(write(folder, [{"image": "b.png", "conversations": turns}, 7, {"image": 3}])))
    assert names(images[:1], folder) == ["b.png"]
    assert images[0].problem is None
    assert "row 1: a row must be an object, not int" in images[1].problem
    assert images[2].name.endswith("data.json, row 2")
    assert "must be a path" in images[2].problem


def test_sources_without_images_are_errors(folder, tmp_path_factory):
    with pytest.raises(UserError, match="none does not exist"):
        list(list_images(folder / "none"))
    with pytest.raises(UserError, match="neither a folder nor a JSON or JSONL file"):
        list(list_images(folder / "notes.txt"))
    with pytest.raises(UserError, match="holds no images"):
        list(list_images(tmp_path_factory.mktemp("empty")))
    with pytest.raises(UserError, match="holds no images"):
        list(list_images(write(folder, [{"question": "q"}])))
