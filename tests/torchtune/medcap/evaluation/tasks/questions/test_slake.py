import io
import json

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from medcap.data.images.reference import ImageRef
from medcap.errors import UserError
from medcap.evaluation.tasks.base import LoadOptions
from medcap.evaluation.tasks.questions.slake import SlakeTask


def record(number, **changes):
    return {
        "img_id": 102,
        "img_name": "xmlab102/source.jpg",
        "question": "What modality is used to take this image?",
        "answer": "CT",
        "q_lang": "en",
        "location": "Lung",
        "modality": "CT",
        "answer_type": "OPEN",
        "base_type": "vqa",
        "triple": ["vhead", "_", "_"],
        "qid": number,
        "content_type": "Modality",
    } | changes


def write(tmp_path, records, name="Slake1.0"):
    (tmp_path / name / "imgs" / "xmlab102").mkdir(parents=True)
    Image.new("L", (4, 4)).save(tmp_path / name / "imgs" / "xmlab102" / "source.jpg")
    path = tmp_path / name / "test.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def test_the_english_questions_are_read(tmp_path):
    records = [
        record(11934),
        record(11935, q_lang="zh", question="图中有肝脏吗？", answer="没有"),
        record(11936, question="Does the picture contain liver?", answer="No", answer_type="CLOSED"),
    ]
    path = write(tmp_path, records)
    benchmark = SlakeTask().load(tmp_path)
    first, second = benchmark.rows
    assert (first.id, first.text, first.references) == (
        "11934",
        "What modality is used to take this image?",
        ("CT",),
    )
    assert first.groups == {"modality": "CT", "question_type": "Modality", "answer_type": "OPEN", "organ": "Lung"}
    assert first.image == ImageRef.of(path.parent / "imgs" / "xmlab102" / "source.jpg")
    assert (second.id, second.answer_type) == ("11936", "CLOSED")
    assert benchmark.notices == [
        "read 2 rows; the published test set has 1,061",
        "1 questions in other languages than English are left out",
    ]


def test_the_published_split_needs_no_notice(tmp_path):
    records = [record(n, answer_type="OPEN" if n < 645 else "CLOSED") for n in range(1_061)]
    write(tmp_path, records, "SLAKE")
    assert SlakeTask().load(tmp_path).notices == []
    records[0]["answer_type"] = "CLOSED"
    write(tmp_path, records)
    assert SlakeTask().load(tmp_path).notices == [
        "read 1,061 rows as published, but 644 OPEN (published: 645), 417 CLOSED (published: 416)"
    ]


def test_an_empty_answer_and_a_missing_image_are_failures_of_their_rows_alone(tmp_path):
    write(tmp_path, [record(1, answer=""), record(2, img_name="xmlab1/source.jpg"), record(3)])
    benchmark = SlakeTask().load(tmp_path)
    assert benchmark.rows[0].problem == "the file gives no answer"
    assert "xmlab1/source.jpg does not exist" in benchmark.rows[1].problem
    assert benchmark.rows[2].problem is None
    assert "2 of 3 rows cannot be asked" in benchmark.notices[1]


def hub(tmp_path, rows):
    content = io.BytesIO()
    Image.new("L", (4, 4)).save(content, format="PNG")
    path = tmp_path / "SLAKE-vqa-english" / "data" / "test-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    rows = [{"image": {"bytes": content.getvalue(), "path": None}, **row} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return SlakeTask().load(tmp_path, LoadOptions(work_folder=tmp_path / "work"))


def test_the_hub_s_parquet_file_is_read_with_the_columns_that_it_has(tmp_path):
    rows = [
        {"question": "Which is bigger, lung or heart?", "answer": "Lung", "answer_type": "CLOSED", "location": "Lung"},
        {"question": "Where?", "answer": "left", "answer_type": "OPEN", "location": "Brain"},
    ]
    benchmark = hub(tmp_path, rows)
    assert [(row.answer_type, row.meta) for row in benchmark.rows] == [
        ("CLOSED", {"organ": "Lung"}),
        ("OPEN", {"organ": "Brain"}),
    ]
    assert benchmark.notices == ["read 2 rows; the published test set has 1,061"]


def test_a_parquet_file_without_answer_types_is_closed_where_the_answer_is_yes_or_no(tmp_path):
    benchmark = hub(tmp_path, [{"question": "Is it?", "answer": "Yes"}, {"question": "Where?", "answer": "left"}])
    assert [row.answer_type for row in benchmark.rows] == ["CLOSED", "OPEN"]
    assert "yes or no count as closed" in benchmark.notices[1]


def test_a_damaged_or_foreign_file_is_named(tmp_path):
    path = write(tmp_path, [record(1)])
    path.write_text("[" + json.dumps(record(1)) + ",\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"test.json, line 2: not valid JSON"):
        SlakeTask().load(tmp_path)
    path.write_text('[{"image": "a.png", "question": "q", "answer": "a"}]', encoding="utf-8")
    with pytest.raises(UserError, match="is not a file of SLAKE: its first row has no 'img_name'"):
        SlakeTask().load(tmp_path)
