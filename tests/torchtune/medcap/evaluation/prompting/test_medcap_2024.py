import json
from dataclasses import replace
from pathlib import Path

import pytest
from torchtune.data import Message

from helpers.plain_medcap import plain_no_cond_desc
from helpers.recorded_engine import RecordedEngine, question_row, turns_of
from helpers.tiny_generation import tiny_generator, write_images
from medcap.errors import UserError
from medcap.evaluation.answering import Engine, PredictionStore
from medcap.evaluation.controls import no_image, shuffled_images
from medcap.evaluation.prompting.medcap_2024 import MODES, MedcapMode
from medcap.evaluation.prompting.options import MappedOption
from medcap.generation.prompt import user_message
from medcap.generation.request import Sampling
from medcap.scoring.question import Question

QUESTION = "Is there evidence of an aortic aneurysm?"
CHEST = Path("chest.png")
SHOWN = ("user", [CHEST])
NOT_SHOWN = ("user", ["Describe the image."])
ASKED = ("user", [QUESTION])
TO_ANSWER = ("user", [f"Describe the image to answer the question: {QUESTION}"])

DESCRIPTION = [SHOWN]
CONDITIONAL = [SHOWN, ("assistant", ["..."]), TO_ANSWER]
STAGES = {
    "no_cond_desc": [DESCRIPTION, [SHOWN, ("assistant", ["a heart"]), ASKED]],
    "no_cond_desc_no_image": [DESCRIPTION, [NOT_SHOWN, ("assistant", ["a heart"]), ASKED]],
    "cond_desc": [CONDITIONAL, [SHOWN, ("assistant", ["a heart"]), ASKED]],
    "cond_desc_no_image": [CONDITIONAL, [NOT_SHOWN, ("assistant", ["a heart"]), ASKED]],
    "omit": [[SHOWN, ("assistant", ["..."]), ASKED]],
}
TWO_ON_ONE_IMAGE = [question_row("q1", QUESTION, "chest.png"), question_row("q2", "Is it large?", "chest.png")]


def store(folder, **options):
    return PredictionStore(folder, {"checkpoint": "abc"}, **options)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_mode_has_its_stages():
    assert set(STAGES) == set(MODES)


@pytest.mark.parametrize("mode", STAGES)
def test_message_sequences_of_both_stages(mode, tmp_path):
    model = RecordedEngine(lambda request: "no" if len(model.requests) == len(STAGES[mode]) else "a heart")
    (entry,) = MedcapMode(mode).ask(TWO_ON_ONE_IMAGE[:1], model.engine(), store(tmp_path))
    assert [turns_of(request) for request in model.requests] == STAGES[mode]
    assert (entry["prediction"], entry["reference"], entry["error"]) == ("no", "yes", None)
    assert entry["description"] == ("..." if mode == "omit" else "a heart")
    assert turns_of(MedcapMode(mode).last_request(TWO_ON_ONE_IMAGE[0], entry)) == STAGES[mode][-1]


@pytest.mark.parametrize(
    ("mode", "ids"),
    [
        ("no_cond_desc", ["chest.png", "q1", "q2"]),
        ("no_cond_desc_no_image", ["chest.png", "q1", "q2"]),
        ("cond_desc", ["q1", "q2", "q1", "q2"]),
        ("cond_desc_no_image", ["q1", "q2", "q1", "q2"]),
        ("omit", ["q1", "q2"]),
    ],
)
def test_two_questions_on_one_image_take_the_published_number_of_calls(mode, ids, tmp_path):
    model = RecordedEngine()
    MedcapMode(mode).ask(TWO_ON_ONE_IMAGE, model.engine(), store(tmp_path))
    assert model.ids == ids


class CountingChat:
    """Gives prompts the token counts that Llama 3's tokenizer gives medcap 2024's, and fewer to the model's own."""

    image_token_id, vocab_size = 118075, 128256

    def __init__(self):
        self.tokenizer = self

    def prompt(self, messages):
        self.tokens = [0] * 100
        return self

    def encode(self, text):
        if text == QUESTION:
            return [0] * 14
        if text == "Is it large?":
            return [0] * 7
        return [0] * (192 if QUESTION in text else 130)


@pytest.mark.parametrize(
    ("mode", "max_new_tokens", "limits"),
    [
        ("no_cond_desc", 200, [200, 50]),
        ("no_cond_desc", 500, [351, 50]),
        ("no_cond_desc_no_image", 500, [351, 50]),
        ("cond_desc", 500, [289, 50]),
        ("cond_desc_no_image", 20, [20, 20]),
        ("omit", 500, [50]),
        ("omit", 20, [20]),
    ],
)
def test_published_token_limits(mode, max_new_tokens, limits, tmp_path):
    model = RecordedEngine()
    engine = model.engine(tokenizer=CountingChat(), max_seq_len=500, max_new_tokens=max_new_tokens)
    MedcapMode(mode).ask(TWO_ON_ONE_IMAGE[:1], engine, store(tmp_path))
    assert [request.max_new_tokens for request in model.requests] == limits


def test_the_first_question_about_an_image_limits_its_description(tmp_path):
    engine_options = {"tokenizer": CountingChat(), "max_seq_len": 500, "max_new_tokens": 500}
    for rows, limit in ((TWO_ON_ONE_IMAGE, 351), (TWO_ON_ONE_IMAGE[::-1], 358)):
        model = RecordedEngine()
        MedcapMode("no_cond_desc").ask(rows, model.engine(**engine_options), store(tmp_path / str(limit)))
        assert [request.max_new_tokens for request in model.requests] == [limit, 50, 50]


def test_descriptions_are_kept_and_not_asked_for_again(tmp_path):
    method = MedcapMode("no_cond_desc")
    method.ask(TWO_ON_ONE_IMAGE, RecordedEngine(lambda request: "a heart").engine(), store(tmp_path))
    (kept,) = lines(tmp_path / "descriptions.jsonl")
    assert (kept["question_id"], kept["prediction"]) == ("chest.png", "a heart")
    assert [line["description"] for line in lines(tmp_path / "predictions.jsonl")] == ["a heart", "a heart"]
    again = RecordedEngine()
    method.ask(TWO_ON_ONE_IMAGE, again.engine(), store(tmp_path))
    assert again.ids == []
    (tmp_path / "predictions.jsonl").unlink()
    method.ask(TWO_ON_ONE_IMAGE, again.engine(), store(tmp_path))
    assert again.ids == ["q1", "q2"]
    assert turns_of(again.requests[0])[1] == ("assistant", ["a heart"])


def test_descriptions_for_questions_are_kept_in_a_file_of_their_own(tmp_path):
    MedcapMode("cond_desc").ask(TWO_ON_ONE_IMAGE, RecordedEngine().engine(), store(tmp_path))
    assert [line["question_id"] for line in lines(tmp_path / "descriptions_for_questions.jsonl")] == ["q1", "q2"]
    assert not (tmp_path / "descriptions.jsonl").exists()


TWO_IMAGES = [
    question_row("q1", QUESTION, "chest.png"),
    question_row("q2", "Is it large?", "head.png"),
    question_row("q3", QUESTION, "head.png"),
]


@pytest.mark.parametrize("limits", [{}, {"tokenizer": CountingChat(), "max_seq_len": 500, "max_new_tokens": 500}])
def test_exchanged_images_take_the_descriptions_that_there_are(limits, tmp_path):
    method = MedcapMode("no_cond_desc")
    describe = RecordedEngine(lambda request: f"it is {request.id}")
    method.ask(TWO_IMAGES, describe.engine(**limits), store(tmp_path))
    control = RecordedEngine()
    exchanged = shuffled_images(TWO_IMAGES)
    method.ask(exchanged, control.engine(**limits), store(tmp_path, suffix="_shuffled_image"))
    assert control.ids == ["q1", "q2", "q3"]
    assert turns_of(control.requests[0])[:2] == [("user", [Path("head.png")]), ("assistant", ["it is head.png"])]
    assert turns_of(control.requests[2])[:2] == [("user", [CHEST]), ("assistant", ["it is chest.png"])]
    assert len(lines(tmp_path / "descriptions.jsonl")) == 2
    assert len(lines(tmp_path / "predictions_shuffled_image.jsonl")) == 3


def test_an_exchanged_image_is_described_again_for_its_question(tmp_path):
    method = MedcapMode("cond_desc")
    method.ask(TWO_IMAGES, RecordedEngine().engine(), store(tmp_path))
    control = RecordedEngine()
    method.ask(shuffled_images(TWO_IMAGES), control.engine(), store(tmp_path, suffix="_shuffled_image"))
    assert control.ids == ["q1", "q2", "q3"] * 2


@pytest.mark.parametrize("mode", MODES)
def test_without_an_image_nothing_was_said_about_it(mode, tmp_path):
    model = RecordedEngine()
    (entry, _) = MedcapMode(mode).ask(no_image(TWO_ON_ONE_IMAGE), model.engine(), store(tmp_path, suffix="_no_image"))
    assert model.ids == ["q1", "q2"]
    assert turns_of(model.requests[0]) == [NOT_SHOWN, ("assistant", ["..."]), ASKED]
    assert entry["description"] == "..."
    assert [path.name for path in sorted(tmp_path.glob("*.jsonl"))] == ["predictions_no_image.jsonl"]


def test_a_row_without_an_image_stands_next_to_rows_that_have_one(tmp_path):
    rows = [*TWO_ON_ONE_IMAGE, question_row("q3", "What is a lung?")]
    model = RecordedEngine(lambda request: "a heart")
    entries = MedcapMode("no_cond_desc").ask(rows, model.engine(), store(tmp_path))
    assert model.ids == ["chest.png", "q1", "q2", "q3"]
    assert [entry["description"] for entry in entries] == ["a heart", "a heart", "..."]


@pytest.mark.parametrize("trouble", ["broken", "unanswered"])
def test_a_failed_description_makes_its_rows_failures(trouble, tmp_path):
    rows = [*TWO_IMAGES[1:], TWO_IMAGES[0]]
    model = RecordedEngine(lambda request: "fine", **{trouble: ["head.png"]})
    entries = MedcapMode("no_cond_desc").ask(rows, model.engine(), store(tmp_path))
    assert [entry["prediction"] for entry in entries] == ["", "", "fine"]
    assert [bool(entry["error"]) for entry in entries] == [True, True, False]
    assert [name for name in model.ids if name.startswith("q")] == ["q1"]
    repaired = RecordedEngine(lambda request: "fine")
    entries = MedcapMode("no_cond_desc").ask(rows, repaired.engine(), store(tmp_path))
    assert repaired.ids == ["head.png", "q2", "q3"]
    assert [entry["prediction"] for entry in entries] == ["fine"] * 3


def test_a_row_whose_image_is_missing_is_a_failure_and_is_not_described(tmp_path):
    rows = [replace(TWO_IMAGES[0], problem="chest.png does not exist"), *TWO_IMAGES[1:]]
    for mode in MODES:
        model = RecordedEngine()
        entries = MedcapMode(mode).ask(rows, model.engine(), store(tmp_path / mode))
        assert entries[0]["error"] == "chest.png does not exist"
        assert [entry["error"] for entry in entries[1:]] == [None, None]
        assert not {"q1", "chest.png"} & set(model.ids)


def test_no_description_at_all_stops_the_run(tmp_path):
    model = RecordedEngine(broken=["chest.png"])
    with pytest.raises(UserError, match=r"not one row can be answered; .*request chest.png is too long"):
        MedcapMode("no_cond_desc").ask(TWO_ON_ONE_IMAGE, model.engine(), store(tmp_path))


@pytest.fixture
def generator(tmp_path):
    write_images(tmp_path, 3)
    return tiny_generator(tmp_path, decoder_max_seq_len=700, batch_size=4)


def engine_of(generator, max_new_tokens):
    return Engine(generator, Sampling(max_new_tokens=max_new_tokens))


# The tiny tokenizer spells most words, so medcap 2024's limits leave a description no room within 240 tokens.
@pytest.mark.slow
@pytest.mark.parametrize(("max_new_tokens", "max_seq_len"), [(6, 700), (600, 275), (600, 240)])
def test_answers_equal_one_call_after_the_other(generator, tmp_path, max_new_tokens, max_seq_len):
    generator.max_seq_len = max_seq_len
    questions = ["Is there a lung?", "What shows the left chest?", "Is there one large square?"]
    options = (("Yes", "No"), ("left lung", "right lung", "no lung", "two lungs"))
    rows = [
        question_row(f"{position}-{image}", question, f"{image}.png", options=options[(position + image) % 2])
        for image in range(3)
        for position, question in enumerate(questions[: 1 + image])
    ]
    method = MappedOption(MedcapMode("no_cond_desc"))
    mapped = method.ask(rows, engine_of(generator, max_new_tokens), store(tmp_path / "out"))
    answers = method.free.ask(rows, engine_of(generator, max_new_tokens), store(tmp_path / "out"))
    ours = [
        (answer["description"], answer["prediction"], letter["prediction"])
        for answer, letter in zip(answers, mapped, strict=True)
    ]
    assert ours == plain_no_cond_desc(generator, rows, max_new_tokens)
    assert {letter["error"] for letter in mapped} == {None}
    assert len(set(ours)) > 3


def test_a_question_that_cannot_be_asked_does_not_stop_the_others(generator, tmp_path):
    rows = [question_row("bad", "Is \ufdd0 there?", "0.png"), question_row("good", "Is there a lung?", "1.png")]
    for mode in ("no_cond_desc", "cond_desc"):
        bad, good = MedcapMode(mode).ask(rows, engine_of(generator, 4), store(tmp_path / mode))
        assert bad["error"]
        assert good["error"] is None


def test_all_images_of_a_conversation_are_described_and_shown(tmp_path):
    earlier = [user_message(["1.png", "2.png"], "What is it?"), Message(role="assistant", content="a lung")]
    messages = [*earlier, user_message("3.png", "And here?")]
    rows = [Question("q1", messages, ("x",)), Question("q2", messages[:1], ("x",))]
    model = RecordedEngine(lambda request: "two lungs")
    MedcapMode("no_cond_desc").ask(rows, model.engine(), store(tmp_path))
    all_three, both = [[Path(f"{number}.png") for number in range(1, count + 1)] for count in (3, 2)]
    # The same first image, but not the same images: each has its own description.
    assert [turns_of(request)[0] for request in model.requests] == [
        ("user", all_three),
        ("user", both),
        ("user", all_three),
        ("user", both),
    ]
    assert turns_of(model.requests[2])[1:] == [("assistant", ["two lungs"]), ("user", ["And here?"])]
    assert [line["question_id"] for line in lines(tmp_path / "descriptions.jsonl")] == [
        "1.png\n2.png\n3.png",
        "1.png\n2.png",
    ]
