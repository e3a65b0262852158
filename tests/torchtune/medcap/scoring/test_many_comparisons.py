import pytest

from helpers.answers import make_answer
from medcap.errors import UserError
from medcap.scoring.many_comparisons import compare_many
from medcap.scoring.protocols.registry import make_protocol


def answers(predictions, answer_type="", reference="left lung"):
    return [
        make_answer(str(number), "q", (reference,), text, answer_type=answer_type)
        for number, text in enumerate(predictions)
    ]


def test_all_pairs_share_one_correction():
    runs = [answers(["left lung"] * 12), answers(["left lung"] * 4 + ["no"] * 8), answers(["no"] * 11 + ["left lung"])]
    result = compare_many(runs, ["a", "b", "c"], make_protocol("exact"))
    assert [(pair.first, pair.second) for pair in result.pairs] == [(0, 1), (0, 2), (1, 2)]
    # McNemar: 8, 11 and 4 against 1 discordant rows.
    assert [pair.comparison.p for pair in result.pairs] == [2 / 2**8, 2 / 2**11, 0.375]
    assert [pair.p_holm for pair in result.pairs] == pytest.approx([4 / 2**8, 6 / 2**11, 0.375])
    assert result.pairs[0].verdict == "a is better by 66.7 points: the interval excludes 0."
    assert [run.score for run in result.runs] == pytest.approx([1, 4 / 12, 1 / 12])


def test_an_answer_type_that_only_one_run_knows_is_that_of_all():
    runs = [answers(["lung"] * 6, ""), answers(["left lung"] * 6, "OPEN"), answers(["left"] * 6)]
    result = compare_many(runs, ["a", "b", "c"], make_protocol("llava_med"), to_first=True)
    assert [run.score for run in result.runs] == [0.5, 1.0, 0.5]
    assert len(result.pairs) == 2


def test_an_id_that_stands_twice_is_refused():
    twice = answers(["yes"]) * 2
    with pytest.raises(UserError, match="stands there twice"):
        compare_many([answers(["yes"]), twice, answers(["no"])], ["a", "b", "c"], make_protocol("exact"))
