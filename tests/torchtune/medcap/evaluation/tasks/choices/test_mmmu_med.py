from pathlib import Path

import pytest

from helpers.downloads import Downloads, picture
from medcap.datasets.published.choices.mmmu import SUBJECTS
from medcap.evaluation.prompting import check_plans
from medcap.evaluation.tasks.base import LoadOptions
from medcap.evaluation.tasks.choices.mmmu_med import MmmuMedTask


def row(name, question, options="['Yes', 'No']", answer="A", colours=("red",), **changes):
    images = {f"image_{number}": None for number in range(1, 8)}
    images |= {f"image_{number}": {"bytes": picture(colour), "path": None} for number, colour in enumerate(colours, 1)}
    fields = {
        "id": name,
        "question": question,
        "options": options,
        "explanation": "",
        "img_type": "['Pathological Images', 'Photographs']",
        "answer": answer,
        "topic_difficulty": "Easy",
        "question_type": "multiple-choice",
        "subfield": "Anatomy",
    }
    return fields | images | changes


@pytest.fixture
def load(tmp_path):
    def load(rows, subjects=SUBJECTS):
        downloads = Downloads(tmp_path / "datasets")
        for subject in subjects:
            own = [one for one in rows if subject in one["id"]] or [row(f"validation_{subject}_1", "<image 1> Is it?")]
            downloads.parquet(f"MMMU/{subject}/validation-00000-of-00001.parquet", own)
            downloads.text(f"MMMU/{subject}/test-00000-of-00001.parquet", "not read")
        benchmark = MmmuMedTask().load(downloads.folder, LoadOptions(work_folder=tmp_path / "work"))
        return benchmark, {question.id: question for question in benchmark.rows}

    return load


def shown(question):
    """The words of a question and the colours of its images, in order."""
    colours = {picture(colour): colour for colour in ("red", "green")}
    return [
        colours[Path(part["content"].path).read_bytes()] if part["type"] == "image" else part["content"]
        for part in question.messages[-1].content
    ]


def test_images_stand_where_the_words_name_them(load):
    rows = [
        row("validation_Pharmacy_1", "Compare <image 1> with <image 2>. Same?", colours=("red", "green")),
        row("validation_Pharmacy_2", "<image 1> Is it?", options="[\"It's\", 'No']", answer="B"),
    ]
    benchmark, questions = load(rows)
    assert shown(questions["validation_Pharmacy_1"]) == ["Compare ", "red", " with ", "green", ". Same?"]
    single = questions["validation_Pharmacy_2"]
    assert (shown(single), single.options, single.references) == (["red", "\nIs it?"], ("It's", "No"), ("No",))
    assert single.meta == {
        "task": "multiple-choice",
        "question_type": "Pharmacy",
        "modality": "Pathological Images, Photographs",
    }
    assert questions["validation_Public_Health_1"].meta["question_type"] == "Public Health"
    assert [path.parent.name for path in benchmark.files] == list(SUBJECTS)
    assert benchmark.notices == ["read 6 rows; the published test set has 150"]


def test_options_that_are_images_are_named_by_their_number(load):
    options = "['<image 1>', '<image 2>']"
    _, questions = load([row("validation_Pharmacy_1", "Which is it?", options, "B", ("red", "green"))])
    question = questions["validation_Pharmacy_1"]
    assert shown(question) == ["red", "green", "\nWhich is it?"]
    assert (question.options, question.references) == (("image 1", "image 2"), ("image 2",))


def test_open_questions_have_rules_of_their_own(load):
    rows = [
        row("validation_Pharmacy_1", "How many? <image 1>", "[]", "['8', 'eight']", question_type="open"),
        row("validation_Pharmacy_2", "How much? <image 1>", "[]", "2.5", question_type="open"),
    ]
    benchmark, questions = load(rows)
    assert questions["validation_Pharmacy_1"].references == ("8", "eight")
    assert questions["validation_Pharmacy_2"].references == ("2.5",)
    plans = MmmuMedTask().plan("direct")
    assert {plan.protocol.name: plan.tasks for plan in plans} == {
        "option_letter": ("multiple-choice",),
        "option_text": ("multiple-choice",),
        "omnimedvqa_qa": ("multiple-choice",),
        "vlmevalkit": ("multiple-choice",),
        "exact": ("open",),
    }
    check_plans(plans, benchmark.rows)


def test_withheld_answers_and_missing_subjects_images_and_options_are_told(load):
    rows = [
        row("validation_Pharmacy_1", "<image 1> Is it?", answer="?"),
        row("validation_Pharmacy_2", "<image 1> and <image 2>?"),
        row("validation_Pharmacy_3", "<image 1> Is it?", options="['Yes', 'No'"),
        row("validation_Pharmacy_4", "<image 1> Is it?", answer="C"),
    ]
    benchmark, questions = load(rows, subjects=("Pharmacy", "Public_Health"))
    assert [question.problem for question in questions.values()] == [
        "the file gives no answer",
        "the file holds no image 2",
        "the file gives fewer than two options",
        None,
        None,
    ]
    assert questions["validation_Pharmacy_4"].references == ("(option C, which the question does not have)",)
    assert benchmark.notices[1].endswith(
        "MMMU: Basic_Medical_Science, Clinical_Medicine, Diagnostics_and_Laboratory_Medicine"
    )
    assert "3 of 5 rows cannot be asked" in benchmark.notices[2]
    assert benchmark.notices[3].endswith("the first one: validation_Pharmacy_4")
