import json

import pytest

from helpers.downloads import Downloads
from medcap.errors import UserError
from medcap.evaluation.tasks.questions.radrestruct import RadReStructTask

TOP = "Rad-ReStruct/data/radrestruct"
YES_NO = {"answer_type": "single_choice", "options": ["yes", "no"]}
SIGNS = "Are there any signs in the lung?"
OPACITY = "Is there a opacity in the lung?"
PLACES = ["left lower lobe", "lower lobe", "no selection", "aorta, thoracic"]
REPORT = [
    [SIGNS, ["yes"], [], YES_NO | {"path": "lung_signs"}],
    [OPACITY, ["yes"], [[SIGNS, ["yes"]]], YES_NO | {"path": "lung_signs_opacity"}],
    [
        "In which part of the body?",
        ["left lower lobe", "aorta, thoracic"],
        [[SIGNS, ["yes"]], [OPACITY, ["yes"]]],
        {"answer_type": "multi_choice", "options": PLACES, "path": "lung_signs_opacity_body_region"},
    ],
    ["Is there anything abnormal in the abdomen?", ["no"], [], YES_NO | {"path": "abdomen_infos"}],
]


@pytest.fixture
def downloads(tmp_path):
    downloads = Downloads(tmp_path)
    downloads.images(f"{TOP}/images", "CXR10_IM-1.png", "CXR10_IM-2.png")
    images = {"10": ["CXR10_IM-1", "CXR10_IM-2"], "11": ["CXR11_IM-1"]}
    downloads.array(f"{TOP}/id_to_img_mapping_frontal_reports.json", images)
    downloads.array(f"{TOP}/test_qa_pairs/10.json", REPORT)
    return downloads


def turns(question):
    return [
        (message.role, [part["content"] for part in message.content if part["type"] == "text"])
        for message in question.messages
    ]


def test_every_image_of_a_report_is_asked_with_the_questions_above(downloads):
    benchmark = RadReStructTask().load(downloads.folder)
    assert [question.id for question in benchmark.rows] == [
        f"CXR10_IM-{image}_10_{number}" for image in (1, 2) for number in range(4)
    ]
    place = benchmark.rows[2]
    assert turns(place) == [
        ("user", [f"\n{SIGNS}"]),
        ("assistant", ["yes"]),
        ("user", [OPACITY]),
        ("assistant", ["yes"]),
        ("user", ["In which part of the body? Name all that apply, with commas between them."]),
    ]
    assert [image.path.rpartition("/")[2] for image in place.images] == ["CXR10_IM-1.png"]
    assert (place.options, place.references) == (tuple(PLACES), ("left lower lobe; aorta, thoracic",))
    assert place.meta == {
        "question_type": "level 3",
        "organ": "lung",
        "phrase": "lung_signs_opacity_body_region",
        "patient": "10",
    }
    assert [question.meta["question_type"] for question in benchmark.rows[:4]] == [
        "level 1",
        "level 2",
        "level 3",
        "level 2",
    ]
    assert (turns(benchmark.rows[3])[0], benchmark.rows[3].answer_type) == (
        ("user", ["\nIs there anything abnormal in the abdomen?"]),
        "CLOSED",
    )
    assert benchmark.notices == [
        "questions: level 1 2, level 2 4, level 3 2; the questions above each are given with the answers of the file"
    ]


def test_missing_images_and_reports_without_one_stay_as_failures(downloads):
    downloads.array(f"{TOP}/test_qa_pairs/11.json", REPORT[:1])
    downloads.array(f"{TOP}/test_qa_pairs/12.json", REPORT[:1])
    benchmark = RadReStructTask().load(downloads.folder)
    lost, unknown = benchmark.rows[8:]
    assert "image CXR11_IM-1.png does not exist" in lost.problem
    assert unknown.problem == "id_to_img_mapping_frontal_reports.json names no image of report 12"
    assert "2 of 10 rows cannot be asked" in benchmark.notices[1]


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ("[[", r"11.json: not valid JSON; the benchmark is not complete"),
        ('{"a": 1}', r"11.json: the file is not a list of questions"),
        (json.dumps([["Is it?", ["yes"], []]]), r"11.json, question 0: not a question with answers, history and"),
        (json.dumps([["Is it?", [], [], YES_NO]]), r"11.json, question 0: not a question with answers"),
        (json.dumps([["Is it?", ["no"], ["x"], YES_NO]]), r"11.json, question 0: not a question with answers"),
    ],
)
def test_a_damaged_report_is_named(downloads, report, message):
    downloads.text(f"{TOP}/test_qa_pairs/11.json", report)
    with pytest.raises(UserError, match=message):
        RadReStructTask().load(downloads.folder)


def test_without_the_list_of_images_one_line_says_what_it_is_for(downloads):
    (downloads.folder / TOP / "id_to_img_mapping_frontal_reports.json").unlink()
    with pytest.raises(UserError, match=r"reports.json cannot be read .*says which images a report has"):
        RadReStructTask().load(downloads.folder)
