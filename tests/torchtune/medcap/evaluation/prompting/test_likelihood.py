import pytest

from helpers.plain_medcap import plain_option_text
from helpers.recorded_engine import RecordedEngine, fake_engine, turns_of
from helpers.tiny_generation import tiny_generator, write_images
from medcap.errors import UserError
from medcap.evaluation.answering import Engine, PredictionStore
from medcap.evaluation.prompting.likelihood import OptionLetter, OptionText, PrefixLikelihood
from medcap.generation.prompt import user_message
from medcap.generation.request import CandidateScores, Sampling
from medcap.scoring.question import Question

OPTIONS = ("upper", "upper left", "nodule")


def make_row(name="q0", options=OPTIONS, image="a.png"):
    return Question(name, [user_message(image, "Where?")], ("upper left",), options=tuple(options))


class Model:
    """Gives each candidate the log-probability and the length that it was told."""

    def __init__(self, sums, counts=None, error=""):
        self.scores = CandidateScores([], [], error) if error else CandidateScores(sums, counts or [1] * len(sums))
        self.asked = []

    def engine(self):
        return fake_engine(lambda *_: pytest.fail("nothing is generated"), self.score)

    def score(self, requests, candidates, end_of_turn, on_result):
        for index, (request, texts) in enumerate(zip(requests, candidates, strict=True)):
            content = "".join(part["content"] for part in request.messages[-1].content if part["type"] == "text")
            self.asked.append((content, request.answer_prefix, list(texts), end_of_turn))
            on_result(index, self.scores)


@pytest.mark.parametrize(
    ("method", "asked"),
    [
        (OptionText, ("\nWhere?", "", list(OPTIONS), True)),
        (
            OptionLetter,
            (
                "\nWhere?\nA. upper\nB. upper left\nC. nodule\nAnswer with the option's letter from the given choices"
                " directly.",
                "",
                ["A", "B", "C"],
                False,
            ),
        ),
        (
            PrefixLikelihood,
            ("\nQuestion: Where?", "The answer is", [" upper.", " upper left.", " nodule."], False),
        ),
    ],
)
def test_what_is_scored(tmp_path, method, asked):
    model = Model([-3.0, -1.0, -2.0])
    (entry,) = method().ask([make_row()], model.engine(), PredictionStore(tmp_path, {}))
    assert model.asked == [asked]
    assert (entry["prediction"], entry["options"]) == ("upper left", list(OPTIONS))


def test_sum_and_mean_may_choose_differently_and_the_first_of_equals_wins(tmp_path):
    (entry,) = OptionText().ask(
        [make_row()], Model([-4.0, -4.5, -4.0], [1, 3, 2]).engine(), PredictionStore(tmp_path, {})
    )
    assert (entry["prediction"], entry["prediction_normalized"]) == ("upper", "upper left")


def test_a_second_run_asks_nothing_and_other_options_are_asked_again(tmp_path):
    OptionText().ask([make_row()], Model([-3.0, -1.0, -2.0]).engine(), PredictionStore(tmp_path, {}))
    again, other = Model([-1.0, -2.0, -3.0]), Model([-1.0, -2.0])
    (entry,) = OptionText().ask([make_row()], again.engine(), PredictionStore(tmp_path, {}))
    OptionText().ask([make_row(options=OPTIONS[:2])], other.engine(), PredictionStore(tmp_path, {}))
    assert (again.asked, entry["prediction"], len(other.asked)) == ([], "upper left", 1)


def test_what_cannot_be_scored_is_a_failure(tmp_path):
    rows = [make_row("q0", ()), make_row("q1")]
    bare, scored = OptionText().ask(rows, Model([-3.0, -1.0, -2.0]).engine(), PredictionStore(tmp_path / "a", {}))
    assert (bare["prediction"], bare["error"], scored["error"]) == ("", "the row has no options", None)
    with pytest.raises(UserError, match=r"not one row can be answered; the first one: a\.png is damaged"):
        OptionText().ask(
            [make_row()], Model([], error="a.png is damaged").engine(), PredictionStore(tmp_path / "b", {})
        )


@pytest.mark.parametrize("method", [OptionText, OptionLetter, PrefixLikelihood])
def test_one_row_that_fails_does_not_stop_the_others(tmp_path, method):
    rows = [make_row(f"q{index}", OPTIONS[: 1 + index % 3]) for index in range(7)]
    model = RecordedEngine(broken=["q2"], unanswered=["q5"])
    entries = method().ask(rows, model.engine(), PredictionStore(tmp_path, {}))
    assert [entry["error"] for entry in entries] == [
        *(None, None, "request q2 is too long", None, None, "q5 is damaged", None)
    ]
    # Each request keeps its own candidates when a call is cut into parts.
    assert {request.id: len(texts) for request, texts in zip(model.requests, model.candidates, strict=True)} == {
        f"q{index}": 1 + index % 3 for index in range(7) if index != 2
    }
    assert (entries[2]["prediction"], entries[5]["prediction"]) == ("", "")
    assert "prediction_normalized" not in entries[2]
    repaired = RecordedEngine()
    method().ask(rows, repaired.engine(), PredictionStore(tmp_path, {}))
    assert sorted(repaired.ids) == ["q2", "q5"]


def test_options_are_shown_next_to_the_image_only_where_letters_are_scored(tmp_path):
    shown = {}
    for method in (OptionText, OptionLetter, PrefixLikelihood):
        model = RecordedEngine()
        method().ask([make_row()], model.engine(), PredictionStore(tmp_path / method.name, {}))
        ((role, parts),) = turns_of(model.requests[0])
        assert (role, str(parts[0]), len(parts)) == ("user", "a.png", 2)
        shown[method.name] = "nodule" in parts[1]
    assert shown == {"option_text": False, "option_letter": True, "omnimedvqa_prefix": False}


def test_choices_equal_one_forward_pass_an_option(tmp_path):
    rows = [
        Question(
            f"{image}-{word}",
            [user_message(image, f"Is there {word}?")],
            ["no"],
            options=("lung", "chest", "circle", "left"),
        )
        for image in write_images(tmp_path, 4)
        for word in ("left lung", "a circle", "the chest")
    ]
    generator = tiny_generator(tmp_path)
    engine = Engine(generator, Sampling())
    entries = OptionText().ask(rows, engine, PredictionStore(tmp_path / "out", {}))
    chosen = [entry["prediction"] for entry in entries]
    assert chosen == plain_option_text(generator, rows)
    assert len(set(chosen)) > 1
