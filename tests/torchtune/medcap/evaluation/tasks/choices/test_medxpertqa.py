import pytest

from helpers.downloads import Downloads
from medcap.data.images.reference import ImageRef
from medcap.errors import UserError
from medcap.evaluation.tasks.choices.medxpertqa import MedXpertQaTask

OPTIONS = {"A": "Capsular plication", "B": "Radial head ORIF", "C": "B", "D": "D-dimer", "E": "None of the above"}
WORDS = "Figures A and B are shown. Which step helps most?"
REPEATED = "\nAnswer Choices: (A) Capsular plication (B) Radial head ORIF (C) B (D) D-dimer (E) None of the above"


def row(**changes):
    fields = {
        "id": "MM-0",
        "question": WORDS + REPEATED,
        "options": OPTIONS,
        "label": "B",
        "images": ["MM-0-a.jpeg", "MM-0-b.jpeg"],
        "medical_task": "Treatment",
        "body_system": "Skeletal",
        "question_type": "Reasoning",
    }
    return fields | changes


@pytest.fixture
def downloads(tmp_path):
    downloads = Downloads(tmp_path)
    downloads.images("MedXpertQA/images", "MM-0-a.jpeg", "MM-0-b.jpeg")
    return downloads


def test_a_question_shows_all_its_images_and_loses_the_options_in_its_words(downloads):
    downloads.lines("MedXpertQA/MM/test.jsonl", [row()])
    benchmark = MedXpertQaTask().load(downloads.folder)
    (loaded,) = benchmark.rows
    images = downloads.folder / "MedXpertQA" / "images"
    assert loaded.images == [ImageRef.of(images / "MM-0-a.jpeg"), ImageRef.of(images / "MM-0-b.jpeg")]
    assert (loaded.id, loaded.text, loaded.references) == ("MM-0", WORDS, ("Radial head ORIF",))
    assert loaded.options == ("Capsular plication", "Radial head ORIF", "B", "D-dimer", "None of the above")
    assert loaded.meta == {"question_type": "Reasoning", "task": "Treatment", "organ": "Skeletal"}
    assert (loaded.problem, loaded.columns) == (None, ())
    assert benchmark.notices == ["read 1 row; the published test set has 2,000"]


def test_what_is_wrong_with_a_row_is_named_and_the_row_stays(downloads):
    rows = [
        row(),
        row(id="no-image", images=["MM-0-a.jpeg", "lost.jpeg"]),
        row(id="no-list", images="MM-0-a.jpeg"),
        row(id="unknown", label="F"),
        row(id="no-options", options=None),
        row(id="no-label", label=None),
        row(id="gap", options={"A": "one", "C": "three"}, label="(c)"),
    ]
    downloads.lines("MedXpertQA/MM/test.jsonl", rows)
    benchmark = MedXpertQaTask().load(downloads.folder)
    good, image, names, unknown, options, label, gap = benchmark.rows
    assert (good.problem, unknown.problem, gap.problem) == (None, None, None)
    assert "image lost.jpeg does not exist" in image.problem
    assert names.problem == "'images' is not a list of names"
    assert options.problem == "the file gives fewer than two options"
    assert label.problem == "the file gives no answer"
    assert unknown.references == ("(option F, which the question does not have)",)
    assert (gap.options, gap.columns, gap.references) == (("one", "three"), ("one", "", "three"), ("three",))
    assert "4 of 7 rows cannot be asked and count as failures; the first one, no-image" in benchmark.notices[1]
    assert "1 of 7 rows have an answer that is not among their options" in benchmark.notices[2]
    assert benchmark.notices[2].endswith("the first one: unknown")


def test_a_damaged_line_and_another_file_stop_the_benchmark(downloads):
    path = downloads.lines("MedXpertQA/MM/test.jsonl", [row(), '{"id": '])
    with pytest.raises(UserError, match=r"test.jsonl, row 1: not valid JSON; the benchmark is not complete"):
        MedXpertQaTask().load(downloads.folder)
    downloads.lines("MedXpertQA/MM/test.jsonl", [{"id": "Text-0", "question": "Which?", "options": {}, "label": "A"}])
    with pytest.raises(UserError, match="is not a file of MedXpertQA-MM: its first row has no 'images'"):
        MedXpertQaTask().load(path)
    path.unlink()
    with pytest.raises(UserError, match=r"MedXpertQA-MM is not in .*MedXpertQA/MM/test.jsonl and MedXpertQA/images"):
        MedXpertQaTask().load(downloads.folder)
