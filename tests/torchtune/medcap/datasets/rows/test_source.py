import json
import tarfile

import pytest
from PIL import Image

from medcap.datasets.rows.source import open_source
from medcap.errors import UserError


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("Normal")
    (tmp_path / "rows.json").write_text(json.dumps([{"image": "a.png"}]))
    return tmp_path


def test_images_are_next_to_the_rows_unless_roots_are_given(folder, tmp_path_factory):
    rows, reader = open_source(str(folder / "rows.json"))
    assert rows.read(0) == {"image": "a.png"}
    assert reader.resolve("a.png") == folder / "a.png"
    _, reader = open_source(str(folder / "rows.json"), [tmp_path_factory.mktemp("other")])
    with pytest.raises(UserError, match=r"a\.png does not exist"):
        reader.resolve("a.png")


def test_shards_are_roots_themselves(folder):
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name in ("a.png", "a.txt"):
            tar.add(folder / name, name)
    rows, reader = open_source(str(folder / "a.tar"), max_image_pixels=48)
    assert reader.open(reader.resolve(rows.read(0)["image"])).size == (8, 6)
    _, reader = open_source(str(folder / "a.tar"), max_image_pixels=47)
    with pytest.raises(UserError, match="more than the 47 pixels"):
        reader.open(reader.resolve(rows.read(0)["image"]))


def test_an_empty_list_of_roots_allows_no_folder(folder):
    _, reader = open_source(str(folder / "rows.json"), image_roots=[])
    assert reader.roots == []
    with pytest.raises(UserError, match=r"image a\.png does not exist in dataset\.image_roots, which is empty"):
        reader.resolve("a.png")
