import pytest
from PIL import Image

from medcap.data.images.reference import ImageRef
from medcap.datasets.published.vqamed import accepted_answers
from medcap.errors import UserError
from medcap.evaluation.tasks.questions.vqamed import VqaMedTask


def write_2019(tmp_path, text, images=("synpic1",)):
    folder = tmp_path / "VQA-Med-2019" / "VQAMed2019Test"
    (folder / "VQAMed2019_Test_Images").mkdir(parents=True)
    for name in images:
        Image.new("L", (4, 4)).save(folder / "VQAMed2019_Test_Images" / f"{name}.jpg")
    (folder / "VQAMed2019_Test_Questions_w_Ref_Answers.txt").write_text(text, encoding="utf-8")
    return folder


def write_2021(tmp_path, questions, answers):
    folder = tmp_path / "VQA-Med-2021" / "Task1-VQA-2021-TestSet-w-GroundTruth"
    (folder / "images" / "VQA-500-Images").mkdir(parents=True)
    Image.new("L", (4, 4)).save(folder / "images" / "VQA-500-Images" / "synpic1.jpg")
    (folder / "Task1-VQA-2021-TestSet-Questions.txt").write_text(questions, encoding="utf-8")
    if answers is not None:
        (folder / "Task1-VQA-2021-TestSet-ReferenceAnswers.txt").write_text(answers, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("axial", ["axial"]),
        (
            "anaplastic oligodendroglioma#multi-cystic complex mass",
            ["anaplastic oligodendroglioma", "multi-cystic complex mass"],
        ),
        (
            "(angioinvasive aspergillosis with) septic cerebral emboli",
            [
                "(angioinvasive aspergillosis with) septic cerebral emboli",
                "angioinvasive aspergillosis with septic cerebral emboli",
                "septic cerebral emboli",
            ],
        ),
        ("ct w/contrast (iv)", ["ct w/contrast (iv)", "ct w/contrast iv", "ct w/contrast"]),
        ("a#a#", ["a"]),
        ("", []),
    ],
)
def test_every_accepted_form_of_a_2019_reference(text, answers):
    assert accepted_answers(text) == answers


def test_2019_has_four_categories(tmp_path):
    text = (
        "synpic1|modality|is this a ct scan?|yes\n"
        "synpic1|plane|which plane?|axial\n\n"
        "synpic2|abnormality|what is abnormal?|mass#lesion (left)\n"
    )
    folder = write_2019(tmp_path, text)
    benchmark = VqaMedTask().load(tmp_path)
    assert [(row.id, row.answer_type, row.meta["question_type"], row.references) for row in benchmark.rows] == [
        ("synpic1", "CLOSED", "modality", ("yes",)),
        ("synpic1#2", "OPEN", "plane", ("axial",)),
        ("synpic2", "OPEN", "abnormality", ("mass", "lesion (left)", "lesion left", "lesion")),
    ]
    assert benchmark.rows[0].image == ImageRef.of(folder / "VQAMed2019_Test_Images" / "synpic1.jpg")
    assert "synpic2.jpg does not exist" in benchmark.rows[2].problem
    assert benchmark.notices[0] == "read 3 rows; the published test set has 500"
    assert benchmark.expected == {"rows": 500}
    assert VqaMedTask().load(folder).sha256 == benchmark.sha256


def test_2021_has_its_answers_in_a_second_file(tmp_path):
    questions = "synpic1|what is most alarming about this image?\nsynpic2|what is abnormal?\n"
    answers = "synpic2|cyst\nsynpic1|avascular necrosis|degenerative changes|\n"
    folder = write_2021(tmp_path, questions, answers)
    benchmark = VqaMedTask().load(tmp_path)
    assert [(row.text, row.references) for row in benchmark.rows] == [
        ("what is most alarming about this image?", ("avascular necrosis", "degenerative changes")),
        ("what is abnormal?", ("cyst",)),
    ]
    assert benchmark.rows[0].groups == {"question_type": "abnormality", "answer_type": "OPEN"}
    assert benchmark.rows[0].image == ImageRef.of(folder / "images" / "VQA-500-Images" / "synpic1.jpg")
    assert [path.name for path in benchmark.files] == [
        "Task1-VQA-2021-TestSet-Questions.txt",
        "Task1-VQA-2021-TestSet-ReferenceAnswers.txt",
    ]


def test_a_question_without_an_answer_is_a_failure(tmp_path):
    write_2021(tmp_path, "synpic1|what?\nsynpic1|where?\n", "synpic9|cyst\n")
    with pytest.raises(UserError, match=r"none of the 2 rows can be asked; the first one: the file gives no answer"):
        VqaMedTask().load(tmp_path)


def test_the_two_years_are_not_mixed(tmp_path):
    first = write_2019(tmp_path, "synpic1|modality|q|yes\n")
    second = write_2021(tmp_path, "synpic1|q\n", "synpic1|a\n")
    with pytest.raises(UserError, match=r"two benchmarks: run them one after the other") as error:
        VqaMedTask().load(tmp_path)
    assert f"dataset_source={first} " in str(error.value)
    assert str(error.value).endswith(f"dataset_source={second}")
    assert len(VqaMedTask().load(first).rows) == len(VqaMedTask().load(second).rows) == 1


def test_missing_answers_and_a_damaged_line_are_named(tmp_path):
    write_2021(tmp_path, "synpic1|q\n", None)
    with pytest.raises(UserError, match=r"Questions.txt has no answers: put Task1-VQA-2021-TestSet-ReferenceAnswers"):
        VqaMedTask().load(tmp_path)
    write_2019(tmp_path / "other", "synpic1|modality|q|yes\nsynpic2|moda")
    with pytest.raises(UserError, match=r"Answers.txt, line 2: expected image\|category\|question\|answers"):
        VqaMedTask().load(tmp_path / "other")
