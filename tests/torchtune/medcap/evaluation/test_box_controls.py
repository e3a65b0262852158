import csv
import json

import pytest
from PIL import Image

from helpers.recorded_engine import fake_engine
from medcap.data.boxes.box import Box
from medcap.data.images.reference import ImageRef
from medcap.errors import UserError
from medcap.evaluation.box_prior import BoxPrior
from medcap.evaluation.control_runs import ALL_CONTROLS, chosen_controls
from medcap.evaluation.controls import exchanged_questions
from medcap.evaluation.phrases import keys_of
from medcap.evaluation.prompting import plan_protocols
from medcap.evaluation.runner import run_task
from medcap.evaluation.scored import RunOptions
from medcap.evaluation.tasks.base import Benchmark
from medcap.evaluation.tasks.questions.vqa import VqaTask
from medcap.evaluation.training_answers import TrainingAnswers, find_training_answers
from medcap.generation.prompt import user_message
from medcap.generation.request import Generation
from medcap.scoring.question import Question

RING, DISC = Box((0.0, 0.0, 0.2, 0.2)), Box((0.5, 0.5, 0.9, 0.9))
WRITTEN = {"ring": "<box>(0,0),(200,200)</box>", "disc": "<box>(500,500),(900,900)</box>"}


def question(name, image, phrase, boxes=None, words="", **meta):
    boxes = {"ring": (RING,), "disc": (DISC,)}[phrase] if boxes is None else boxes
    return Question(
        name,
        [user_message([ImageRef(image)], words or f"Where is the {phrase}?")],
        (WRITTEN.get(phrase, "none") if boxes else "none",),
        meta={"phrase": phrase, **meta},
        boxes=boxes,
        image_size=(100, 50),
    )


def asked(questions):
    return [None if one is None else one.text for one in questions]


def test_questions_about_one_image_rotate_between_its_objects():
    rows = [
        question("0", "a.png", "ring"),
        question("1", "a.png", "disc"),
        question("2", "a.png", "ring", words="Show the ring."),
        question("3", "b.png", "ring"),
        question("4", "c.png", "ring"),
        question("5", "c.png", "cross", boxes=()),
        question("6", "a.png", "disc", task="REG"),
    ]
    changed = exchanged_questions(rows)
    assert asked(changed) == ["Where is the disc?", "Where is the ring?", "Where is the disc?", None, None, None, None]
    assert (changed[0].id, changed[0].boxes, changed[0].images) == ("0", (RING,), [ImageRef("a.png")])
    assert rows[0].text == "Where is the ring?"


def test_two_wordings_of_one_question_are_not_two_objects():
    rows = [
        Question(str(i), [user_message([ImageRef("a.png")], words)], ("",), boxes=(RING,))
        for i, words in enumerate(["Where is the ring?", "Show me the ring."])
    ]
    with pytest.raises(UserError, match="no image has questions about two objects"):
        exchanged_questions(rows)


def test_what_names_the_object():
    assert keys_of("Where is the <ref>Left Lung</ref>?") == ["left lung", "where is the <ref>left lung</ref"]
    assert keys_of("Where  is it?", "Ring") == ["ring", "where is it"]


@pytest.fixture
def training(tmp_path):
    """Training rows in three forms: structured with <BOX>, pixels in the text, and an absent object."""

    def row(words, answer, **more):
        turns = [{"from": "human", "value": f"<image>\n{words}"}, {"from": "gpt", "value": answer}]
        return {"image": "a.png", "conversations": turns, **more}

    Image.new("L", (100, 50)).save(tmp_path / "a.png")
    rows = [
        row("Where is the ring?", "<BOX>", phrase="ring", boxes=[[0, 0, 20, 10]], image_size=[100, 50]),
        row("Where is the ring?", "It is at {<20><0><40><10>}.", phrase="ring"),
        row("Where is the cross?", "There is none.", phrase="cross"),
        row("Where is the <ref>disc</ref>?", "<ref>disc</ref><box>(500,500),(900,900)</box>"),
        row("Describe it.", "A lung."),
        row("Where is it?", "<BOX>", boxes=[[0, 0, 5]], image_size=[100, 50]),
        row("Where is it?", "<BOX>", boxes=[[0, 0, 5, 5]], image_size="big"),
        {
            "conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "<BOX>"}],
            "boxes": [[0, 0, 5, 5]],
        },
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_prior_is_the_mean_box_of_a_phrase(training):
    prior = BoxPrior(TrainingAnswers(((str(training), "auto"),)))
    assert prior.box(question("0", "x.png", "ring")).edges == pytest.approx((0.1, 0.0, 0.3, 0.2))
    assert prior.box(question("1", "x.png", "disc")).edges == pytest.approx(DISC.edges)
    assert prior.box(question("2", "x.png", "star", boxes=())).edges == pytest.approx((0.7 / 3, 0.5 / 3, 0.5, 1.3 / 3))
    assert prior.notices[0].startswith("prior_box: 2 training rows cannot be read; the first: 'boxes' holds [0, 0, 5]")
    training.write_text(training.read_text().splitlines()[4] + "\n")
    with pytest.raises(UserError, match=r"prior_source: no answer of .*train.jsonl holds a box"):
        BoxPrior(TrainingAnswers(((str(training), "auto"),)))


def test_the_training_answers_are_those_of_the_run_unless_a_file_is_named(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoint" / "step_1").mkdir(parents=True)
    (run / "config.yaml").write_text(
        "dataset:\n  conversation_style: llava\n  image_roots: [here]\n  sources:\n  - {source: a.json}\n"
        "  - {source: b.json, conversation_style: coloninst}\n"
    )
    found = find_training_answers(None, "auto", None, str(run / "checkpoint" / "step_1"))
    assert found == TrainingAnswers((("a.json", "llava"), ("b.json", "coloninst")), ["here"])
    named = find_training_answers("data/c.json", "auto", ["pictures"], str(run))
    assert named == TrainingAnswers((("data/c.json", "auto"),), ["data", ".", "pictures"])
    assert find_training_answers(None, "auto", None, None) is None
    assert find_training_answers(None, "auto", None, str(tmp_path)) is None


class Pointer:
    """A model that gives the box of the object that is asked for, whatever the image."""

    def __init__(self):
        self.asked = []

    def engine(self):
        return fake_engine(self.generate)

    def generate(self, requests, on_result):
        for index, request in enumerate(requests):
            words = request.messages[-1].content[-1]["content"]
            self.asked.append((request.id, words))
            text = next((box for name, box in WRITTEN.items() if name in words), "There is none.")
            on_result(index, Generation(text, [1], "stop"))


@pytest.fixture
def rows(tmp_path):
    for name in "abc":
        Image.new("L", (10, 5)).save(tmp_path / f"{name}.png")
    return [
        question("a ring", str(tmp_path / "a.png"), "ring", modality="CT"),
        question("a disc", str(tmp_path / "a.png"), "disc"),
        question("b ring", str(tmp_path / "b.png"), "ring"),
        question("b disc", str(tmp_path / "b.png"), "disc"),
        question("c ring", str(tmp_path / "c.png"), "ring"),
        question("c cross", str(tmp_path / "c.png"), "cross", boxes=()),
    ]


def run(rows, folder, model, protocols=("boxes",), controls=ALL_CONTROLS, **options):
    benchmark = Benchmark(rows, "rows", [], "0" * 64)
    options = RunOptions(folder, {"seed": 1}, controls=controls, **options)
    return run_task(VqaTask(), benchmark, plan_protocols(protocols), model.engine(), options)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_controls_of_boxes_beside_the_others(rows, training, tmp_path):
    model = Pointer()
    protocols = ("boxes", "bird_vg_strict", "exact")
    prior = TrainingAnswers(((str(training), "auto"),))
    result = run(rows, tmp_path / "out", model, protocols, prior=prior)
    folder = tmp_path / "out" / "vqa"
    assert (result["scores"]["mean_iou"], result["scores"]["false_positive_rate"]) == (1.0, 0.0)
    head = result["protocols"]["boxes"]
    assert (head["clusters"], head["present"], head["absent"]) == (3, 5, 1)
    assert list(result["controls"]) == ["shuffled_image", "no_image", "prior_box", "exchanged_question"]
    # This model never looks at the image.
    assert result["controls"]["no_image"]["scores"]["mean_iou"] == 1.0
    exchanged = result["controls"]["exchanged_question"]
    assert (exchanged["scores"]["mean_iou"], exchanged["own"]["scores"]["mean_iou"]) == (0.0, 1.0)
    assert (exchanged["n"], exchanged["left_out"], exchanged["fall"]["value"]) == (4, 2, 1.0)
    # The four rows are of two images: Wilson's interval of 2 of 2.
    assert exchanged["fall"]["low"] == pytest.approx(0.3424, abs=5e-5)
    prior = result["controls"]["prior_box"]
    assert prior["scores"]["mean_iou"] == pytest.approx((3 * (1 / 3) + 2) / 5)
    assert (prior["scores"]["false_positive_rate"], "own" in prior) == (1.0, False)
    assert any(
        "control exchanged_question: 4 of 6 rows, the others ask for no box or are alone on their image; boxes mean_iou"
        " of these rows, own and control: 1.0000, 0.0000" in notice
        for notice in result["notices"]
    )
    assert list(result["protocols"]["exact"]["controls"]) == ["shuffled_image", "no_image"]
    assert result["protocols"]["bird_vg_strict"]["controls"]["exchanged_question"]["scores"]["recall"] == 0.0
    first = lines(folder / "predictions_exchanged_question.jsonl")[0]
    assert (first["question_id"], first["question"], first["prediction"]) == (
        "a ring",
        "Where is the disc?",
        WRITTEN["disc"],
    )
    assert (first["reference_boxes"], first["phrase"]) == ([[0.0, 0.0, 20.0, 10.0]], "ring")
    told = lines(folder / "predictions_prior_box.jsonl")
    assert (told[0]["prediction"], told[0]["boxes"]) == ("<box>(100,0),(300,200)</box>", [[10.0, 0.0, 30.0, 10.0]])
    assert len(told) == 6
    with (tmp_path / "out" / "results.csv").open() as file:
        (row,) = csv.DictReader(file)
    names = ("exchanged_question", "exchanged_question_own", "prior_box")
    assert [row[f"boxes.mean_iou.{name}"] for name in names[:2]] == ["0.0", "1.0"]
    assert float(row["boxes.mean_iou.prior_box"]) == pytest.approx(0.6)
    html = (folder / "report.html").read_text(encoding="utf-8")
    for words in ("question exchanged", "mean box of training", "of these rows: 100.0 %"):
        assert words in html
    # Nothing is asked again, and the prior asks no model.
    asked = len(model.asked)
    assert asked == 6 + 6 + 6 + 4
    assert run(rows, tmp_path / "out", model, protocols, prior=TrainingAnswers(((str(training), "auto"),))) == result
    assert len(model.asked) == asked


def test_scores_of_image_controls_keep_the_modality_of_the_own_image(tmp_path):
    """Med-GRIT's modality is in the image's name, which the controls exchange or take away."""
    rows = []
    for name in ("ct_1.png", "mr_1.png"):
        Image.new("L", (4, 4)).save(tmp_path / name)
        rows.append(question(name, str(tmp_path / name), "ring"))
    result = run(rows, tmp_path / "out", Pointer(), ("bird_vg",), ("shuffled_image", "no_image"))
    assert result["scores"]["recall"] == pytest.approx(2 / 8)
    for control in ("shuffled_image", "no_image"):
        assert result["controls"][control]["scores"]["recall"] == pytest.approx(2 / 8)


def test_controls_that_do_not_fit_are_notices(rows, tmp_path):
    result = run(rows, tmp_path / "out", Pointer(), ("exact",), ("exchanged_question",))
    assert result["notices"] == [
        "control exchanged_question was not run: none of the protocols compares boxes or masks"
    ]
    result = run(rows, tmp_path / "other", Pointer(), ("boxes",), ("prior_box",))
    assert (
        "control prior_box was not run: the training answers are not known: set prior_source=FILE"
        in (result["notices"])
    )
    assert (result["controls"], (tmp_path / "other/vqa/predictions_prior_box.jsonl").exists()) == ({}, False)


def test_true_takes_the_controls_that_fit(rows):
    boxes, exact = plan_protocols(["boxes", "exact"]), plan_protocols(["exact"])
    assert chosen_controls(True, rows, boxes) == ["shuffled_image", "no_image", "prior_box", "exchanged_question"]
    assert chosen_controls(True, rows, exact) == ["shuffled_image", "no_image"]
    assert chosen_controls(False, rows, boxes) == []
    assert chosen_controls(["prior_box"], rows, exact) == ["prior_box"]
