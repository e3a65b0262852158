import argparse
import json

import pytest

from medcap.commands.phantom_boxes import HELP, add_arguments, run
from medcap.errors import UserError


def options(*arguments):
    parser = argparse.ArgumentParser(description=HELP)
    add_arguments(parser)
    return parser.parse_args(arguments)


def test_the_command_writes_the_scenes_and_says_what_they_hold(tmp_path, capsys):
    out = tmp_path / "out"
    asked = options("--out", str(out), "--count", "2", "--seed", "3", "--image-size", "48", "32", "--lesions", "3")
    run(asked)
    run(asked)
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"wrote 2 images in {out}; rows: DET 2, REC 8, REG 6, VQA 14, CAP 2, SEG 8, RVQA 6"
    assert second == f"already complete: 2 images in {out}; rows: DET 2, REC 8, REG 6, VQA 14, CAP 2, SEG 8, RVQA 6"
    request = json.loads((out / "phantom_boxes.json").read_text())
    assert request["image_size"] == [48, 32] and request["lesions"] == [3] and request["box_format"] == "thousandths"


def test_more_than_width_and_height_is_refused(tmp_path):
    asked = options("--out", str(tmp_path / "out"), "--count", "1", "--seed", "0", "--image-size", "48", "32", "3")
    with pytest.raises(UserError, match="one side, or width and height"):
        run(asked)
