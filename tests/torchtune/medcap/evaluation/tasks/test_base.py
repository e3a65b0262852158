import dataclasses
from pathlib import Path

import pytest
from torchtune.data import Message

from helpers.answers import make_answer
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.errors import UserError
from medcap.evaluation.generate_keys import GenerateConfiguration
from medcap.evaluation.prompting import VQA_TYPES
from medcap.evaluation.tasks.base import (
    Benchmark,
    ImageFinder,
    LoadOptions,
    checked_rows,
    count_notices,
    fingerprint,
    image_reader,
    make_benchmark,
    take_chunk,
)
from medcap.evaluation.tasks.captions.caption import CaptionOptions
from medcap.evaluation.tasks.choices.omnimedvqa import OmniMedVqaOptions
from medcap.evaluation.tasks.registry import TASKS
from medcap.scoring.question import Question


def row(name, problem=None, **changes):
    return Question(name, [Message(role="user", content="What?")], ("a",), problem=problem, **changes)


def test_rows_of_one_id_are_distinguished():
    assert [r.id for r in checked_rows([row("a"), row("b"), row("a"), row("a")], "f")] == ["a", "b", "a#2", "a#3"]
    assert [r.id for r in checked_rows([row("a"), row("a#2"), row("a")], "f")] == ["a", "a#2", "a#3"]


def test_a_file_in_which_nothing_can_be_asked_is_refused_before_anything_is_loaded():
    with pytest.raises(UserError, match=r"data.json: none of the 2 rows .* first one: no x.png"):
        checked_rows([row("a", "no x.png"), row("b", "no y.png")], "data.json")
    with pytest.raises(UserError, match="holds no rows"):
        checked_rows([], "data.json")


def test_a_missing_image_or_one_outside_the_roots_is_remembered_not_raised(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret.png").touch()
    find = ImageFinder(ImageReader([tmp_path / "inside"]))
    assert find("../secret.png") == Path("../secret.png")
    assert "outside the allowed folders" in find.problem
    find.problem = None
    find("none.png")
    assert "does not exist" in find.problem


def test_the_first_name_that_exists_is_taken_and_the_problem_is_that_of_the_last_call(tmp_path):
    (tmp_path / "a.png").touch()
    find = ImageFinder(ImageReader([tmp_path]))
    for _ in range(2):  # the second time from memory
        assert find.first_of("a", "a.jpg", "a.png") == ImageRef.of(tmp_path / "a.png")
        assert find.problem is None
        assert find.first_of("b.jpg", "b.png") == ImageRef("b.jpg")
        assert find.problem.startswith("image b.jpg does not exist")


def test_images_are_in_the_file_s_folder_or_the_working_directory_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert image_reader(tmp_path / "data" / "a.json").roots == [tmp_path / "data", tmp_path]
    assert image_reader(tmp_path / "data" / "a.json", [tmp_path]).roots == [tmp_path]


def test_a_fingerprint_goes_by_names_and_contents_and_neither_by_order_nor_by_place(tmp_path):
    digests = []
    for location, first, second in (("x", "1", "2"), ("y", "1", "2"), ("z", "2", "1")):
        folder = tmp_path / location / "sub"
        folder.mkdir(parents=True)
        (folder / "a").write_text(first)
        (folder / "b").write_text(second)
        files = [folder / "a", folder / "b"]
        digests.append(fingerprint(files, tmp_path / location))
        assert fingerprint(files[::-1], tmp_path / location) == digests[-1]
    assert digests[0] == digests[1] != digests[2]
    # printf of "name NUL sha256sum newline" for both files, through sha256sum.
    assert digests[0] == "337bbcd97e5e659ffb2a08dc27fbd72ba8841d564eb9256df8c496511f271133"
    with pytest.raises(UserError, match="cannot be read"):
        fingerprint([tmp_path / "none"], tmp_path)


def test_counts_that_differ_from_the_published_ones_are_reported():
    published = {"rows": 451, "OPEN": 179}
    assert count_notices({"rows": 451, "OPEN": 179}, published) == []
    assert count_notices({"rows": 120, "OPEN": 1}, published) == ["read 120 rows; the published test set has 451"]
    assert count_notices({"rows": 451, "OPEN": 3}, published) == [
        "read 451 rows as published, but 3 OPEN (published: 179)"
    ]
    assert count_notices({"rows": 7}, None) == []


def test_failures_and_answers_outside_the_options_are_counted_in_notices(tmp_path):
    rows = [
        row("good", options=("a", "b")),
        row("outside", options=("b", "c")),
        row("lost", "image x.png does not exist", options=("b", "c")),
        row("open"),
    ]
    (tmp_path / "f").touch()
    benchmark = make_benchmark(rows, tmp_path / "f", [tmp_path / "f"], tmp_path, roots=[tmp_path])
    assert benchmark.rows == rows
    assert benchmark.notices == [
        "1 of 4 rows cannot be asked and count as failures; the first one, lost: image x.png does not exist",
        "1 of 4 rows have an answer that is not among their options and count as wrong wherever an option is chosen;"
        " the first one: outside",
    ]
    assert (benchmark.source, benchmark.expected, benchmark.image_roots) == (str(tmp_path / "f"), None, [tmp_path])


@pytest.mark.parametrize("count", [0, 1, 2, 7, 50, 101])
@pytest.mark.parametrize("chunk", [1, 2, 3, 50, 200])
def test_every_row_is_in_exactly_one_chunk_of_nearly_equal_size(count, chunk):
    parts = [take_chunk(list(range(count)), chunk, index) for index in range(chunk)]
    assert [item for part in parts for item in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_no_chunk_is_everything():
    for chunk, index in ((None, None), (50, -1), (-1, 0), (50, None), (None, 3)):
        assert take_chunk([1, 2, 3], chunk, index) == [1, 2, 3]


@pytest.mark.parametrize(("chunk", "index"), [(0, 0), (-2, 0), (5, 5), (5, -2)])
def test_a_chunk_that_is_none_is_refused(chunk, index):
    with pytest.raises(UserError, match=r"test_chunk.*-1 for everything"):
        take_chunk([1, 2, 3], chunk, index)


def names(task, vqa_type):
    return [plan.protocol.name for plan in TASKS[task]().plan(vqa_type)]


@pytest.mark.parametrize("task", ["omnimedvqa", "pmcvqa"])
def test_medcaps_modes_bring_medcaps_mapping_where_there_are_options(task):
    assert names(task, "no_cond_desc") == ["medcap_option", "medcap_letter", "option_text", "omnimedvqa_qa"]
    assert names(task, "direct") == ["option_text", "omnimedvqa_qa"]


def test_medcaps_modes_bring_nothing_else():
    assert names("vqarad", "no_cond_desc") == ["exact", "llava_med", "llava_med_strict"]
    assert [plan.method.name for plan in TASKS["vqarad"]().plan("omit", ["exact"])] == ["omit"]


def test_captions_are_asked_for_directly_whatever_the_vqa_type():
    assert [plan.method.name for plan in TASKS["caption"]().plan("omit", ["exact", "coco"])] == ["direct", "direct"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("vqa_type", VQA_TYPES)
def test_the_protocols_of_every_task_can_be_planned(task, vqa_type):
    assert set(TASKS[task].protocols) <= set(names(task, vqa_type))


def test_options_are_taken_from_the_recipe_keys_of_their_names():
    keys = {"image_roots": ["a"], "modalities": "all", "test_chunk": 3, "dataset_conversation_style": "sharegpt"}
    assert CaptionOptions.of_keys(keys) == CaptionOptions(["a"], dataset_conversation_style="sharegpt")
    assert OmniMedVqaOptions.of_keys(keys) == OmniMedVqaOptions(["a"], modalities="all", test_chunk=3)
    assert TASKS["slake"].Options.of_keys(keys) == LoadOptions(["a"])


@pytest.mark.parametrize("task", TASKS)
def test_every_option_of_a_task_is_a_key_of_the_recipe(task):
    options = TASKS[task].Options()
    for option in dataclasses.fields(options):
        if option.name != "work_folder":
            assert GenerateConfiguration.model_fields[option.name].default == getattr(options, option.name)


def test_a_part_of_omnimedvqa_has_a_result_folder_of_its_own():
    task = TASKS["omnimedvqa"]()
    assert task.folder(OmniMedVqaOptions(test_chunk=3, test_chunk_idx=1)) == "omnimedvqa-1_3"
    assert task.folder(OmniMedVqaOptions(test_chunk=3)) == task.folder(OmniMedVqaOptions()) == "omnimedvqa"
    assert task.folder(OmniMedVqaOptions(test_chunk=-1, test_chunk_idx=1)) == "omnimedvqa"


def test_the_first_rows_alone_are_said_in_the_right_number():
    benchmark = Benchmark([make_answer(str(n), "", ("a",), "").question for n in range(60)], "x", [], "", notices=["n"])
    assert benchmark.first(None) is benchmark and benchmark.first(60) is benchmark
    one = benchmark.first(1)
    assert [row.id for row in one.rows] == ["0"]
    assert one.notices == ["n", "only the first row was asked, of 60 (limit=1)"]
    assert benchmark.first(2).notices[1] == "only the first 2 rows were asked, of 60 (limit=2)"
