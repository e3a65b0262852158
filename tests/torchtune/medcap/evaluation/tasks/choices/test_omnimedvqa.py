import json

import pytest
from PIL import Image

from medcap.data.images.reference import ImageRef
from medcap.errors import UserError
from medcap.evaluation.tasks.choices.omnimedvqa import MODALITIES, OmniMedVqaOptions, OmniMedVqaTask


def record(number, **changes):
    made = {
        "dataset": "ACRIMA",
        "question_id": f"ACRIMA_{number:04d}",
        "question_type": "Modality Recognition",
        "question": "What imaging technique was employed?",
        "gt_answer": "Fundus imaging",
        "image_path": "Images/ACRIMA/a.png",
        "option_A": "PET scan",
        "option_B": "CT scan",
        "option_C": "Blood test",
        "option_D": "Fundus imaging",
        "modality_type": "Fundus Photography",
    } | changes
    return {key: value for key, value in made.items() if value is not ...}


def write(tmp_path, sets):
    root = tmp_path / "OmniMedVQA"
    (root / "Images" / "ACRIMA").mkdir(parents=True)
    Image.new("L", (4, 4)).save(root / "Images" / "ACRIMA" / "a.png")
    tree = root / "QA_information" / "Open-access"
    tree.mkdir(parents=True)
    for name, records in sets.items():
        (tree / f"{name}.json").write_text(json.dumps(records), encoding="utf-8")
    return tree


def load(tmp_path, **options):
    return OmniMedVqaTask().load(tmp_path, OmniMedVqaOptions(**options))


def test_records_are_read_in_the_order_of_the_file_names(tmp_path):
    write(tmp_path, {"b": [record(2)], "a": [record(0), record(1)]})
    benchmark = load(tmp_path)
    assert [row.id for row in benchmark.rows] == ["ACRIMA_0000", "ACRIMA_0001", "ACRIMA_0002"]
    row = benchmark.rows[0]
    image = ImageRef.of(tmp_path / "OmniMedVQA" / "Images" / "ACRIMA" / "a.png")
    assert (row.text, row.references) == ("What imaging technique was employed?", ("Fundus imaging",))
    assert row.options == ("PET scan", "CT scan", "Blood test", "Fundus imaging")
    assert (row.image, row.images, row.answer_type, row.problem) == (image, [image], "", None)
    assert row.groups == {"modality": "Fundus Photography", "question_type": "Modality Recognition"}
    assert row.meta["dataset"] == "ACRIMA"
    assert benchmark.notices == ["read 3 rows; the published test set has 88,996"]
    assert (benchmark.expected, benchmark.image_roots) == ({"rows": 88_996}, [tmp_path / "OmniMedVQA"])
    assert [path.name for path in benchmark.files] == ["a.json", "b.json"]


def test_the_folder_and_the_tree_may_be_named_and_a_file_too(tmp_path):
    tree = write(tmp_path, {"a": [record(0)], "b": [record(1)]})
    whole = load(tmp_path)
    for source in (tmp_path / "OmniMedVQA", tree.parent):
        other = OmniMedVqaTask().load(source)
        assert [row.image for row in other.rows] == [row.image for row in whole.rows]
        assert other.sha256 == whole.sha256
    one = OmniMedVqaTask().load(tree / "b.json")
    assert [row.id for row in one.rows] == ["ACRIMA_0001"]
    assert (one.rows[0].problem, one.expected, one.notices) == (None, None, [])


def test_the_misspelt_record_is_read_with_its_modality(tmp_path):
    write(tmp_path, {"Chest": [record(0, modality_type=..., modality="CT(Computed Tomography)")]})
    assert load(tmp_path).rows[0].meta["modality"] == "CT(Computed Tomography)"


@pytest.mark.parametrize(
    "changes",
    [
        {"option_C": ..., "option_D": ...},
        {"option_C": "", "option_D": ""},
        {"option_C": "nan", "option_D": None},
        {"option_C": float("nan"), "option_D": " "},
    ],
)
def test_a_two_option_question_has_two_options(tmp_path, changes):
    write(tmp_path, {"a": [record(0, option_A="Yes", option_B="No", gt_answer="No", **changes)]})
    assert load(tmp_path).rows[0].options == ("Yes", "No")


def test_an_option_called_none_is_an_option(tmp_path):
    write(tmp_path, {"a": [record(0, option_A="None", option_B="NA", gt_answer="None")]})
    row = load(tmp_path).rows[0]
    assert row.options[:2] == ("None", "NA")
    assert row.references == ("None",)


def test_the_eight_modalities_are_the_default_and_what_is_left_out_is_counted(tmp_path):
    modalities = [*MODALITIES, "Endoscopy", "Endoscopy", ...]
    write(tmp_path, {"a": [record(number, modality_type=name) for number, name in enumerate(modalities)]})
    benchmark = load(tmp_path)
    assert [row.meta["modality"] for row in benchmark.rows] == list(MODALITIES)
    assert (
        "3 of 11 rows are of other modalities and left out: (none) (1), Endoscopy (2); modalities=all reads them"
        in (benchmark.notices)
    )
    everything = load(tmp_path, modalities="all")
    assert (len(everything.rows), everything.expected) == (11, {"rows": 88_996})


def test_modalities_may_be_named_by_the_part_before_the_bracket(tmp_path):
    write(tmp_path, {"a": [record(number, modality_type=name) for number, name in enumerate(MODALITIES)]})
    for names in ("ct, OCT", ["CT(Computed Tomography)", "oct (optical coherence tomography"]):
        benchmark = load(tmp_path, modalities=names)
        assert [row.id for row in benchmark.rows] == ["ACRIMA_0000", "ACRIMA_0004"]
        assert benchmark.expected is None
    with pytest.raises(UserError, match=r"'PET' is not among those of the files: CT\(Computed Tomography\), Dermos"):
        load(tmp_path, modalities=["CT", "PET"])
    with pytest.raises(UserError, match="modalities is empty"):
        load(tmp_path, modalities="")


def test_files_without_any_of_the_eight_are_refused(tmp_path):
    write(tmp_path, {"a": [record(0, modality_type="Endoscopy")]})
    with pytest.raises(UserError, match=r"no row is of medcap 2024's eight .* Endoscopy \(1\); modalities=all"):
        load(tmp_path)


def test_an_answer_that_is_not_an_option_stays_and_is_counted(tmp_path):
    write(tmp_path, {"a": [record(0), record(1, gt_answer="Ultrasound")]})
    benchmark = load(tmp_path)
    assert (benchmark.rows[1].references, benchmark.rows[1].problem) == (("Ultrasound",), None)
    assert "1 of 2 rows have an answer that is not among their options" in benchmark.notices[1]
    assert benchmark.notices[1].endswith("ACRIMA_0001")


def test_a_missing_image_an_empty_answer_and_too_few_options_are_counted(tmp_path):
    records = [
        record(0),
        record(1, image_path="Images/lost.png"),
        record(2, gt_answer=""),
        record(3, option_A="", option_B="", option_C=""),
    ]
    write(tmp_path, {"a": records})
    benchmark = load(tmp_path)
    problems = [row.problem for row in benchmark.rows]
    assert problems[0] is problems[3] is None
    assert "Images/lost.png does not exist" in problems[1]
    assert problems[2] == "the file gives no answer"
    assert any(line.startswith("2 of 4 rows cannot be asked and count as failures") for line in benchmark.notices)
    assert "1 of 4 rows have fewer than two options; the first one: ACRIMA_0003" in benchmark.notices


def test_repeated_ids_are_distinguished(tmp_path):
    write(tmp_path, {"a": [record(0)], "b": [record(0)]})
    assert [row.id for row in load(tmp_path).rows] == ["ACRIMA_0000", "ACRIMA_0000#2"]


def test_chunks_take_every_row_once(tmp_path):
    write(tmp_path, {"a": [record(number) for number in range(7)]})
    whole = load(tmp_path, test_chunk=50, test_chunk_idx=-1)
    assert len(whole.rows) == len(load(tmp_path, test_chunk=-1, test_chunk_idx=3).rows) == 7
    parts = [load(tmp_path, test_chunk=3, test_chunk_idx=index) for index in range(3)]
    assert [len(part.rows) for part in parts] == [2, 2, 3]
    assert [row.id for part in parts for row in part.rows] == [row.id for row in whole.rows]
    assert parts[2].notices[-1] == "chunk 2 of 3: 3 of 7 rows"
    assert parts[2].sha256 == whole.sha256
    parts = [load(tmp_path, test_chunk=10, test_chunk_idx=index) for index in range(10)]
    assert sorted(len(part.rows) for part in parts) == [0] * 3 + [1] * 7
    with pytest.raises(UserError, match="test_chunk_idx=3 must be 0 to 2"):
        load(tmp_path, test_chunk=3, test_chunk_idx=3)


def test_a_damaged_file_is_named_with_the_line(tmp_path):
    tree = write(tmp_path, {"a": [record(0)]})
    (tree / "b.json").write_text(f'[\n{json.dumps(record(0))},\n{{"quest', encoding="utf-8")
    (tree / "._a.json").write_bytes(b"\0\5\x16\7")
    with pytest.raises(UserError, match=r"b.json, line 3: not valid JSON .*; is the file cut off"):
        load(tmp_path)


def test_files_of_something_else_are_refused(tmp_path):
    write(tmp_path, {"a": [{"question": "q", "answer": "a"}]})
    with pytest.raises(UserError, match=r"a.json is not a file of OmniMedVQA: its first row has no 'gt_answer'"):
        load(tmp_path)
