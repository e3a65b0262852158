from dataclasses import replace

from medcap.evaluation.prompting import plan_protocols
from medcap.scoring.question import Answer, Question


def answer(name, task, prediction):
    return Answer(Question(name, (), ("liver",), meta={"task": task}), prediction)


def test_a_protocol_of_one_kind_of_questions_leaves_the_others_out_of_its_denominator():
    answers = [answer("a", "VG", "heart"), answer("b", "ROC", "liver"), answer("c", "ROC", "spleen")]
    (plan,) = plan_protocols(["exact"])
    assert plan.score(answers).scores["accuracy"] == 1 / 3
    result = replace(plan, tasks=("ROC",)).score(answers)
    assert (result.scores["accuracy"], result.counts["n"]) == (0.5, 2)
    assert [(row["question_id"], row["correct"]) for row in result.rows] == [("a", None), ("b", True), ("c", False)]
    assert result.notices[-1] == "2 of 3 rows are questions of ROC"
    nothing = replace(plan, tasks=("MIA",)).score(answers)
    assert (nothing.scores, nothing.counts) == ({}, {"n": 0, "failures": 0})
    assert nothing.notices == ["there are no questions of MIA"]
    assert len(nothing.rows) == 3
