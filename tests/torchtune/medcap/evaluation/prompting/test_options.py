import json

import pytest
from torchtune.data import Message

from helpers.recorded_engine import RecordedEngine, fake_engine, turns_of
from medcap.errors import UserError
from medcap.evaluation.answering import PredictionStore
from medcap.evaluation.prompting.direct import Direct
from medcap.evaluation.prompting.medcap_2024 import MedcapMode
from medcap.evaluation.prompting.options import LetteredOptions, ListedOptions, MappedOption, with_words
from medcap.generation.prompt import user_message
from medcap.generation.request import Generation
from medcap.scoring.question import Question

FOUR = ("nodule", "ring", "cross", "cluster")


def make_row(name="q0", options=FOUR):
    return Question(
        name, [user_message("a.png", "What is it?")], (options[0] if options else "x",), options=tuple(options)
    )


class Model:
    """Answers from a list, and keeps what it was asked."""

    def __init__(self, answers):
        self.answers = list(answers)
        self.asked = []

    def generate(self, requests, on_result):
        for index, request in enumerate(requests):
            self.asked.append(request)
            answer = self.answers.pop(0)
            on_result(index, Generation(answer or "", [1], "stop" if answer else "error", "" if answer else "no"))


def words(request):
    return "".join(part["content"] for part in request.messages[-1].content if part["type"] == "text")


@pytest.mark.parametrize(
    ("options", "number"),
    [(("yes", "no"), "2 candidate answers:['yes', 'no']"), (FOUR, f"4 candidate answers:{list(FOUR)}")],
)
def test_the_official_prompt_lists_the_options(tmp_path, options, number):
    model = Model(["nodule"])
    (entry,) = ListedOptions().ask(
        [make_row(options=options)], fake_engine(model.generate), PredictionStore(tmp_path, {})
    )
    assert words(model.asked[0]) == (
        f"\nWhat is it?Here are {number} Only return what you think is the correct answer from the candidate answers,"
        " do not return any other irrelevant text!"
    )
    assert [part["type"] for part in model.asked[0].messages[-1].content] == ["image", "text"]
    assert entry["prediction"] == "nodule"


def test_options_by_letter(tmp_path):
    model = Model(["B"])
    rows = [make_row(options=("yes", "no")), make_row("q1", ())]
    entries = LetteredOptions().ask(rows, fake_engine(model.generate), PredictionStore(tmp_path, {}))
    assert [words(request) for request in model.asked] == [
        "\nWhat is it?\nA. yes\nB. no\nAnswer with the option's letter from the given choices directly."
    ]
    assert [entry["prediction"] for entry in entries] == ["B", ""]
    assert entries[1]["error"] == "the row has no options"
    assert (tmp_path / "predictions_lettered_options.jsonl").is_file()


@pytest.mark.parametrize(
    ("options", "lines"),
    [(("yes", "no"), "A. yes\nB. no"), (FOUR, "A. nodule\nB. ring\nC. cross\nD. cluster")],
)
def test_a_free_answer_is_mapped_without_the_image(tmp_path, options, lines):
    model = Model(["a round thing", "A"])
    method = MappedOption(Direct())
    (entry,) = method.ask([make_row(options=options)], fake_engine(model.generate), PredictionStore(tmp_path, {}))
    assert words(model.asked[1]) == (
        f"Question: What is it?\nOur answer: a round thing\n{lines}\n\nBased on the question and our answer, respond"
        " with only the letter of the correct option from the given choices."
    )
    assert all(part["type"] == "text" for part in model.asked[1].messages[-1].content)
    assert (model.asked[1].max_new_tokens, entry["prediction"], entry["free_answer"]) == (20, "A", "a round thing")
    free = json.loads((tmp_path / "predictions.jsonl").read_text())
    assert free["prediction"] == "a round thing"


def test_reasoning_is_not_mapped(tmp_path):
    model = Model(["<think>a cross?</think>a round thing", "<think>a cross", "A"])
    rows = [make_row("q0"), make_row("q1")]
    mapped, failed = MappedOption(Direct()).ask(rows, fake_engine(model.generate), PredictionStore(tmp_path, {}))
    assert "Our answer: a round thing\n" in words(model.asked[2])
    assert mapped["free_answer"] == "<think>a cross?</think>a round thing"
    assert (len(model.asked), failed["error"]) == (3, "there is no free answer to map: it ends within its reasoning")


def test_what_was_answered_is_not_asked_again(tmp_path):
    rows = [make_row("q0"), make_row("q1")]
    MappedOption(Direct()).ask(rows, fake_engine(Model(["x", "y", "A", "B"]).generate), PredictionStore(tmp_path, {}))
    again = Model([])
    entries = MappedOption(Direct()).ask(rows, fake_engine(again.generate), PredictionStore(tmp_path, {}))
    assert ([entry["prediction"] for entry in entries], again.asked) == (["A", "B"], [])


def test_without_a_free_answer_there_is_nothing_to_map(tmp_path):
    model = Model([None, "ring", "B"])
    rows = [make_row("q0"), make_row("q1")]
    failed, mapped = MappedOption(Direct()).ask(rows, fake_engine(model.generate), PredictionStore(tmp_path, {}))
    assert (failed["prediction"], failed["error"], mapped["prediction"]) == (
        "",
        "there is no free answer to map: no",
        "B",
    )
    assert len(model.asked) == 3


def test_a_row_without_options_is_a_failure_of_its_own(tmp_path):
    model = Model(["ring"])
    rows = [make_row("q0", ()), make_row("q1")]
    bare, asked = ListedOptions().ask(rows, fake_engine(model.generate), PredictionStore(tmp_path, {}))
    assert (bare["error"], asked["error"], len(model.asked)) == ("the row has no options", None, 1)


def test_a_description_stands_next_to_the_option_that_came_of_it(tmp_path):
    model = RecordedEngine(lambda request: {"chest.png": "a heart", "q0": "a ring"}.get(request.id, "B"))
    row = Question("q0", [user_message("chest.png", "What is it?")], ("ring",), FOUR)
    (entry,) = MappedOption(MedcapMode("no_cond_desc")).ask([row], model.engine(), PredictionStore(tmp_path, {}))
    assert (entry["description"], entry["free_answer"]) == ("a heart", "a ring")
    assert model.ids == ["chest.png", "q0", "q0"]
    assert turns_of(MedcapMode("no_cond_desc").last_request(row, entry)) == turns_of(model.requests[1])


def test_another_free_answer_is_mapped_again(tmp_path):
    rows = [make_row("q0"), make_row("q1")]
    MappedOption(Direct()).ask(rows, fake_engine(Model(["x", None, "A"]).generate), PredictionStore(tmp_path, {}))
    repaired = Model(["y", "B"])
    entries = MappedOption(Direct()).ask(rows, fake_engine(repaired.generate), PredictionStore(tmp_path, {}))
    assert [entry["prediction"] for entry in entries] == ["A", "B"]
    assert ["Our answer: y" in words(request) for request in repaired.asked] == [False, True]


def test_the_mapping_of_each_way_of_asking_has_its_own_settings(tmp_path):
    rows = [make_row("q0")]
    MappedOption(Direct()).ask(rows, RecordedEngine().engine(), PredictionStore(tmp_path, {}))
    (tmp_path / "predictions.jsonl").unlink()
    with pytest.raises(UserError, match='free: "direct" there, "omit" now'):
        MappedOption(MedcapMode("omit")).ask(rows, RecordedEngine().engine(), PredictionStore(tmp_path, {}))


def test_an_option_may_hold_braces_and_quotes(tmp_path):
    model = Model(["x"])
    options = ("{question}", 'it\'s "so"')
    ListedOptions().ask([make_row(options=options)], fake_engine(model.generate), PredictionStore(tmp_path, {}))
    assert "2 candidate answers:['{question}', 'it\\'s \"so\"'] Only" in words(model.asked[0])


def image(name):
    return {"type": "image", "content": name}


def said(text):
    return {"type": "text", "content": text}


def turn(*parts, role="user"):
    return Message(role=role, content=list(parts), masked=role == "user")


def contents(messages):
    return [(message.role, message.content) for message in messages]


def test_words_around_a_question_leave_all_of_its_images_in_their_places():
    parts = (image("a.png"), said("\nWhat is new in "), image("b.png"), said(" beside "), image("c.png"), said("? "))
    asked = with_words(Question("q", [turn(*parts)], ("x",)), "Question: ", "\nA. x")
    expected = [
        image("a.png"),
        said("\nQuestion: What is new in "),
        image("b.png"),
        said(" beside "),
        image("c.png"),
        said("?\nA. x"),
    ]
    assert contents(asked) == [("user", expected)]
    assert parts[1]["content"] == "\nWhat is new in "


def test_images_of_several_turns_stay_in_their_turns():
    earlier = [turn(image("a.png"), said("\nWhat is it?")), turn(said("a lung"), role="assistant")]
    question = Question("q", [*earlier, turn(said("And here?"), image("b.png"), image("c.png"))], ("x",), options=FOUR)
    asked = ListedOptions().last_request(question, {}).messages
    assert contents(asked[:2]) == contents(earlier)
    words, *images = asked[2].content
    assert words["content"].startswith("And here?Here are 4 candidate answers:['nodule'")
    assert images == [image("b.png"), image("c.png")]
    # A last turn without images gets none of the earlier ones.
    bare = Question("q", [*earlier, turn(said("Where?"))], ("x",))
    assert contents(with_words(bare, after=" Here."))[2] == ("user", [said("Where? Here.")])


def test_words_for_images_alone_begin_after_them():
    asked = with_words(Question("q", [turn(image("a.png"), image("b.png"))], ("x",)), after="Which?")
    assert contents(asked) == [("user", [image("a.png"), image("b.png"), said("\nWhich?")])]


@pytest.mark.parametrize("shown", ["chest.png", None])
def test_words_around_a_question_read_as_training_records_do(shown):
    question = Question("q", [user_message(shown, "Where?")], ("x",))
    (asked,) = with_words(question, "Question: ", "\nHere.")
    assert asked.content == user_message(shown, "Question: Where?\nHere.").content
