import json

import numpy as np
import pytest
from PIL import Image

from medcap.datasets.phantoms.writing import write_phantoms
from medcap.errors import UserError
from medcap.probe.examples import TableColumns, fingerprint, read_examples, spread, targets_of


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(path)
    return path


def test_a_csv_file_gives_labels_groups_and_missing_images(tmp_path):
    draw(tmp_path / "a.png")
    draw(tmp_path / "sub/b.png")
    text = "file,finding,side,patient\na.png,mass,left,7\nsub/b.png,,right,7\ngone.png,none,left,8\n"
    (tmp_path / "labels.csv").write_text(text)
    columns = TableColumns("file", ("finding", "side"), "patient")
    examples = read_examples(tmp_path / "labels.csv", columns)
    assert [example.labels for example in examples] == [
        {"finding": "mass", "side": "left"},
        {"side": "right"},
        {"finding": "none", "side": "left"},
    ]
    assert [example.group for example in examples] == ["7", "7", "8"]
    assert [example.path for example in examples] == [tmp_path / "a.png", tmp_path / "sub/b.png", None]
    assert "image gone.png does not exist" in examples[2].problem
    assert targets_of(examples) == ["finding", "side"]


def test_several_labels_of_a_cell_become_a_target_each_over_both_parts(tmp_path):
    draw(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text("image,label\na.png,Mass|Nodule\na.png,Effusion\na.png,\n")
    rows = [{"image": "a.png", "label": ["Mass"]}, {"image": "a.png", "label": []}, {"image": "a.png"}]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, test = spread(
        read_examples(tmp_path / "train.csv", TableColumns(separator="|")),
        read_examples(tmp_path / "test.jsonl", TableColumns()),
    )
    assert train[0].labels == {"label=Mass": "yes", "label=Nodule": "yes", "label=Effusion": "no"}
    assert train[2].labels == {"label=Mass": "no", "label=Nodule": "no", "label=Effusion": "no"}
    assert [example.labels.get("label=Mass") for example in test] == ["yes", "no", None]


def test_a_folder_of_class_folders_gives_the_first_folder_as_class(tmp_path):
    draw(tmp_path / "polyp/1.png")
    draw(tmp_path / "normal/deep/2.png")
    (tmp_path / "normal/notes.txt").write_text("no image")
    (tmp_path / "polyp/IM0001").write_bytes(bytes(128) + b"DICM")
    examples = read_examples(tmp_path, TableColumns())
    assert [(example.image, example.labels) for example in examples] == [
        ("normal/deep/2.png", {"class": "normal"}),
        ("polyp/1.png", {"class": "polyp"}),
        ("polyp/IM0001", {"class": "polyp"}),
    ]


def test_phantoms_give_all_their_attributes(tmp_path):
    write_phantoms(tmp_path / "phantoms", 3, seed=5, image_size=32)
    truth = [json.loads(line) for line in (tmp_path / "phantoms/records.jsonl").read_text().splitlines()]
    examples = read_examples(tmp_path / "phantoms", TableColumns())
    names = ("modality", "kind", "size", "brightness", "place", "outline")
    assert [example.labels for example in examples] == [{name: row[name] for name in names} for row in truth]
    assert all(example.path.is_file() for example in examples)


def test_the_fingerprint_depends_on_labels_and_not_on_where_the_images_lie(tmp_path):
    found = []
    for folder, label in (("one", "x"), ("two", "x"), ("three", "y")):
        draw(tmp_path / folder / "a.png")
        (tmp_path / folder / "t.csv").write_text(f"image,label\na.png,{label}\n")
        found.append(fingerprint(read_examples(tmp_path / folder / "t.csv", TableColumns())))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "image,diagnosis\na.png,x\n", r"t.csv has no column 'label' \(it has: image, diagnosis\)"),
        ("t.csv", "image,label\na.png\n", r"t.csv, line 2: not as many fields as the heading"),
        ("t.csv", "image,label\n,x\n", r"t.csv, line 2: image is '', not the name of an image"),
        ("t.csv", "image,label\na.png,\n", "holds no labelled image"),
        ("t.jsonl", '{"image": "a.png"}\n', "t.jsonl has no column 'label'"),
        ("t.jsonl", '{"image": "a.png", "label": {}}\n', "row 0: label is a dict; a label is a text or a number"),
        ("t.jsonl", "[1]\n", "row 0: a row must be an object, not int"),
        ("t.txt", "", "t.txt: give a file that ends in .csv"),
        ("folder/a.png", "", "lies in no class's folder"),
    ],
)
def test_sources_that_cannot_be_used_are_refused(tmp_path, name, content, message):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    source = tmp_path / name
    with pytest.raises(UserError, match=message):
        read_examples(source.parent if "/" in name else source, TableColumns())
    with pytest.raises(UserError, match="does not exist"):
        read_examples(tmp_path / "nowhere", TableColumns())


def test_a_row_without_its_patient_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("image,label,patient\na.png,x,\n")
    with pytest.raises(UserError, match="line 2: patient is empty"):
        read_examples(tmp_path / "t.csv", TableColumns(group="patient"))
