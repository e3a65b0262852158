import io

import pytest
import torch

from helpers.workspace import Workspace
from medcap.cli import main
from medcap.generation.prompt import question_request
from medcap.generation.request import Sampling
from medcap.generation.run import open_run


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("chat"))
    workspace.train("max_steps_per_epoch=1")
    return workspace


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [[], ["--compile"]])
def test_a_run_is_talked_to(workspace, monkeypatch, capsys, compiled):
    functions = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: functions.append(function) or function)
    monkeypatch.setattr("sys.stdin", io.StringIO("Is there a circle?\n"))
    image = str(workspace.folder / "images/0.png")
    # Overrides may come behind options.
    run = str(workspace.folder / "run")
    assert main(["chat", run, "--image", image, "--max-new-tokens", "5", *compiled, "dtype=fp32", "device=cpu"]) == 0
    assert bool(functions) is bool(compiled)
    request = question_request(image, "Is there a circle?")
    expected = open_run(run).generate([request], Sampling(5))[0].text
    assert capsys.readouterr().out == expected + "\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere: there is no such run"),
        (["RUN", "optimizer.lr=1"], "unknown key optimizer"),
        (["RUN", "mask_from_boxes=nowhere"], "mask_from_boxes=nowhere: there is no such folder"),
        (["RUN", "--image", "none.png"], "none.png: there is no such file"),
        (["RUN", "--top-p", "2"], "top_p=2.0: it must be above 0"),
        (["RUN", "--image", "0.png", "surplus"], "unrecognized arguments: surplus"),
        (["RUN", "--imgae", "a=b"], "unrecognized arguments: --imgae"),
    ],
)
def test_mistakes_are_one_line(workspace, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(workspace.folder / "images")
    arguments = [str(workspace.folder / "run") if word == "RUN" else word for word in arguments]
    with pytest.raises(SystemExit) as end:
        main(["chat", *arguments])
    assert end.value.code == 2
    assert words in capsys.readouterr().err
