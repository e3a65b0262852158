import pytest

from helpers.mask_sets import CASE, LIVER, PART, SPLEEN, write_mecovqa
from medcap.data.outputs import Outputs
from medcap.data.regions.run_length import decode
from medcap.errors import UserError
from medcap.evaluation.tasks.regions.boxes import BoxOptions
from medcap.evaluation.tasks.regions.mecovqa import MecovqaTask
from medcap.scoring.question import Answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mecovqa")
    write_mecovqa(folder, "test")
    return folder


@pytest.fixture(scope="module")
def benchmark(folder):
    return MecovqaTask().load(folder)


def pixels(region):
    return decode({"size": list(region.shape.size), "counts": region.shape.counts})


def test_the_three_parts_are_read(benchmark):
    rows = benchmark.rows
    assert [(row.id, row.text, row.references[0], row.answer_type) for row in rows if row.meta["task"] != "region"] == [
        ("complex/0", "Is it a CT?", "Yes", "CLOSED"),
        ("complex/1", "What is shown?", "A spine.", "OPEN"),
        ("grounding/0", "Segment the liver.", "<SEG>", ""),
        ("grounding/1", "Segment the spleen.", "It is <SEG>.", ""),
        ("grounding/2", "Segment the heart.", "<SEG>", ""),
    ]
    assert {key: rows[0].meta[key] for key in ("task", "modality", "patient", "question_type")} == {
        "task": "complex",
        "modality": "ct",
        "patient": "CTSpine1K--Case_1",
        "question_type": "complex",
    }
    assert benchmark.notices[0] == "questions: complex 2, region 1, grounding 3; no count is published"


def test_merged_masks_are_made_of_their_instances(benchmark):
    first, second, third = benchmark.rows[3:]
    assert (pixels(first.masks[0]) == (LIVER | PART)).all()
    assert (pixels(second.masks[0]) == SPLEEN).all()
    assert f"{CASE}--0009_merged.png does not exist" in third.problem
    assert "masks that were made of the instances of their class, as the release lacks them: 1" in benchmark.notices[1]


def test_a_region_is_a_part_of_its_question(benchmark):
    question = benchmark.rows[2]
    assert (question.id, question.references, question.answer_type) == ("region/0", ("The spleen.",), "OPEN")
    kinds = [part["type"] for part in question.messages[0].content]
    assert kinds == ["image", "text", "region", "text"]
    assert (pixels(question.messages[0].content[2]["content"]) == SPLEEN).all()
    assert question.problem is None


def test_each_part_has_its_own_rules(benchmark):
    plans = MecovqaTask().plan("direct")
    assert {plan.protocol.name: plan.tasks for plan in plans} == {
        "medplib": ("complex", "region"),
        "medplib_seg": ("grounding",),
        "masks": ("grounding",),
    }
    answers = [Answer(row, row.references[0], Outputs(None, row.masks)) for row in benchmark.rows]
    words, published, strict = (plan.score(answers) for plan in plans)
    assert (words.counts["n"], published.counts["n"], strict.counts["n"]) == (3, 3, 3)
    assert words.scores["closed.accuracy"] == 1.0
    assert published.scores["miou"] == pytest.approx(2 / 3)
    assert strict.scores["mean_dice"] == pytest.approx(2 / 3)


def test_parts_can_be_chosen(folder):
    options = BoxOptions(subtasks="grounding")
    assert {row.meta["task"] for row in MecovqaTask().load(folder, options).rows} == {"grounding"}
    assert [plan.protocol.name for plan in MecovqaTask().plan("direct", None, options)] == ["medplib_seg", "masks"]
    with pytest.raises(UserError, match="there is no 'dense'"):
        MecovqaTask().load(folder, BoxOptions(subtasks="dense"))
