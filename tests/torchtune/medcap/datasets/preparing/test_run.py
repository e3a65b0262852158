import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.dicom_files import write_dicom
from helpers.waiting import wait_for
from medcap.data.images.reader import ImageReader
from medcap.data.images.views import View
from medcap.datasets.preparing.request import Request
from medcap.datasets.preparing.run import prepare_images
from medcap.datasets.preparing.worker import Settings
from medcap.errors import UserError


@pytest.fixture
def source(tmp_path):
    """Two pictures, a DICOM file, a damaged image and a text."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    Image.new("RGB", (30, 10), (9, 99, 0)).save(folder / "wide.png")
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(folder / "sub" / "deep.png")
    write_dicom(folder / "sub" / "scan", np.arange(256, dtype=np.uint16).reshape(16, 16))
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "notes.txt").write_text("x")
    return folder


def prepare(source, out, shards=False, **options):
    settings = {key: options.pop(key) for key in list(options) if key in Settings.__dataclass_fields__}
    settings = Settings(**{"size": 16, **settings})
    return prepare_images(Request([source], out, settings, shards=shards, workers=0, **options))


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder_becomes_the_same_tree(source, tmp_path):
    out = tmp_path / "out"
    summary = prepare(source, out)
    assert list(contents(out)) == [
        "failures.jsonl",
        "prepare.json",
        "prepared.jsonl",
        "sub/deep.png",
        "sub/scan.png",
        "wide.png",
    ]
    assert (summary.sources, summary.prepared, summary.pictures, summary.failures, summary.others) == (4, 3, 3, 1, 1)
    assert Image.open(out / "sub" / "scan.png").size == (16, 16)
    [failure] = lines(out / "failures.jsonl")
    assert failure["path"] == str(source / "bad.jpg")
    assert failure["reason"].startswith("cannot be opened: ") or failure["reason"].startswith("is ")


def test_done_is_done_and_failures_are_tried_again(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    prepare(source, out)
    before = {path: path.stat().st_ino for path in out.rglob("*.png")}
    Image.new("RGB", (9, 9)).save(source / "bad.jpg")
    summary = prepare(source, out)
    assert (summary.prepared, summary.already, summary.failures) == (4, 3, 0)
    assert {path: path.stat().st_ino for path in before} == before
    assert (out / "failures.jsonl").read_text() == ""


def test_what_changed_or_vanished_is_made_again(source, tmp_path):
    out = tmp_path / "out"
    prepare(source, out)
    Image.new("RGB", (30, 10), (200, 0, 0)).save(source / "wide.png")
    os.utime(source / "wide.png", ns=(1, 1))
    (out / "sub" / "deep.png").unlink()
    assert prepare(source, out).already == 1
    assert Image.open(out / "wide.png").getpixel((8, 8)) == (200, 0, 0)
    assert (out / "sub" / "deep.png").is_file()


def test_the_first_ones_and_then_the_rest(source, tmp_path):
    out = tmp_path / "out"
    assert prepare(source, out, limit=2).sources == 2
    assert not (out / "sub").exists()
    assert prepare(source, out).already == 1
    assert prepare(source, out, limit=2).already == 1
    assert prepare(source, out).already == 3
    prepare(source, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_a_line_that_a_kill_cut_off_is_done_again(source, tmp_path):
    out = tmp_path / "out"
    prepare(source, out)
    whole = contents(out)
    (out / "prepared.jsonl").write_bytes(whole["prepared.jsonl"][:-20])
    (out / "sub" / ".scan.png.partial").write_bytes(b"half")
    assert prepare(source, out).already == 2
    assert contents(out) == whole


def test_other_settings_do_not_mix(source, tmp_path):
    out = tmp_path / "out"
    prepare(source, out, file_format="jpeg")
    with pytest.raises(UserError, match=r"file_format jpeg \(asked for png\).*--overwrite"):
        prepare(source, out)
    (out / "mine.txt").write_text("x")
    prepare(source, out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == [
        "failures.jsonl",
        "mine.txt",
        "prepare.json",
        "prepared.jsonl",
        "sub",
        "wide.png",
    ]


def test_overwriting_removes_nothing_outside(source, tmp_path):
    out = tmp_path / "out"
    prepare(source, out)
    outcome = lines(out / "prepared.jsonl")[0] | {"pictures": [["x", ["../in/wide.png"]]]}
    (out / "prepared.jsonl").write_text(json.dumps(outcome) + "\n")
    prepare(source, out, overwrite=True)
    assert (source / "wide.png").is_file()


def test_a_folder_of_other_files_is_left_alone(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="holds other files"):
        prepare(source, tmp_path / "out")
    with pytest.raises(UserError, match="holds other files"):
        prepare(source, source)


def test_what_cannot_be_used_is_one_line(source, tmp_path):
    with pytest.raises(UserError, match="is neither a folder nor"):
        prepare(tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        prepare(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        prepare(source, tmp_path / "file" / "out")


def test_two_processes_do_not_prepare_into_one_folder(source, tmp_path):
    import fcntl

    (tmp_path / "out").mkdir()
    descriptor = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another process prepares images"):
        prepare(source, tmp_path / "out")
    os.close(descriptor)
    prepare(source, tmp_path / "out")


def test_frames_of_a_series(tmp_path):
    (tmp_path / "in").mkdir()
    frames = np.stack([np.full((4, 4), 10 * number, dtype=np.uint8) for number in range(3)])
    write_dicom(tmp_path / "in" / "a.dcm", frames)
    summary = prepare(tmp_path / "in", tmp_path / "out", view=View(frames="all"))
    assert (summary.prepared, summary.pictures) == (1, 3)
    names = [f"a/{number:04d}.png" for number in range(3)]
    assert lines(tmp_path / "out" / "prepared.jsonl")[0]["pictures"] == [[str(tmp_path / "in" / "a.dcm"), names]]
    assert [Image.open(tmp_path / "out" / name).getpixel((0, 0)) for name in names] == [0, 10, 20]


def test_a_window_reaches_sixteen_bit_pictures(source, tmp_path):
    prepare(source, tmp_path / "out", size=None, view=View(window=(10_000, 20_000)))
    deep = np.asarray(Image.open(tmp_path / "out" / "sub" / "deep.png"))
    assert (deep[0, 0], deep[0, 4], deep[3, 0]) == (0, 51, 255)


def test_shards_without_rows_are_image_roots(source, tmp_path):
    out = tmp_path / "out"
    summary = prepare(source, out, shards=True, shard_size=2)
    assert (summary.prepared, summary.failures) == (3, 1)
    assert [path.name for path in sorted(out.glob("*.tar"))] == ["images-000000.tar", "images-000001.tar"]
    reader = ImageReader([out / "images-{000000..000001}.tar"])
    for name in ("wide.png", "sub/deep.png", "sub/scan.png"):
        assert reader.open(reader.resolve(name)).size == (16, 16)
    whole = contents(out)
    assert prepare(source, out, shards=True, shard_size=2).already == 3
    (out / "images-000001.tar").unlink()
    assert prepare(source, out, shards=True, shard_size=2).already == 1
    assert contents(out) == whole


def test_a_shard_of_failures_alone_can_be_read(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.png").write_bytes(b"x")
    assert prepare(tmp_path / "in", tmp_path / "out", shards=True).prepared == 0
    assert ImageReader([tmp_path / "out" / "images-000000.tar"]).roots


@pytest.mark.processes
@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_bytes(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "in" / "000.png")
    for number in range(1, 120):
        shutil.copy(tmp_path / "in" / "000.png", tmp_path / "in" / "sub" / f"{number:03d}.png")
    words = ["prepare", "images", "--source", str(tmp_path / "in"), "--size", "64", "--workers", "2", "--out"]
    killed = tmp_path / "killed"
    # It stops for good after 30 pictures, so that it can be killed there.
    code = (
        "import sys, time\nfrom medcap.cli import main\nfrom medcap.datasets.preparing import run\n"
        "run_tasks = run.run_tasks\n"
        "def some_tasks(*arguments):\n    for number, outcome in enumerate(run_tasks(*arguments)):\n"
        "        time.sleep(3600 if number == 30 else 0)\n        yield outcome\n"
        "run.run_tasks = some_tasks\nif __name__ == '__main__':\n    sys.exit(main())\n"
    )
    (tmp_path / "program.py").write_text(code)
    process = subprocess.Popen([sys.executable, tmp_path / "program.py", *words, str(killed)])
    prepared = killed / "prepared.jsonl"
    wait_for(lambda: process.poll() is not None or (prepared.is_file() and prepared.read_bytes().count(b"\n") == 30))
    assert process.poll() is None
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(prepared.read_text().splitlines())
    for path in killed.rglob("*.png"):
        if not path.name.startswith("."):
            assert Image.open(path).size == (64, 64)
    assert workers
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    command = [sys.executable, "-m", "medcap.cli", *words, str(killed)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    already = int(printed.partition("(")[2].partition(" ")[0])
    assert already >= done - 1
    prepare_images(Request([tmp_path / "in"], tmp_path / "whole", Settings(size=64), workers=0))
    assert contents(killed) == contents(tmp_path / "whole")
