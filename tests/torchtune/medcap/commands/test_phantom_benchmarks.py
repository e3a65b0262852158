import argparse

import pytest

from medcap.commands.phantom_benchmarks import HELP, add_arguments, run


def options(*arguments):
    parser = argparse.ArgumentParser(description=HELP)
    add_arguments(parser)
    return parser.parse_args(arguments)


def test_the_command_writes_the_benchmarks_and_says_what_they_hold(tmp_path, capsys):
    asked = options("--out", str(tmp_path / "out"), "--count", "2", "--seed", "3", "--image-size", "32")
    run(asked)
    run(asked)
    first, second = capsys.readouterr().out.splitlines()
    counts = "omnimedvqa 12, vqarad 10, slake 12, pathvqa 8, vqa 6, coloninst 8, slake_boxes 2, chat 4"
    assert first == f"wrote 2 images in {tmp_path / 'out'}; questions: {counts}"
    assert second == f"already complete: 2 images in {tmp_path / 'out'}; questions: {counts}"
    assert (tmp_path / "out" / "OmniMedVQA" / "QA_information" / "Open-access").is_dir()


def test_the_seed_must_be_given(capsys):
    with pytest.raises(SystemExit):
        options("--out", "x", "--count", "2")
    assert "--seed" in capsys.readouterr().err
