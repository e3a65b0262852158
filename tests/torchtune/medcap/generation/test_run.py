import re
from pathlib import Path

import pytest
from PIL import Image

from helpers.workspace import Workspace
from medcap.errors import UserError
from medcap.generation.prompt import question_request
from medcap.generation.request import Sampling
from medcap.generation.run import open_run, open_runs


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Two runs through one language model, one with pooled image tokens."""
    workspace = Workspace(tmp_path_factory.mktemp("runs"))
    workspace.train("max_steps_per_epoch=1", output="first")
    workspace.train("max_steps_per_epoch=1", "projector.num_image_tokens=1", "seed=5", output="second")
    return workspace


def answer(generator, image):
    return generator.generate([question_request(image, "Is there a circle?")], Sampling(max_new_tokens=6))[0]


@pytest.mark.slow
def test_a_run_answers_about_a_path_and_about_a_picture_in_memory(workspace):
    generator = open_run(workspace.folder / "first")
    path = workspace.folder / "images/0.png"
    with Image.open(path) as picture:
        in_memory = answer(generator, picture.convert("RGB"))
    assert answer(generator, path) == in_memory
    assert in_memory.error == "" and in_memory.tokens


@pytest.mark.slow
def test_runs_through_one_language_model_share_it_and_answer_as_alone(workspace):
    folders = [workspace.folder / "first", workspace.folder / "second"]
    together = open_runs(folders)
    assert together[0].model.decoder is together[1].model.decoder
    path = workspace.folder / "images/0.png"
    alone = [answer(open_run(folder), path).tokens for folder in folders]
    assert [answer(generator, path).tokens for generator in together] == alone
    assert together[0].tokenizer.num_image_tokens == 4 and together[1].tokenizer.num_image_tokens == 1


def test_all_runs_are_checked_before_weights_are_read(workspace, monkeypatch):
    monkeypatch.setattr(
        "medcap.checkpoints.build_model.ModelPlan.load", lambda *_, **__: pytest.fail("weights were read")
    )
    with pytest.raises(UserError, match="no such run"):
        open_runs([workspace.folder / "first", workspace.folder / "nowhere"])
    with pytest.raises(UserError, match=r"checkpointer.checkpoint_dir=/nowhere"):
        open_run(workspace.folder / "first", ["checkpointer.checkpoint_dir=/nowhere"])


@pytest.mark.slow
def test_the_five_lines_of_the_readme(workspace, capsys):
    readme = (Path(__file__).parents[4] / "README.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"five lines of Python:\n\n```python\n(.*?)```", readme, re.DOTALL)
    assert len([line for line in snippet.splitlines() if line]) == 5
    image = str(workspace.folder / "images/0.png")
    snippet = snippet.replace("results/mine", str(workspace.folder / "first")).replace("picture.png", image)
    exec(compile(snippet, "README.md", "exec"), {})
    request = question_request(image, "Is there a mass?")
    expected = open_run(workspace.folder / "first").generate([request], Sampling(max_new_tokens=64))[0].text
    assert capsys.readouterr().out == expected + "\n" != "\n"
