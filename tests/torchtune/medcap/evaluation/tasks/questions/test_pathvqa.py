import io
import json

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from medcap.data.images.reference import ImageRef
from medcap.errors import UserError
from medcap.evaluation.tasks.base import LoadOptions
from medcap.evaluation.tasks.questions.pathvqa import PathVqaTask


def write_json(tmp_path, rows):
    folder = tmp_path / "PathVQA"
    (folder / "images" / "test").mkdir(parents=True)
    Image.new("L", (4, 4)).save(folder / "images" / "test" / "test_0648.jpg")
    path = folder / "test.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_the_hub_s_parquet_files_are_read_in_their_order(tmp_path):
    folder = tmp_path / "path-vqa" / "data"
    folder.mkdir(parents=True)
    content = io.BytesIO()
    Image.new("CMYK", (4, 4)).save(content, format="JPEG")
    image = {"bytes": content.getvalue(), "path": None}
    for number, answer in ((1, "yes"), (0, "liver")):
        rows = [{"image": image, "question": f"q{number}", "answer": answer}]
        path = folder / f"test-0000{number}-of-00002-abc.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    (folder / "train-00000-of-00001-abc.parquet").write_bytes(b"not read")
    benchmark = PathVqaTask().load(tmp_path, LoadOptions(work_folder=tmp_path / "work"))
    assert [(row.id, row.text, row.answer_type) for row in benchmark.rows] == [
        ("0", "q0", "OPEN"),
        ("1", "q1", "CLOSED"),
    ]
    assert (benchmark.expected, benchmark.source) == ({"rows": 6_719}, str(tmp_path / "path-vqa"))
    assert benchmark.notices[0] == "read 2 rows; the published test set has 6,719"
    assert "yes or no count as closed" in benchmark.notices[1]


def test_llava_med_s_json_is_read(tmp_path):
    row = {
        "id": 300648006,
        "image": "test/test_0648.jpg",
        "answer_type": "OPEN",
        "question_type": "where",
        "conversations": [
            {"from": "human", "value": "Where is this?\n<image>"},
            {"from": "gpt", "value": "urinary"},
        ],
    }
    path = write_json(tmp_path, [row])
    benchmark = PathVqaTask().load(tmp_path)
    (loaded,) = benchmark.rows
    assert (loaded.id, loaded.text, loaded.references) == ("300648006", "Where is this?", ("urinary",))
    assert (loaded.answer_type, loaded.meta, loaded.problem) == ("OPEN", {"question_type": "where"}, None)
    assert loaded.image == ImageRef.of(path.parent / "images" / "test" / "test_0648.jpg")
    assert benchmark.notices == ["read 1 row; the published test set has 6,761"]


def test_plain_rows_are_read_with_image_names_that_lack_their_suffix(tmp_path):
    rows = [
        {"image": "test_0648", "question": "Where?", "answer": "urinary"},
        {"image": "test_0648", "question": "Is it?", "answer": "no"},
        {"image": "lost", "question": "Is it?", "answer": "no"},
    ]
    path = write_json(tmp_path, rows)
    benchmark = PathVqaTask().load(path)
    assert [row.answer_type for row in benchmark.rows] == ["OPEN", "CLOSED", "CLOSED"]
    assert benchmark.rows[0].image == ImageRef.of(path.parent / "images" / "test" / "test_0648.jpg")
    assert "image lost does not exist" in benchmark.rows[2].problem
    assert any("yes or no count as closed" in line for line in benchmark.notices)


@pytest.mark.slow
def test_both_published_sizes_are_right_for_a_json_file(tmp_path):
    rows = [{"image": "test_0648", "question": "Is it?", "answer": "no", "answer_type": "CLOSED"}] * 6_719
    assert PathVqaTask().load(write_json(tmp_path, rows)).notices == []


def test_the_official_pickle_is_refused_with_what_to_do(tmp_path):
    folder = tmp_path / "pvqa" / "qas" / "test"
    folder.mkdir(parents=True)
    (folder / "test_qa.pkl").write_bytes(b"\x80\x03]q\x00.")
    for source in (tmp_path, folder / "test_qa.pkl"):
        with pytest.raises(UserError, match=r"^[^\n]*test_qa.pkl is a pickle.*flaviagiammarino/path-vqa[^\n]*$"):
            PathVqaTask().load(source)


def test_a_damaged_or_foreign_file_is_named(tmp_path):
    path = write_json(tmp_path, [{"image": "a"}])
    with pytest.raises(UserError, match="is not a file of PathVQA: its first row has no 'question'"):
        PathVqaTask().load(path)
    path.write_text(json.dumps([{"image": "a", "conversations": [{"from": "human", "value": "q"}]}]), encoding="utf-8")
    with pytest.raises(UserError, match=r"test.json, row 0: 'conversations' must be pairs"):
        PathVqaTask().load(path)
    path.write_text('[{"image"', encoding="utf-8")
    with pytest.raises(UserError, match=r"test.json, line 1: not valid JSON"):
        PathVqaTask().load(path)
