from pathlib import Path

import pytest
from torchtune.data import Message

from medcap.data.images import ImageReader
from medcap.errors import UserError
from medcap.evaluation.tasks.base import ImageFinder, Row, checked_rows, image_reader


def row(name, problem=None):
    return Row(name, [Message(role="user", content="What?")], ["a"], problem=problem)


def test_rows_of_one_id_are_told_apart():
    assert [r.id for r in checked_rows([row("a"), row("b"), row("a"), row("a")], "f")] == ["a", "b", "a#2", "a#3"]


def test_a_file_in_which_nothing_can_be_asked_is_refused_before_anything_is_loaded():
    with pytest.raises(UserError, match=r"data.json: none of the 2 rows .* first one: no x.png"):
        checked_rows([row("a", "no x.png"), row("b", "no y.png")], "data.json")
    with pytest.raises(UserError, match="holds no rows"):
        checked_rows([], "data.json")


def test_a_missing_image_or_one_outside_the_roots_is_remembered_not_raised(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret.png").touch()
    find = ImageFinder(ImageReader([tmp_path / "inside"]))
    assert find("../secret.png") == Path("../secret.png")
    assert "outside the allowed folders" in find.problem
    find.problem = None
    find("none.png")
    assert "does not exist" in find.problem


def test_images_lie_in_the_file_s_folder_or_the_working_directory_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert image_reader(tmp_path / "data" / "a.json").roots == [tmp_path / "data", tmp_path]
    assert image_reader(tmp_path / "data" / "a.json", [tmp_path]).roots == [tmp_path]
