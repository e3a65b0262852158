import io
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from medcap.datasets.published.finding import Found, Layout
from medcap.datasets.published.question import read_questions
from medcap.datasets.published.reading import Strict
from medcap.errors import UserError
from medcap.evaluation.tasks.base import LoadOptions
from medcap.evaluation.tasks.official import row_maker


def encoded(colour, format="PNG"):
    content = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(content, format=format)
    return content.getvalue()


def write(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def hub_rows(found, options):
    make_row, roots = row_maker(found, Layout((), {}), options)
    return [make_row(question) for question in read_questions(found, Strict("Bench"))], roots


def test_rows_that_share_a_picture_share_its_path_and_it_is_written_once(tmp_path):
    red, blue = encoded("red"), encoded("blue", "JPEG")
    images = [{"bytes": content, "path": None} for content in (red, blue, red)]
    rows = [{"image": image, "question": f"q{n}", "answer": "Yes"} for n, image in enumerate(images)]
    path = write(tmp_path / "test.parquet", rows)
    found = Found(tmp_path, "hub", [path])
    for _ in range(2):  # a second run finds them
        rows, roots = hub_rows(found, LoadOptions(work_folder=tmp_path / "images"))
    paths = [Path(row.image.path) for row in rows]
    assert paths[0] == paths[2] != paths[1]
    assert [path.suffix for path in paths[:2]] == [".png", ".jpg"]
    assert [path.read_bytes() for path in paths] == [red, blue, red]
    assert sorted((tmp_path / "images").iterdir()) == sorted(set(paths))
    assert roots == [tmp_path / "images"]
    assert [(row.id, row.text, row.answer_type, row.problem) for row in rows] == [
        ("0", "q0", "CLOSED", None),
        ("1", "q1", "CLOSED", None),
        ("2", "q2", "CLOSED", None),
    ]


def test_a_row_without_an_image_or_an_answer_stays(tmp_path):
    good = {"bytes": encoded("red"), "path": None}
    rows = [
        {"image": {"bytes": None, "path": "lost.png"}, "question": "q", "answer": "a"},
        {"image": good, "question": "q", "answer": None},
        {"image": good, "question": "q", "answer": "None"},
    ]
    found = Found(tmp_path, "hub", [write(tmp_path / "test.parquet", rows)])
    rows, _ = hub_rows(found, LoadOptions(work_folder=tmp_path / "images"))
    assert [row.problem for row in rows] == [
        "the parquet file holds no image for it",
        "the file gives no answer",
        None,
    ]
    assert rows[2].references == ("None",)


def test_images_need_a_folder_to_be_written_to(tmp_path):
    found = Found(tmp_path, "hub", [tmp_path / "test.parquet"])
    with pytest.raises(UserError, match=r"test.parquet: its images .* need an output_dir"):
        hub_rows(found, LoadOptions())
