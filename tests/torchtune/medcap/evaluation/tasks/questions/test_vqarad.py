import io
import json

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from medcap.data.images.reference import ImageRef
from medcap.errors import UserError
from medcap.evaluation.tasks.base import LoadOptions
from medcap.evaluation.tasks.questions.vqarad import VqaRadTask

OFFICIAL = "VQA_RAD Dataset Public.json"


def record(number, phrase="test_freeform", **changes):
    return {
        "qid": number,
        "phrase_type": phrase,
        "qid_linked_id": "03f451ca",
        "image_case_url": "",
        "image_name": "synpic1.jpg",
        "image_organ": "HEAD",
        "evaluation": "not evaluated",
        "question": "Are regions of the brain infarcted?",
        "question_rephrase": "NULL",
        "question_type": "PRES",
        "answer": "Yes",
        "answer_type": "CLOSED",
    } | changes


def write(tmp_path, records, name="VQA_RAD"):
    images = tmp_path / name / "VQA_RAD Image Folder"
    images.mkdir(parents=True)
    Image.new("L", (4, 4)).save(images / "synpic1.jpg")
    path = tmp_path / name / OFFICIAL
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def test_the_test_phrases_are_read_with_what_the_file_tells(tmp_path):
    records = [
        record(0, "freeform"),
        record(1),
        record(2, "test_para", answer_type="CLOSED ", answer="No"),
        record(3, "para"),
        record(4, answer_type="OPEN", answer=3, question_type="COUNT", image_organ="CHEST"),
    ]
    path = write(tmp_path, records)
    benchmark = VqaRadTask().load(tmp_path)
    assert [(row.id, row.answer_type, row.references) for row in benchmark.rows] == [
        ("1", "CLOSED", ("Yes",)),
        ("2", "CLOSED", ("No",)),
        ("4", "OPEN", ("3",)),
    ]
    row = benchmark.rows[2]
    assert row.groups == {"question_type": "COUNT", "organ": "CHEST", "answer_type": "OPEN"}
    assert row.meta["phrase_type"] == "test_freeform"
    assert row.image == ImageRef.of(path.parent / "VQA_RAD Image Folder" / "synpic1.jpg")
    assert row.options == ()
    assert benchmark.files == [path]
    assert benchmark.notices == ["read 3 rows; the published test set has 451"]
    assert benchmark.expected == {"rows": 451, "test_freeform": 308, "test_para": 143}


def test_the_published_number_of_rows_needs_no_notice(tmp_path):
    records = [record(n, "test_freeform" if n < 308 else "test_para") for n in range(451)]
    write(tmp_path, [record(1000, "freeform"), *records], "vqa-rad")
    assert VqaRadTask().load(tmp_path).notices == []
    write(tmp_path, [record(n) for n in range(451)])
    assert VqaRadTask().load(tmp_path).notices == [
        "read 451 rows as published, but 451 test_freeform (published: 308), 0 test_para (published: 143)"
    ]


def test_the_file_and_its_folder_may_be_named(tmp_path):
    path = write(tmp_path, [record(1)], "elsewhere")
    for source in (path, path.parent):
        benchmark = VqaRadTask().load(source)
        assert benchmark.rows[0].image == ImageRef.of(path.parent / "VQA_RAD Image Folder" / "synpic1.jpg")
        assert benchmark.rows[0].problem is None


def test_a_missing_image_is_a_failure_of_its_row_alone(tmp_path):
    write(tmp_path, [record(1), record(2, image_name="synpic2.jpg")])
    benchmark = VqaRadTask().load(tmp_path)
    assert benchmark.rows[0].problem is None
    assert "synpic2.jpg does not exist" in benchmark.rows[1].problem
    assert "1 of 2 rows cannot be asked" in benchmark.notices[1]


def test_images_may_lie_in_another_folder_that_is_allowed(tmp_path):
    write(tmp_path, [record(1, image_name="other.png")])
    (tmp_path / "more").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "more" / "other.png")
    benchmark = VqaRadTask().load(tmp_path, LoadOptions(image_roots=[tmp_path / "more"]))
    assert benchmark.rows[0].image == ImageRef.of(tmp_path / "more" / "other.png")
    assert tmp_path / "more" in benchmark.image_roots


def test_the_hub_s_copy_is_closed_where_the_answer_is_yes_or_no(tmp_path):
    content = io.BytesIO()
    Image.new("L", (4, 4)).save(content, format="JPEG")
    image = {"bytes": content.getvalue(), "path": None}
    rows = [{"image": image, "question": f"q{n}?", "answer": answer} for n, answer in enumerate(("yes", "axial", "no"))]
    path = tmp_path / "vqa-rad" / "data" / "test-00000-of-00001-e5bc3d208bb4deeb.parquet"
    path.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    benchmark = VqaRadTask().load(tmp_path, LoadOptions(work_folder=tmp_path / "work"))
    assert [row.answer_type for row in benchmark.rows] == ["CLOSED", "OPEN", "CLOSED"]
    assert benchmark.notices == [
        "read 3 rows; the published test set has 451",
        "the files do not say which questions are closed: those whose answer is yes or no count as closed",
    ]
    assert benchmark.image_roots == [tmp_path / "work"]


def test_a_damaged_or_foreign_file_is_named(tmp_path):
    path = write(tmp_path, [{"image": "a.png", "conversations": []}])
    with pytest.raises(UserError, match=r"is not a file of VQA-RAD: its first row has no 'image_name'.*task vqa reads"):
        VqaRadTask().load(path)
    path.write_text('[{"qid": 1,\n "phrase', encoding="utf-8")
    with pytest.raises(UserError, match=r"Public.json, line 2: not valid JSON .*; is the file cut off"):
        VqaRadTask().load(tmp_path)
    path.write_text(json.dumps([record(0, "freeform")]), encoding="utf-8")
    with pytest.raises(UserError, match="holds no rows"):
        VqaRadTask().load(tmp_path)
