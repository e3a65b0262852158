import io
import json
import multiprocessing
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.dicom_files import write_dicom
from medcap.data.images.reader import ImageReader
from medcap.data.row_layouts import read_record
from medcap.datasets.rows import tar_rows as web_shards
from medcap.datasets.rows.tar_rows import is_shards, open_shards, split_name
from medcap.errors import UserError

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A scan"}]


def picture(red):
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path, *members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            if not isinstance(content, bytes):
                content = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def open_one(tmp_path, *members):
    return open_shards(str(write_shard(tmp_path / "a.tar", *members)), tmp_path / "cache")


def reds(rows, index, style="auto"):
    """The pictures that a row shows, told by their red."""
    reader = ImageReader(rows.shards)
    record = read_record(rows.read(index), rows.path, index, reader.resolve, style)
    return [reader.open(image).getpixel((0, 0))[0] for image in record.images]


def numbered(path, count, first=0):
    members = [
        (f"{index:06d}.{extension}", content)
        for index in range(first, first + count)
        for extension, content in (("jpg", picture(index % 256)), ("txt", f"caption {index}"))
    ]
    return write_shard(path, *members)


def test_keys_end_at_the_first_dot_of_the_last_component():
    assert split_name("a.b/c.seg.PNG") == ("a.b/c", "seg.png")
    assert split_name("000.jpg") == ("000", "jpg")
    assert [split_name(name) for name in ("README", "a/.hidden.jpg", "._a.jpg", "__meta__", "__m__/a.jpg")] == [
        None
    ] * 5
    assert split_name("__a.jpg") == ("__a", "jpg")


def test_a_caption_from_txt(tmp_path):
    rows = open_one(tmp_path, ("k.jpg", picture(3)), ("k.txt", " A \u2460 scan\n"))
    assert len(rows) == 1
    assert rows.read(0) == {
        "conversations": [{"from": "human", "value": "\u2460" * 50}, {"from": "gpt", "value": "A (1) scan"}],
        "image": f"{tmp_path}/a.tar!/k.jpg",
    }
    assert reds(rows, 0) == [3]
    assert rows.name(0) == f"{tmp_path}/a.tar, sample k"
    assert rows.path == tmp_path / "a.tar"


@pytest.mark.parametrize("key", ["caption", "text"])
def test_a_caption_from_json(tmp_path, key):
    rows = open_one(tmp_path, ("k.json", {key: "A scan", "width": 2}), ("k.tiff", picture(3)))
    assert rows.read(0)["conversations"][1]["value"] == "A scan"
    assert reds(rows, 0) == [3]


def test_turns_win_over_txt_and_txt_over_a_caption_in_json(tmp_path):
    rows = open_one(
        tmp_path,
        *[("a.jpg", picture(1)), ("a.json", {"conversations": TURNS, "caption": "no"}), ("a.txt", "no")],
        *[("b.jpg", picture(2)), ("b.json", {"caption": "no"}), ("b.txt", "yes")],
    )
    assert [rows.read(index)["conversations"][1]["value"] for index in (0, 1)] == ["A scan", "yes"]


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"image": None},
        {"image": "sub/k.png"},
        {"image": "k.png"},
        {"image": ["/old/k.png"]},
        {"id": "k.png"},
        {"id": "k.png", "image": "k"},
    ],
)
def test_conversations_get_or_name_their_picture(tmp_path, named):
    rows = open_one(tmp_path, ("sub/k.png", picture(9)), ("sub/k.json", {"conversations": TURNS, **named}))
    assert reds(rows, 0) == [9]
    if "id" in named:
        assert reds(rows, 0, "coloninst") == [9]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
                {"role": "assistant", "content": "A"},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": "k.png"}, {"type": "text", "text": "What?"}]},
                {"role": "assistant", "content": "A"},
            ]
        },
        {
            "messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A"}],
            "images": ["k.png"],
        },
    ],
)
def test_messages_get_or_name_their_picture(tmp_path, row):
    assert reds(open_one(tmp_path, ("k.png", picture(9)), ("k.json", row)), 0) == [9]


def test_several_pictures_of_one_sample_stay_in_their_order(tmp_path):
    question = [{"from": "human", "value": "<image><image>Which?"}, {"from": "gpt", "value": "Left"}]
    views = [("k.front.jpg", picture(1)), ("k.side.png", picture(2))]
    rows = open_one(
        tmp_path,
        *views,
        ("k.txt", "Two views"),
        *[(name.replace("k", "m"), content) for name, content in views],
        ("m.json", {"conversations": question}),
        *[(name.replace("k", "n"), content) for name, content in views],
        ("n.json", {"conversations": question, "image": ["n.side.png", "n.front.jpg"]}),
    )
    assert [reds(rows, index) for index in range(3)] == [[1, 2], [1, 2], [2, 1]]


@pytest.mark.parametrize("suffix", ["dcm", "DICOM", "nii.gz", "tiff"])
def test_a_scan_is_the_picture_of_its_sample(tmp_path, suffix):
    scan = write_dicom(tmp_path / "scan", np.full((2, 2), 7, dtype=np.uint8)).read_bytes()
    rows = open_one(tmp_path, (f"0.{suffix}", scan), ("0.txt", "A scan"))
    assert reds(rows, 0) == [7]


def test_a_text_only_sample_is_a_row(tmp_path):
    turns = [{"from": "human", "value": "Yes?"}, {"from": "gpt", "value": "No"}]
    rows = open_one(tmp_path, ("k.json", {"conversations": turns}))
    assert rows.read(0) == {"conversations": turns}


def test_one_key_in_two_shards_means_two_pictures(tmp_path):
    for name, red in (("a", 1), ("b", 2)):
        row = {"conversations": TURNS, "image": "k.png"}
        members = [("k.png", picture(red)), ("k.json", row), ("m.txt", "cap"), ("m.jpg", picture(red + 10))]
        write_shard(tmp_path / f"{name}.tar", *members)
    rows = open_shards(str(tmp_path / "{a,b}.tar"), tmp_path / "cache")
    assert [reds(rows, index) for index in range(4)] == [[1], [11], [2], [12]]
    assert [rows.name(index) for index in (0, 2)] == [f"{tmp_path}/{shard}.tar, sample k" for shard in "ab"]


def test_a_key_does_not_continue_in_the_next_shard(tmp_path):
    write_shard(tmp_path / "a.tar", ("k.jpg", picture(1)))
    write_shard(tmp_path / "b.tar", ("k.txt", "caption"))
    assert len(open_shards(str(tmp_path / "*.tar"), None)) == 2


def test_a_picture_that_samples_of_a_shard_share_is_stored_once(tmp_path):
    for name, red in (("a", 4), ("b", 5)):
        write_shard(
            tmp_path / f"{name}.tar",
            *[("a.png", picture(red)), ("a.json", {"conversations": TURNS})],
            ("b.json", {"conversations": TURNS, "image": "a.png"}),
        )
    rows = open_shards(str(tmp_path / "*.tar"), None)
    assert [reds(rows, index) for index in range(4)] == [[4], [4], [5], [5]]


def test_a_file_that_is_not_a_sample_is_between(tmp_path):
    rows = open_one(
        tmp_path,
        *[("__info__/x.json", {}), ("LICENSE", "text"), ("k.jpg", picture(6)), ("._k.jpg", b""), ("k.txt", "caption")],
    )
    assert len(rows) == 1
    assert reds(rows, 0) == [6]


def turns_with(value):
    return {"conversations": [{"from": "human", "value": value}, TURNS[1]]}


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([("k.jpg", b"")], r"no \.json or \.txt: keep all files of one sample adjacent"),
        ([("k.txt", "caption")], "no image for its caption"),
        ([("k.jpg", b""), ("k.txt", " \n")], "caption must be text that is not empty"),
        ([("k.jpg", b""), ("k.json", {"caption": 3})], "caption must be text"),
        ([("k.jpg", b""), ("k.json", {"label": 3})], "no 'conversations', 'messages', 'caption' or 'text'"),
        ([("k.jpg", b""), ("k.json", [1])], r"\.json must hold an object, not list"),
        ([("k.jpg", b""), ("k.json", '{"cut": ')], r"k\.json is not valid JSON"),
        ([("k.jpg", b""), ("k.json", "[" * 100_000)], r"k\.json is not valid JSON"),
        ([("k.jpg", b""), ("k.txt", b"\xff\xfe")], r"k\.txt is not UTF-8"),
        ([("k.jpg", b""), ("k.JPG", b""), ("k.txt", "x")], r"more than one \.jpg"),
        ([("k.json", turns_with("<image>What?"))], "1 image placeholder, but the sample has no image"),
        ([("k.jpg", b""), ("k.json", turns_with("What?"))], "has 1 image, but its text has no placeholder"),
        (
            [("k.2.8.jpg", b""), ("k.2.8.txt", "a"), ("k.2.9.jpg", b"")],
            r"the key of k\.2\.8\.jpg is 'k', as a key ends",
        ),
        ([("k.1.json", {"caption": "a"}), ("k.2.jpg", b"")], r"the key of k\.1\.json is 'k', as a key ends"),
    ],
)
def test_a_bad_sample_is_an_error_with_shard_and_key(tmp_path, members, problem):
    rows = open_one(tmp_path, *members, ("next.jpg", b""), ("next.txt", "fine"))
    with pytest.raises(UserError, match=rf"a\.tar, sample k: .*{problem}") as caught:
        rows.read(0)
    assert "\n" not in str(caught.value)
    assert rows.read(1)["image"].endswith("next.jpg")


def test_a_text_beyond_the_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(web_shards, "MAX_TEXT_BYTES", 5)
    with pytest.raises(UserError, match="6 bytes, more than the 5 allowed"):
        open_one(tmp_path, ("k.jpg", b""), ("k.txt", "123456")).read(0)


def test_malformed_turns_are_left_for_read_record(tmp_path):
    for value in (3, [], [3], [{"from": "human"}], [{"from": "human", "value": None, "content": [3]}]):
        rows = open_one(tmp_path, ("k.json", {"conversations": value}))
        with pytest.raises(UserError, match="row 0: "):
            read_record(rows.read(0), rows.path, 0, ImageReader(rows.shards).resolve)


def test_shards_that_cannot_be_opened(tmp_path):
    with pytest.raises(UserError, match="no tar file matches"):
        open_shards(str(tmp_path / "*.tar"), None)
    with pytest.raises(UserError, match=r"none-1\.tar .*does not exist"):
        open_shards(str(tmp_path / "none-{1..3}.tar"), None)
    (tmp_path / "cut.tar").write_bytes(numbered(tmp_path / "a.tar", 3).read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cut\.tar is cut off or damaged"):
        open_shards(str(tmp_path / "{a,cut}.tar"), tmp_path / "cache")
    with pytest.raises(UserError, match="holds no samples"):
        open_one(tmp_path, ("README", "text"))


def test_which_sources_are_shards():
    assert is_shards("s/train-{000000..000099}.tar")
    assert is_shards(Path("a.tar"))
    assert not is_shards("train.jsonl")


@pytest.mark.parametrize("counts", [[5], [3, 4, 1, 2], [7] * 9, [1] * 40, [30, 1, 1, 1, 1, 1, 1, 1, 1, 1]])
def test_an_order_is_a_permutation_that_keeps_each_shards_order(tmp_path, counts):
    for index, count in enumerate(counts):
        numbered(tmp_path / f"{index:03d}.tar", count)
    rows = open_shards(str(tmp_path / "*.tar"), tmp_path / "cache")
    order = rows.order(np.random.default_rng(5))
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(sum(counts)))
    shard_of = np.repeat(np.arange(len(counts)), counts)
    for shard in range(len(counts)):
        assert (np.diff(order[shard_of[order] == shard]) == 1).all()
    assert order.tolist() == rows.order(np.random.default_rng(5)).tolist()
    assert rows.order(None).tolist() == list(range(sum(counts)))
    # From the first to the last sample of a shard, at most eight shards are being read.
    positions = [np.flatnonzero(shard_of[order] == shard) for shard in range(len(counts))]
    being_read = [sum(position[0] <= at <= position[-1] for position in positions) for at in range(len(order))]
    assert max(being_read) <= 8


def test_an_order_mixes_shards_by_their_size(tmp_path):
    for index, count in enumerate([100, 300]):
        numbered(tmp_path / f"{index}.tar", count)
    rows = open_shards(str(tmp_path / "*.tar"), None)
    orders = [rows.order(np.random.default_rng(seed)) for seed in range(200)]
    assert len({order.tobytes() for order in orders}) == 200
    # Each place shows the smaller shard with probability 1/4; 200 x 50 draws have a standard deviation below 0.01.
    for part in (slice(0, 50), slice(350, 400)):
        assert np.mean([order[part] < 100 for order in orders]) == pytest.approx(0.25, abs=0.03)


def test_shards_that_are_read_together_change(tmp_path):
    for index in range(16):
        numbered(tmp_path / f"{index:02d}.tar", 1)
    rows = open_shards(str(tmp_path / "*.tar"), None)
    together = {frozenset(rows.order(np.random.default_rng(seed))[:8].tolist()) for seed in range(10)}
    assert len(together) == 10


def test_a_large_order_is_quick():
    rows = object.__new__(web_shards.ShardRows)
    rows._starts = np.arange(0, 2_000_001, 10_000)
    rows._first = np.empty(2_000_000)
    order = rows.order(np.random.default_rng(0))
    assert np.bincount(order).max() == 1


def test_fingerprint_is_of_the_content(tmp_path):
    first = open_one(tmp_path, ("k.jpg", b"1"), ("k.txt", "2"))
    copied = tmp_path / "copy.tar"
    copied.write_bytes((tmp_path / "a.tar").read_bytes())
    assert open_shards(str(copied), None).fingerprint == first.fingerprint
    assert open_one(tmp_path, ("k.jpg", b"1"), ("k.txt", "23")).fingerprint != first.fingerprint


def test_samples_come_from_the_cache_and_a_damaged_one_is_made_again(tmp_path, monkeypatch):
    source, cache = str(numbered(tmp_path / "a.tar", 3)), tmp_path / "cache"
    open_shards(source, cache)
    (file,) = (cache / "shards").glob("*/first.npy")
    with monkeypatch.context() as patched:
        patched.setattr(web_shards, "_group_samples", None)
        assert len(open_shards(source, cache)) == 3
    file.write_bytes(file.read_bytes()[:-1])
    rows = open_shards(source, cache)
    assert [rows.read(index)["image"][-10:] for index in range(3)] == ["000000.jpg", "000001.jpg", "000002.jpg"]


@pytest.mark.processes
def test_copies_in_other_processes_read_the_same(tmp_path):
    rows = open_shards(str(numbered(tmp_path / "a.tar", 3)), tmp_path / "cache")
    expected = rows.read(1)
    assert pickle.loads(pickle.dumps(rows)).read(1) == expected
    assert len(pickle.dumps(rows)) < 1000
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=lambda: there.send((rows.read(1), reds(rows, 2))))
    child.start()
    assert here.poll(20)
    assert here.recv() == (expected, [2])
    child.join(20)


def test_text_and_picture_are_each_read_once(tmp_path, monkeypatch):
    rows = open_shards(str(numbered(tmp_path / "a.tar", 3)), None)
    reader = ImageReader(rows.shards)
    read = []
    original = type(rows.files)._read
    monkeypatch.setattr(
        type(rows.files), "_read", lambda self, *arguments: read.append(arguments[0]) or original(self, *arguments)
    )
    record = read_record(rows.read(1), rows.path, 1, reader.resolve)
    reader.open(record.images[0])
    assert read == [3, 2]
