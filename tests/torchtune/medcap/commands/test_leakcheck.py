import argparse
import json

import numpy as np
import pytest
from PIL import Image

from medcap.commands import leakcheck
from medcap.datasets.leakage.search import DISTANCE, FINE_FACTOR
from medcap.errors import UserError


def picture(seed):
    values = np.random.default_rng(seed).uniform(0, 255, (9, 9)).astype(np.uint8)
    return Image.fromarray(values).resize((96, 96), Image.Resampling.BICUBIC)


def check(*arguments):
    parser = argparse.ArgumentParser()
    leakcheck.add_arguments(parser)
    leakcheck.run(parser.parse_args([*map(str, arguments), "--processes", "1"]))


@pytest.fixture
def sets(tmp_path):
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
    for seed in range(6):
        picture(seed).save(tmp_path / "train" / f"{seed}.png")
        picture(seed + 100).save(tmp_path / "test" / f"{seed + 100}.png")
    return tmp_path


def test_separate_sets_end_with_status_0(sets, capsys):
    check(sets / "train", sets / "test")
    printed = capsys.readouterr().out
    assert "training: " in printed
    assert "6 images" in printed
    assert "No test image was found in the training set (distance at most 8 of 64 bits, 48 of 256)." in printed
    assert "mirrored, inverted, turned by more than a degree, cropped or padded are not looked for." in printed


def test_leaks_are_listed_with_their_kind_and_end_with_status_1(sets, capsys):
    (sets / "test" / "file.png").write_bytes((sets / "train" / "0.png").read_bytes())
    picture(1).save(sets / "test" / "pixels.bmp")
    picture(2).resize((60, 60)).save(sets / "test" / "small.jpg", quality=70)
    Image.new("L", (20, 20)).save(sets / "test" / "black.png")
    Image.new("L", (30, 30)).save(sets / "train" / "black.png")
    (sets / "test" / "broken.png").write_text("no image")
    with pytest.raises(SystemExit) as end:
        check(sets / "train", sets / "test", "--json", sets / "out.json")
    assert end.value.code == 1
    printed = capsys.readouterr().out
    assert "10 images, 1 more that cannot be read, 1 of one colour, not compared" in printed
    assert "broken.png is not a readable image" in printed
    assert f"flat test image: {sets}/test/black.png" in printed
    assert (
        "3 of 10 test images (30.0 %) were found in the training set: 1 same file, 1 same pixels, 1 look alike"
        in printed
    )
    result = json.loads((sets / "out.json").read_text())
    assert [(pair["kind"], pair["test"].rpartition("/")[2], pair["train"]) for pair in result["pairs"]] == [
        ("same file", "file.png", f"{sets}/train/0.png"),
        ("same pixels", "pixels.bmp", f"{sets}/train/1.png"),
        ("look alike", "small.jpg", f"{sets}/train/2.png"),
    ]
    assert result["leaked_test_images"] == 3
    assert result["test"]["unreadable_images"][0]["image"] == f"{sets}/test/broken.png"
    assert result["test"]["flat_images"] == [f"{sets}/test/black.png"]


def test_data_files_name_their_images(sets, capsys):
    (sets / "test.jsonl").write_text('{"image": "1.png", "question": "q", "reference": "r"}\n{"image": "none.png"}\n')
    with pytest.raises(SystemExit):
        check(sets / "train", sets / "test.jsonl", "--image-root", sets / "train")
    assert "none.png does not exist" in capsys.readouterr().out
    with pytest.raises(UserError, match="none of the 2 images can be read"):
        check(sets / "train", sets / "test.jsonl")


def test_an_output_that_cannot_be_written_is_an_error(sets):
    (sets / "file").write_text("")
    with pytest.raises(UserError, match=r"--json .* cannot be written"):
        check(sets / "train", sets / "test", "--json", sets / "file" / "out.json")


def test_a_distance_out_of_range_is_an_error(sets):
    with pytest.raises(UserError, match="--distance 65 must be 0 to 64"):
        check(sets / "train", sets / "test", "--distance", "65")


def test_the_default_distance_is_the_measured_one():
    parser = argparse.ArgumentParser()
    leakcheck.add_arguments(parser)
    assert parser.parse_args(["a", "b"]).distance == DISTANCE
    assert f"{FINE_FACTOR} N of 256" in parser.format_help()
