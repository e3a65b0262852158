"""The layouts of the phantom benchmarks, and that each is read by its task."""

import hashlib
import json
from pathlib import Path

import pytest

from medcap.datasets.phantoms.benchmarks import MODALITIES, write_phantom_benchmarks
from medcap.datasets.phantoms.drawing import bounding_box, draw
from medcap.datasets.phantoms.records import KINDS, OPTIONS, make_phantom, make_questions
from medcap.errors import UserError
from medcap.evaluation.tasks.choices.omnimedvqa import MODALITIES as MEDCAP_MODALITIES
from medcap.evaluation.tasks.registry import TASKS

COUNT, SEED = 12, 5


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_phantom_benchmarks(tmp_path_factory.mktemp("phantoms") / "benchmarks", COUNT, SEED, image_size=32)


def load(written, task, tmp_path):
    return TASKS[task]().load(written.folder, TASKS[task].Options(work_folder=tmp_path / task))


@pytest.mark.parametrize(
    ("task", "number"), [("omnimedvqa", 6), ("vqarad", 5), ("slake", 6), ("pathvqa", 4), ("vqa", 3)]
)
def test_each_layout_is_read_by_its_task_and_asks_what_is_true(written, task, number, tmp_path):
    benchmark = load(written, task, tmp_path)
    assert len(benchmark.rows) == written.rows[task] == number * COUNT
    assert not any(row.problem for row in benchmark.rows)
    assert len({row.image for row in benchmark.rows}) == COUNT
    known = {(q.text, q.answer) for i in range(COUNT) for q in make_questions(make_phantom(SEED, i))}
    assert {(row.text, row.references[0]) for row in benchmark.rows} <= known


def test_conversations_have_captions_reference_answers_and_domains(written, tmp_path):
    benchmark = load(written, "chat", tmp_path)
    first, second = benchmark.rows[:2]
    phantom = make_phantom(SEED, 0)
    assert (len(benchmark.rows), any(row.problem for row in benchmark.rows)) == (2 * COUNT, False)
    assert (first.meta["question_type"], second.meta["question_type"]) == ("conversation", "detail")
    assert second.references == (phantom.caption,)
    assert first.meta["context"].startswith(f"Figure Caption:\nFigure 0: {phantom.caption}")
    assert {row.meta["modality"] for row in benchmark.rows} <= {"CXR", "CT", "MRI", "Gross"}


def test_boxes_are_asked_for_as_coloninst_and_slake_have_them(written, tmp_path):
    phantom = make_phantom(SEED, 0)
    x1, y1, x2, y2 = bounding_box(draw(phantom, 32)[1])
    detection = json.loads((written.folder / "Slake1.0" / "imgs" / "xmlab0" / "detection.json").read_text())
    assert detection == [{phantom.kind: [x1, y1, x2 - x1, y2 - y1]}]
    (row, *_) = load(written, "slake_boxes", tmp_path).rows
    assert row.image_size == (32, 32)
    assert row.boxes[0].edges == pytest.approx((x1 / 32, y1 / 32, x2 / 32, y2 / 32))
    file = written.folder / "ColonINST" / "Json-file" / "test" / "ColonINST-test-rec.json"
    assert json.loads(file.read_text())[0] == {
        "id": f"Phantom/Test/{phantom.kind}/5-000000.png",
        "image": "5-000000",
        "conversations": [
            {"from": "human", "value": f"<image>\nWhere is the location of {phantom.kind}?"},
            {"from": "gpt", "value": f"{{<{x1}><{y1}><{x2}><{y2}>}}"},
        ],
    }
    asked = load(written, "coloninst", tmp_path).rows
    assert {row.meta["task"] for row in asked} == {"CLS", "REG", "REC", "CAP"}
    assert len(asked) == written.rows["coloninst"] == 4 * COUNT and not any(row.problem for row in asked)


def test_pictures_are_the_same_in_every_layout(written, tmp_path):
    pictures = {
        task: {
            hashlib.sha256(Path(row.image.path).read_bytes()).hexdigest() for row in load(written, task, tmp_path).rows
        }
        for task in written.rows
    }
    assert len(pictures["omnimedvqa"]) == COUNT
    assert all(found == pictures["omnimedvqa"] for found in pictures.values())


def test_omnimedvqa_has_real_modalities_two_and_four_options_and_the_misspelt_record(written, tmp_path):
    assert set(MODALITIES.values()) < set(MEDCAP_MODALITIES)
    benchmark = load(written, "omnimedvqa", tmp_path)
    for row in benchmark.rows:
        kind = Path(row.image.path).parent.name.removeprefix("Phantom ")
        assert row.meta["modality"] == MODALITIES[kind]
        assert row.references[0] in row.options
        (options,) = [values for values in OPTIONS.values() if set(row.options) <= set(values)]
        assert len(row.options) == min(4, len(options))
        assert list(row.options) == [option for option in options if option in row.options]
    assert {row.options for row in benchmark.rows} >= {("bright", "dark"), ("smooth", "spiky"), KINDS}
    tree = written.folder / "OmniMedVQA" / "QA_information" / "Open-access"
    records = [record for path in tree.glob("*.json") for record in json.loads(path.read_text(encoding="utf-8"))]
    assert sum("modality" in record and "modality_type" not in record for record in records) == 1
    assert {"option_D" in record for record in records if record["option_A"] == "bright"} == {False}
    assert {record["option_D"] for record in records if record["option_A"] == "smooth"} == {""}


def test_vqarad_has_both_phrases_and_the_space_after_closed(written, tmp_path):
    path = written.folder / "VQA_RAD" / "VQA_RAD Dataset Public.json"
    records = json.loads(path.read_text(encoding="utf-8"))
    assert {record["phrase_type"] for record in records} == {"freeform", "para", "test_freeform", "test_para"}
    assert {record["answer_type"] for record in records} == {"OPEN", "CLOSED", "CLOSED "}
    benchmark = load(written, "vqarad", tmp_path)
    assert {row.answer_type for row in benchmark.rows} == {"OPEN", "CLOSED"}
    assert {row.meta["organ"] for row in benchmark.rows} <= {"CHEST", "ABDOMEN", "PELVIS", "EYE"}


def test_slake_has_a_chinese_question_an_image(written, tmp_path):
    benchmark = load(written, "slake", tmp_path)
    assert f"{COUNT} questions in other languages than English are left out" in benchmark.notices
    assert all(set(row.groups) == {"modality", "question_type", "answer_type", "organ"} for row in benchmark.rows)


def test_the_same_request_gives_the_same_bytes_and_is_not_written_twice(written, tmp_path):
    again = write_phantom_benchmarks(tmp_path / "again", COUNT, SEED, image_size=32)
    assert (again.written, again.images, again.rows) == (True, COUNT, written.rows)
    assert digest(again.folder) == digest(written.folder)
    assert not write_phantom_benchmarks(tmp_path / "again", COUNT, SEED, image_size=32).written
    write_phantom_benchmarks(tmp_path / "other", COUNT, SEED + 1, image_size=32)
    assert digest(tmp_path / "other") != digest(written.folder)


def test_a_folder_with_anything_else_is_left_alone(tmp_path):
    (tmp_path / "empty").mkdir()
    assert write_phantom_benchmarks(tmp_path / "empty", 1, 0, image_size=32).written
    with pytest.raises(UserError, match=r'holds the phantoms of another request, .*"count": 1'):
        write_phantom_benchmarks(tmp_path / "empty", 2, 0, image_size=32)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(UserError, match="mine holds other files; name a new or an empty folder"):
        write_phantom_benchmarks(tmp_path / "mine", 1, 0)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    with pytest.raises(UserError, match="is a file"):
        write_phantom_benchmarks(tmp_path / "mine" / "thesis.txt", 1, 0)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [((0, 0, 64), "count: must be at least 1"), ((1, -1, 64), "seed: must not"), ((1, 0, 16), "image_size: .* 32")],
)
def test_numbers_out_of_range_are_refused(tmp_path, numbers, message):
    count, seed, image_size = numbers
    with pytest.raises(UserError, match=message):
        write_phantom_benchmarks(tmp_path / "out", count, seed, image_size)
    assert not (tmp_path / "out").exists()
