import json

import numpy as np
import pytest
from PIL import Image

from helpers.dicom_files import write_dicom
from medcap.data.images.reader import ImageReader
from medcap.data.images.views import View
from medcap.data.row_layouts import read_record
from medcap.datasets.preparing.request import Request
from medcap.datasets.preparing.run import prepare_images
from medcap.datasets.preparing.worker import Settings
from medcap.datasets.rows.json_file import open_rows
from medcap.datasets.rows.tar_rows import open_shards
from medcap.errors import UserError

LEVELS = {"a.png": 10, "b/c.dcm": 20, "b/d.png": 30}


def row(image, text="Where?", answer="left", **more):
    tags = "<image>\n" * (len(image) if isinstance(image, list) else bool(image))
    turns = [{"from": "human", "value": f"{tags}{text}"}, {"from": "gpt", "value": answer}]
    return {"image": image, "conversations": turns, **more}


@pytest.fixture
def folder(tmp_path):
    """Three images, each of one grey, and a damaged one."""
    (tmp_path / "b").mkdir()
    for name, level in LEVELS.items():
        pixels = np.full((6, 6), level, dtype=np.uint8)
        if name.endswith(".dcm"):
            write_dicom(tmp_path / name, pixels)
        else:
            Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path


def prepare(folder, rows, shards=False, **options):
    source = folder / "train.json"
    source.write_text(json.dumps(rows))
    view = options.pop("view", View())
    return prepare_images(Request([source], folder / "out", Settings(4, view=view), shards, workers=0, **options))


def shown(reader, image):
    return reader.open(image).getpixel((0, 0))[0]


def records(folder):
    """Each prepared row as training reads it: its answer, and the greys of its images."""
    rows = open_rows(folder / "out" / "train.jsonl")
    reader = ImageReader([folder / "out"])
    for index in range(len(rows)):
        record = read_record(rows.read(index), rows.path, index, reader.resolve)
        yield record.messages[-1].text_content, [shown(reader, image) for image in record.images]


def shard_records(folder):
    rows = open_shards(folder / "out" / "images-*.tar", None)
    reader = ImageReader(rows.shards)
    for index in range(len(rows)):
        record = read_record(rows.read(index), rows.path, index, reader.resolve)
        yield record.messages[-1].text_content, [shown(reader, image) for image in record.images]


def failures(folder):
    return [json.loads(line) for line in (folder / "out" / "failures.jsonl").read_text().splitlines()]


def all_layouts(folder):
    text = {"conversations": [{"from": "human", "value": "Yes?"}, {"from": "gpt", "value": "text"}]}
    message = {"role": "user", "content": [{"type": "image", "content": "b/d.png"}, {"type": "text", "content": "x"}]}
    return [
        row("a.png", answer="llava"),
        row("c.dcm", answer="sharegpt", meta=f"dir={folder}/b"),
        row("d", answer="coloninst") | {"id": "b/d.png"},
        {"messages": [message, {"role": "assistant", "content": "messages"}]},
        row(["a.png", "b/d.png"], answer="two"),
        text,
    ]


EXPECTED = [
    ("llava", [10]),
    ("sharegpt", [20]),
    ("coloninst", [30]),
    ("messages", [30]),
    ("two", [10, 30]),
    ("text", []),
]


def test_rows_of_all_layouts_name_the_prepared_images(folder):
    summary = prepare(folder, all_layouts(folder))
    assert list(records(folder)) == EXPECTED
    assert (summary.sources, summary.prepared, summary.rows, summary.failures) == (3, 3, 6, 0)
    assert sorted(path.name for path in (folder / "out" / "images").rglob("*.png")) == ["a.png", "c.png", "d.png"]
    assert Image.open(folder / "out" / "images" / "b" / "c.png").size == (4, 4)


def test_shards_are_a_source_with_the_same_rows(folder):
    summary = prepare(folder, all_layouts(folder), shards=True, shard_size=2)
    assert sorted(shard_records(folder)) == sorted(EXPECTED)
    assert (summary.rows, summary.failures) == (6, 0)
    assert len(list((folder / "out").glob("*.tar"))) > 1


def test_rows_that_share_an_image_share_it_in_a_shard(folder):
    summary = prepare(folder, [row("a.png", answer=f"{number}") for number in range(5)], shards=True, shard_size=2)
    rows = open_shards(folder / "out" / "images-*.tar", None)
    assert summary.sources == 1
    assert [name for name in rows.files.names() if name.endswith(".png")] == ["000000000.png"]
    assert (
        len(
            {
                rows.read(index)["image"]
                if isinstance(rows.read(index)["image"], str)
                else rows.read(index)["image"][0]
                for index in range(5)
            }
        )
        == 1
    )
    assert [answer for answer, _ in shard_records(folder)] == ["0", "1", "2", "3", "4"]


def broken(folder):
    return [
        row("a.png", answer="good"),
        row("bad.png"),
        row("none.png"),
        row(["bad.png", "b/d.png"]),
        row("b/d.png", answer="also good"),
        ["no object"],
    ]


@pytest.mark.parametrize("shards", [False, True])
def test_rows_without_their_images_are_left_out_and_listed(folder, shards):
    summary = prepare(folder, broken(folder), shards=shards)
    found = shard_records(folder) if shards else records(folder)
    assert list(found) == [("good", [10]), ("also good", [30])]
    listed = {failure["path"]: failure["reason"] for failure in failures(folder)}
    source = folder / "train.json"
    assert set(listed) == {str(folder / "bad.png"), *(f"{source}, row {index}" for index in (1, 2, 3, 5))}
    assert "does not exist" in listed[f"{source}, row 2"]
    assert "could not be prepared" in listed[f"{source}, row 1"]
    assert summary.rows == 2


def test_a_shuffle_is_the_same_every_time(folder):
    rows = [row("a.png" if number % 2 else None, answer=f"{number}") for number in range(12)]
    prepare(folder, rows, shards=True, shuffle=3)
    first = [answer for answer, _ in shard_records(folder)]
    bytes_before = (folder / "out" / "images-000000.tar").read_bytes()
    prepare(folder, rows, shards=True, shuffle=3, overwrite=True)
    assert (folder / "out" / "images-000000.tar").read_bytes() == bytes_before
    assert sorted(first, key=int) == [f"{number}" for number in range(12)]
    assert first != sorted(first, key=int)


def test_images_in_a_tar_root(folder):
    import tarfile

    (folder / "pack").mkdir()
    with tarfile.open(folder / "pack" / "images.tar", "w") as tar:
        tar.add(folder / "b" / "c.dcm", "deep/in.dcm")
    prepare(folder, [row("deep/in.dcm")], image_roots=[folder / "pack" / "images.tar"])
    assert list(records(folder)) == [("left", [20])]
    assert (folder / "out" / "images" / "deep" / "in.png").is_file()


def test_rows_of_a_benchmark_keep_their_other_keys(folder):
    prepare(folder, [{"question": "Where?", "image_name": "b/c.dcm", "gt": 1}])
    written = json.loads((folder / "out" / "train.jsonl").read_text())
    assert written == {"question": "Where?", "image_name": "images/b/c.png", "gt": 1}
    prepare(folder, [{"question": "Where?", "image_name": "b/c.dcm"}], shards=True, overwrite=True)
    assert "rows in shards need" in failures(folder)[0]["reason"]


def test_what_rows_cannot_name(folder):
    with pytest.raises(UserError, match="--frames all makes several pictures"):
        prepare(folder, [row("a.png")], view=View(frames="all"))
    source = folder / "failures.json"
    source.write_text(json.dumps([row("a.png")]))
    with pytest.raises(UserError, match="rename it"):
        prepare_images(Request([source], folder / "x", Settings(), workers=0))
    with pytest.raises(UserError, match="takes one file of rows"):
        prepare_images(Request([source, source], folder / "x", Settings(), workers=0))


def test_the_first_rows_only(folder):
    assert prepare(folder, all_layouts(folder), limit=2).rows == 2
    assert list(records(folder)) == EXPECTED[:2]
    assert prepare(folder, all_layouts(folder)).rows == 6
    assert list(records(folder)) == EXPECTED


@pytest.mark.parametrize("shards", [False, True])
def test_a_row_says_which_frame_and_window_of_its_image_is_prepared(folder, shards):
    frames = np.stack([np.full((6, 6), 1000 * number, dtype=np.int16) for number in range(4)])
    write_dicom(folder / "scan.dcm", frames)
    rows = [
        row("scan.dcm", frames=3, window=[2000, 4001]),
        row([{"image": "scan.dcm", "frames": 0}, "scan.dcm"], window=[2000, 4001], fit="pad"),
        row("scan.dcm", frames="2 even"),
    ]
    summary = prepare(folder, rows, shards=shards, view=View(frames=1))
    assert (summary.prepared, summary.failures) == (3, 1)
    failure = (folder / "out" / "failures.jsonl").read_text()
    assert "scan.dcm means several pictures (frames=2 even), and a row names one" in failure
    if shards:
        rows = open_shards(folder / "out" / "images-*.tar", None)
        reader = ImageReader([*rows.shards])
    else:
        rows, reader = open_rows(folder / "out" / "train.jsonl"), ImageReader([folder / "out"])
    read = [rows.read(index) for index in range(2)]
    images = [read_record(each, rows.path, 0, reader.resolve).images for each in read]
    assert [[shown(reader, image.path) for image in each] for each in images] == [[191], [0, 64]]
    assert [{"frames", "window"} & set(each) for each in read] == [set(), set()]
    assert read[1]["fit"] == images[1][0].view.fit == "pad"


@pytest.mark.parametrize(
    ("answer", "fields", "settings", "moved"),
    [
        ("{<1><2><3><4>}", {}, Settings(4, "squash", 0), True),
        ("{<1><2><3><4>}", {}, Settings(None, pad_above=1.8), True),
        ("{<1><2><3><4>}", {}, Settings(None, pad_above=0), False),
        ("<box>(1,2),(3,4)</box>", {}, Settings(4, "crop", 0), True),
        ("<box>(1,2),(3,4)</box>", {}, Settings(4, "squash", 0), False),
        ("[0.1, 0.2, 0.3, 0.4]", {}, Settings(4, "crop", 0), True),
        ("[0.1, 0.2, 0.3, 0.4]", {}, Settings(4, "shortest", 0), False),
        ("grades [1, 2, 3, 4]", {}, Settings(4), False),
        ("<BOX>", {"boxes": [[0, 0, 2, 2]]}, Settings(4, "squash", 0), True),
        ("no", {"boxes": []}, Settings(4), False),
    ],
)
def test_boxes_that_would_lie_elsewhere_are_refused(folder, answer, fields, settings, moved):
    turns = [{"from": "human", "value": "<image>Where?"}, {"from": "gpt", "value": answer}]
    source = folder / "boxes.json"
    source.write_text(json.dumps([{"image": "a.png", "conversations": turns, **fields}]))
    request = Request([source], folder / "out", settings, False, workers=0)
    if moved:
        with pytest.raises(UserError, match=r"row 0 has boxes .* would lie elsewhere on the prepared image"):
            prepare_images(request)
    else:
        assert prepare_images(request).rows == 1
