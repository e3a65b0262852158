import base64
from pathlib import Path

import pandas
import pytest

from helpers.downloads import picture
from medcap.errors import UserError
from medcap.evaluation.tasks.base import LoadOptions
from medcap.evaluation.tasks.choices.gmai_mmbench import GmaiMmBenchTask


def row(index, **changes):
    fields = {
        "index": index,
        "image": base64.b64encode(picture()).decode(),
        "question": 'What does "this"\nimage show?',
        "A": "Cyst",
        "B": "Polyp",
        "C": "None",
        "D": "N/A",
        "E": None,
        "answer": "B",
        "category": "Polyp.",
        "clinical VQA task": "Disease Diagnosis",
        "department": "Gastroenterology",
        "perceptual granularity": "Image Level",
        "modality": "Endoscopy",
    }
    return fields | changes


def load(tmp_path, rows, **options):
    path = tmp_path / "datasets" / "GMAI-MMBench" / "GMAI_mm_bench_VAL.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pandas.DataFrame(rows).to_csv(path, sep="\t", index=False)
    return GmaiMmBenchTask().load(tmp_path / "datasets", LoadOptions(work_folder=tmp_path / "work", **options))


def test_the_table_is_read_as_pandas_wrote_it(tmp_path):
    benchmark = load(tmp_path, [row(17), row(18, E="Nothing of these", answer="E")])
    first, second = benchmark.rows
    assert (first.id, first.text) == ("17", 'What does "this"\nimage show?')
    assert (first.options, first.references, first.columns) == (("Cyst", "Polyp"), ("Polyp",), ())
    assert Path(first.image.path).read_bytes() == picture()
    assert first.meta == {
        "modality": "Endoscopy",
        "question_type": "Disease Diagnosis",
        "department": "Gastroenterology",
        "granularity": "Image Level",
    }
    assert (second.columns, second.references) == (("Cyst", "Polyp", "", "", "Nothing of these"), ("Nothing of these",))
    assert benchmark.notices == ["the answers of the test part are withheld: this is validation"]


def test_a_letter_that_is_not_given_is_that_of_the_category(tmp_path):
    rows = [row(1, answer=None), row(2, answer=None, category="Ulcer"), row(3, answer="D")]
    benchmark = load(tmp_path, rows)
    assert [question.references[0] for question in benchmark.rows] == [
        "Polyp",
        "(option Ulcer, which the question does not have)",
        "(option D, which the question does not have)",
    ]
    assert "2 of 3 rows have an answer that is not among their options" in benchmark.notices[1]


def test_bad_images_are_named_and_counted(tmp_path):
    rows = [row(1), row(2, image="17"), row(3, image="§" * 80), row(4, image=None)]
    benchmark = load(tmp_path, rows)
    assert [question.problem for question in benchmark.rows] == [
        None,
        "its image is given by another row's index (17), which is not read",
        "its image is not base64 (string argument should contain only ASCII characters)",
        "the file holds no image for it",
    ]
    assert "3 of 4 rows cannot be asked and count as failures; the first one, 2" in benchmark.notices[1]


def test_a_row_that_is_cut_and_a_column_that_lacks_are_named(tmp_path):
    load(tmp_path, [row(1)])
    path = tmp_path / "datasets" / "GMAI-MMBench" / "GMAI_mm_bench_VAL.tsv"
    path.write_text(path.read_text(encoding="utf-8") + "2\tabc\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"VAL.tsv, line 4: not as many fields as the heading"):
        GmaiMmBenchTask().load(path, LoadOptions(work_folder=tmp_path / "work"))
    with pytest.raises(UserError, match="has no column 'image'"):
        load(tmp_path, [{"index": 1, "question": "q"}])
