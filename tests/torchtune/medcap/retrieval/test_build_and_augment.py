import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from medcap.data.images.reader import ImageReader
from medcap.data.row_examples import as_conversation
from medcap.errors import UserError
from medcap.retrieval import augment as augment_rows
from medcap.retrieval.augment import Choice, augment
from medcap.retrieval.build import build_index
from medcap.retrieval.index import read_index
from medcap.retrieval.tower import EncodedImages

SIZE = (5, 3)


class GreyTower:
    """A tower whose features are a direction for each grey level."""

    name = "grey"

    def __init__(self):
        self.facts = {"name": "grey", "fingerprint": "grey"}

    def encode(self, images, reader, batch_size, label):
        levels = [reader.open(path).convert("L").getpixel((0, 0)) for path in images]
        angles = np.array(levels) * (np.pi / 2 / 255)
        return EncodedImages(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))


@pytest.fixture
def folder(tmp_path):
    Image.new("L", SIZE, 1).save(tmp_path / "mask.png")
    Image.new("L", SIZE).save(tmp_path / "empty.png")
    Image.new("L", SIZE[::-1], 1).save(tmp_path / "turned.png")
    for level in (0, 50, 100, 200):
        Image.new("L", SIZE, level).save(tmp_path / f"{level}.png")
    return tmp_path


def rows(folder, *given):
    path = folder / "rows.json"
    path.write_text(json.dumps(given))
    return path


def build(folder, *given, roots=()):
    reader = ImageReader([folder, *roots])
    return build_index(rows(folder, *given), GreyTower(), folder / "index", reader), reader


def chosen(folder, reader, *given, choice=None):
    out = folder / "out.json"
    source, choice = rows(folder, *given), choice or Choice(top_k=2)
    report = augment(source, read_index(folder / "index"), GreyTower(), out, reader, choice, 8)
    return report, json.loads(out.read_text())


def test_masks_that_cannot_be_drawn_are_left_out_and_named(folder):
    built, _ = build(
        folder,
        {"image": "50.png", "mask": "turned.png"},
        {"image": "50.png", "mask": "empty.png"},
        {"image": "50.png", "mask": {"mask": "mask.png", "value": 2}},
        {"image": "100.png", "mask": "50.png"},
        {"image": "200.png", "masks": [{"box": [0, 0, 2, 2]}, {"mask": {"size": [3, 5], "counts": [0, 15]}}]},
    )
    assert (built.candidates, built.images) == (3, 2)
    assert [failure.name for failure in built.failures] == [f"mask of {folder}/50.png"] * 3
    reasons = ["has 3 x 5 pixels and its image 5 x 3", "holds no pixel of its image", "none has the value 2"]
    assert all(reason in failure.reason for reason, failure in zip(reasons, built.failures, strict=True))
    masks = [candidate.mask for candidate in read_index(folder / "index").candidates]
    assert masks[1:] == [{"box": [0, 0, 2, 2]}, {"mask": {"size": [3, 5], "counts": [0, 15]}}]
    with pytest.raises(UserError, match=r"no mask can be drawn on its image; the first: mask of .*50.png: mask "):
        build(folder, {"image": "50.png", "mask": "turned.png"})


def test_examples_are_the_nearest_first(folder):
    _, reader = build(folder, *({"image": f"{level}.png", "mask": "mask.png"} for level in (0, 50, 100, 200)))
    _, (first, second) = chosen(folder, reader, {"image": "100.png"}, {"image": "0.png", "target_mask": "mask.png"})
    assert [example["image"] for example in first["icl_examples"]] == ["50.png", "0.png"]
    assert [example["image"] for example in second["icl_examples"]] == ["50.png", "100.png"]
    assert "target_mask" not in first and second["target_mask"] == "mask.png"


def test_old_examples_are_replaced_and_a_flat_row_is_its_last_image(folder):
    _, reader = build(folder, *({"image": f"{level}.png", "mask": "mask.png"} for level in (0, 50, 100, 200)))
    flat = {"image1": "0.png", "mask1": "mask.png", "image2": "200.png", "mask2": "mask.png", "label": "liver"}
    _, (row,) = chosen(folder, reader, flat)
    assert row == {
        "label": "liver",
        "image": "200.png",
        "target_mask": "mask.png",
        "icl_examples": [{"image": f"{level}.png", "mask": "mask.png"} for level in (100, 50)],
    }


def test_examples_are_those_of_the_index_where_the_query_set_has_files_of_the_same_names(folder):
    """Written beside the index's rows, ``50.png`` is the index's; the query set's own 50.png is another picture."""
    build(folder, *({"image": f"{level}.png", "mask": "mask.png"} for level in (0, 50)))
    queries = folder / "queries"
    queries.mkdir()
    for name, level in (("100.png", 100), ("50.png", 255)):
        Image.new("L", SIZE, level).save(queries / name)
    reader, index, out = ImageReader([queries, folder]), read_index(folder / "index"), folder / "out.json"
    augment(rows(queries, {"image": "100.png"}), index, GreyTower(), out, reader, Choice(top_k=2), 8)
    (row,) = json.loads(out.read_text())
    assert row["image"] == "queries/100.png"
    assert [example["image"] for example in row["icl_examples"]] == ["50.png", "0.png"]


def test_deep_in_the_ranking_something_is_found(folder):
    """A hundred nearer candidates are of the query's own patient, or are its very bytes."""
    near = []
    for number in range(50):
        name = f"own/{number}.png"
        (folder / "own").mkdir(exist_ok=True)
        Image.new("L", SIZE, 101).save(folder / name)
        (folder / f"own/copy_{number}.png").write_bytes((folder / "100.png").read_bytes())
        near.append({"image": name, "mask": "mask.png", "patient": "p"})
        near.append({"image": f"own/copy_{number}.png", "mask": "mask.png", "patient": "q"})
    _, reader = build(folder, *near, {"image": "0.png", "mask": "mask.png", "patient": "q"})
    choice = Choice(top_k=3, exclude_patient=True)
    report, (row,) = chosen(folder, reader, {"image": "100.png", "patient": "p"}, choice=choice)
    assert row["icl_examples"] == [{"image": "0.png", "mask": "mask.png"}]
    assert (report.rows, report.with_examples, report.fewer, report.failures) == (1, 1, 1, [])
    report, (row,) = chosen(folder, reader, {"image": "0.png", "patient": "q"}, choice=Choice(3, True))
    assert [example["image"] for example in row["icl_examples"]] == ["own/0.png", "own/1.png", "own/2.png"]


def test_what_faiss_misses_is_searched_for_exactly(folder, monkeypatch):
    """Faiss finds the query alone, so the examples come from the exact search."""

    class Misses:
        def __init__(self, embeddings):
            self.embeddings = embeddings

        def nearest(self, queries, depth):
            return iter([np.array([2])] * len(queries))

    _, reader = build(folder, *({"image": f"{level}.png", "mask": "mask.png"} for level in (0, 50, 100, 200)))
    monkeypatch.setattr(augment_rows, "FaissNeighbours", Misses)
    monkeypatch.setattr(augment_rows, "import_faiss", lambda: None)
    monkeypatch.setattr(augment_rows, "FAISS_FROM", 4)
    _, (row,) = chosen(folder, reader, {"image": "100.png"}, choice=Choice(top_k=3, faiss=True))
    assert [example["image"] for example in row["icl_examples"]] == ["50.png", "0.png", "200.png"]


def test_the_same_picture_in_a_tar_file_is_the_query_itself(folder):
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for name in ("100.png", "50.png"):
            data = (folder / name).read_bytes()
            entry = tarfile.TarInfo(f"in/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    named = [{"image": f"in/{name}", "mask": "mask.png"} for name in ("100.png", "50.png")]
    _, reader = build(folder, *named, roots=[folder / "shard.tar"])
    _, found = chosen(folder, reader, {"image": "in/50.png"}, {"image": "50.png"}, choice=Choice(top_k=1))
    assert [row["icl_examples"][0]["image"] for row in found] == ["shard.tar!/in/100.png"] * 2


def test_rows_without_a_usable_image_stay_and_are_named(folder):
    _, reader = build(folder, {"image": "0.png", "mask": "mask.png"})
    given = [
        {"image": "none.png", "icl_examples": [{"image": "0.png", "mask": "mask.png"}]},
        {"image": "50.png", "frames": 3},
        {"image": {"image": "50.png", "window": [40, 400]}},
        "no row",
        {"image": "0.png", "meta": "dir=./sub"},  # no such folder, so 0.png beside the file is not meant
        {"image": "0.png"},
        {"image": {"image": "50.png", "fit": "pad"}},
    ]
    report, written = chosen(folder, reader, *given)
    assert written[:6] == given[:6] and len(written[6]["icl_examples"]) == 1
    assert [failure.name.rsplit(", ")[-1] for failure in report.failures] == [f"row {number}" for number in range(6)]
    reasons = [
        "does not exist",
        "'frames' is not read",
        "'window' is not read",
        "be an object",
        "does not exist",
        "no candidate",
    ]
    assert all(reason in failure.reason for reason, failure in zip(reasons, report.failures, strict=True))


def test_the_folder_in_meta_is_read_and_written_before_the_names_of_images(folder):
    (folder / "sub").mkdir()
    for level in (60, 110):
        Image.new("L", SIZE, level).save(folder / "sub" / f"{level}.png")
    Image.new("L", SIZE, 255).save(folder / "110.png")  # another picture of the query's name
    meta = f"dir={folder / 'sub'}"
    built, reader = build(
        folder,
        {"image": "60.png", "mask": "mask.png", "meta": meta},
        {"image": "200.png", "mask": "mask.png"},
    )
    assert (built.candidates, built.failures) == (2, [])
    given = {"image": "110.png", "target_mask": "mask.png", "meta": f"set=liver; {meta}"}
    _, (row,) = chosen(folder, reader, given)
    assert row == {
        "image": "sub/110.png",
        "target_mask": "mask.png",
        "meta": "set=liver",
        "icl_examples": [{"image": "sub/60.png", "mask": "mask.png"}, {"image": "200.png", "mask": "mask.png"}],
    }


def test_a_row_whose_object_is_absent_gets_an_absent_mask_and_one_of_two_masks_no_examples(folder):
    _, reader = build(folder, {"image": "0.png", "mask": "mask.png"})
    turns = [{"from": "human", "value": "Where is the liver?"}, {"from": "gpt", "value": "none"}]
    absent = {"image": "50.png", "masks": [], "conversations": turns}
    two = {"image": "50.png", "masks": ["mask.png", "mask.png"]}
    report, (first, second) = chosen(folder, reader, absent, two)
    assert first["target_mask"] == {"mask": None} and "masks" not in first
    read = as_conversation(first)
    assert read["masks"] == [{"image": 1, "mask": None}]
    assert second == two
    assert [failure.reason for failure in report.failures] == [
        "it has 2 masks, but an answer by example is one: write a row for each"
    ]
