import csv

import pytest
from PIL import Image

from medcap.data.images.reference import ImageRef
from medcap.errors import UserError
from medcap.evaluation.tasks.choices.pmcvqa import PmcVqaTask

FIRST = ("Figure_path", "Question", "Answer", "Choice A", "Choice B", "Choice C", "Choice D", "Answer_label")
SECOND = (
    "index",
    "Figure_path",
    "Caption",
    "Question",
    "Choice A",
    "Choice B",
    "Choice C",
    "Choice D",
    "Answer",
    "split",
)


def write(tmp_path, name, heading, rows, images="images"):
    folder = tmp_path / "PMC-VQA"
    (folder / images).mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(folder / images / "PMC1_F1.jpg")
    with (folder / name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(heading)
        writer.writerows(rows)
    return folder / name


def first(*choices, question="What is the uptake?", answer="Focal", label="B", image="PMC1_F1.jpg"):
    return (image, question, answer, *choices, label)


def test_choices_lose_their_letters_and_the_label_gives_the_answer(tmp_path):
    choices = ("A:Diffuse uptake", "B:Focal uptake", " C: No uptake: none ", " D:A:b ")
    path = write(tmp_path, "test_clean.csv", FIRST, [first(*choices, answer="Focal uptake pattern")])
    benchmark = PmcVqaTask().load(tmp_path)
    (row,) = benchmark.rows
    assert row.options == ("Diffuse uptake", "Focal uptake", "No uptake: none", "A:b")
    assert (row.id, row.references, row.text) == ("0", ("Focal uptake",), "What is the uptake?")
    assert (row.image, row.answer_type, row.problem) == (ImageRef.of(path.parent / "images" / "PMC1_F1.jpg"), "", None)
    assert (benchmark.files, benchmark.expected) == ([path], {"rows": 2_000})
    assert benchmark.notices == ["read 1 row; the published test set has 2,000"]


def test_version_2_has_the_letter_as_its_answer_and_its_figures_elsewhere(tmp_path):
    row = ("17", "PMC1_F1.jpg", "A caption, long.", " What? ", " A:MRI ", " B:CT ", " C:PET ", " D:None ", "D", "test")
    path = write(tmp_path, "test_2.csv", SECOND, [row], images="figures")
    benchmark = PmcVqaTask().load(tmp_path)
    (loaded,) = benchmark.rows
    assert (loaded.id, loaded.text, loaded.options) == ("17", "What?", ("MRI", "CT", "PET", "None"))
    assert loaded.references == ("None",)
    assert loaded.image == ImageRef.of(path.parent / "figures" / "PMC1_F1.jpg")
    assert benchmark.expected == {"rows": 33_430}


def test_the_verified_part_is_read_unless_another_file_is_named(tmp_path):
    other = write(tmp_path, "test.csv", FIRST, [first("A:a", "B:b", "C:c", "D:d")] * 2)
    write(tmp_path, "test_clean.csv", FIRST, [first("A:a", "B:b", "C:c", "D:d")])
    benchmark = PmcVqaTask().load(tmp_path)
    assert len(benchmark.rows) == 1
    assert benchmark.notices[1] == "test_clean.csv is read; name the file to read test.csv"
    named = PmcVqaTask().load(other)
    assert (len(named.rows), named.expected) == (2, {"rows": 50_000})
    assert named.notices == ["read 2 rows; the published test set has 50,000"]


def test_empty_choices_are_dropped_and_none_is_a_choice(tmp_path):
    rows = [
        first("A:None", "B:NA", "C:", "D:nan", label="A"),
        first("A:a", "B:b", "C:", "D:d", label="C", answer="c text"),
        first("A:a", "B:b", "C:c", "D:d", label="", answer="B:b"),
        first("A:a", "B:b", "C:c", "D:d", label="", answer=""),
        first("A:a", "B:b", "C:c", "D:d", image="lost.jpg"),
    ]
    write(tmp_path, "test_clean.csv", FIRST, rows)
    benchmark = PmcVqaTask().load(tmp_path)
    assert [(row.options, row.references) for row in benchmark.rows[:3]] == [
        (("None", "NA"), ("None",)),
        (("a", "b", "d"), ("c text",)),
        (("a", "b", "c", "d"), ("b",)),
    ]
    assert benchmark.rows[3].problem == "the file gives no answer"
    assert "lost.jpg does not exist" in benchmark.rows[4].problem
    assert benchmark.notices[1].startswith("2 of 5 rows cannot be asked")
    assert benchmark.notices[2].startswith("1 of 5 rows have an answer that is not among their options")


def test_a_damaged_or_foreign_file_is_named(tmp_path):
    path = write(tmp_path, "test_clean.csv", FIRST, [first("A:a", "B:b", "C:c", "D:d")])
    with path.open("a", encoding="utf-8") as file:
        file.write("PMC1_F1.jpg,cut o")
    with pytest.raises(UserError, match=r"test_clean.csv, line 3: .* download the file again"):
        PmcVqaTask().load(tmp_path)
    path.write_text("Figure_path,Question,Answer\na,b,c\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"test_clean.csv has no column 'Choice A' \(it has: Figure_path"):
        PmcVqaTask().load(tmp_path)
    write(tmp_path, "test_clean.csv", FIRST[:2] + FIRST[3:7], [("a", "b", "c", "d", "e", "f")])
    with pytest.raises(UserError, match="has no column 'Answer'"):
        PmcVqaTask().load(tmp_path)
