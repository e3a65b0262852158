import json

import numpy as np
import pytest
from PIL import Image

from helpers.dicom_files import write_dicom
from medcap.cli import main


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (9, 7)).save(tmp_path / "in" / "a.png")
    values = np.arange(64, dtype=np.uint16).reshape(8, 8)
    write_dicom(tmp_path / "in" / "b.dcm", values, WindowCenter=[32.5, 10.5], WindowWidth=[65, 21])
    (tmp_path / "in" / "x.txt").write_text("x")
    return tmp_path / "in"


def prepare(source, *arguments):
    out = source.parent / "out"
    return main(["prepare", "images", "--source", str(source), "--out", str(out), "--workers", "1", *arguments])


@pytest.mark.slow
def test_the_command_says_what_there_is(source, capsys):
    (source / "bad.png").write_bytes(b"")
    assert prepare(source, "--size", "8") == 0
    printed = capsys.readouterr()
    out = source.parent / "out"
    assert printed.out == f"prepared 2 of 3 images, 1 other files left out: {out}\n"
    assert printed.err.splitlines()[-1] == f"1 failures: {out}/failures.jsonl"
    prepare(source, "--size", "8")
    assert "prepared 2 of 3 images (2 were there already)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_window_is_given_or_chosen(source):
    for arguments, expected in ((("32", "64"), 16), (("1",), 49)):
        prepare(source, "--overwrite", "--window", *arguments)
        pixels = np.asarray(Image.open(source.parent / "out" / "b.png"))
        assert pixels[0, 4] == expected or abs(int(pixels[0, 4]) - expected) <= 2


@pytest.mark.slow
def test_nothing_prepared_is_status_one(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.png").write_bytes(b"")
    with pytest.raises(SystemExit) as end:
        prepare(tmp_path / "in")
    assert end.value.code == 1
    assert json.loads((tmp_path / "out" / "failures.jsonl").read_text())["path"] == str(tmp_path / "in" / "bad.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "0"), "--size 0 must be at least 1"),
        (("--size", "20000"), "--size 20000 must be at most 16384"),
        (("--shard-size", "0"), "--shard-size 0"),
        (("--workers", "-1"), "--workers -1"),
        (("--pad-above", "0.5"), "--pad-above 0.5 must be a ratio from 1"),
        (("--pad-above", "nan"), "--pad-above nan"),
        (("--window", "5", "0"), "--window takes"),
        (("--window", "1.5"), "--window takes"),
        (("--window", "1", "2", "3"), "--window takes"),
        (("--window", "nan", "3"), "--window takes"),
        (("--frames", "first"), "--frames first must be middle, all, a number from 0"),
        (("--image-root", "."), "--image-root is for the images of rows"),
    ],
)
def test_an_impossible_option_is_one_line(source, capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        prepare(source, *arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (source.parent / "out").exists()
