from medcap.evaluation.tasks.own_questions import of_tasks
from medcap.scoring.protocols.exact import Exact
from medcap.scoring.question import Answer, Question


def answer(name, task, prediction):
    return Answer(Question(name, (), ("liver",), meta={"task": task}), prediction)


def test_a_protocol_of_one_kind_of_questions_leaves_the_others_out_of_its_denominator():
    answers = [answer("a", "VG", "heart"), answer("b", "ROC", "liver"), answer("c", "ROC", "spleen")]
    protocol = of_tasks(Exact(), ("ROC",))
    assert (protocol.name, protocol.headline) == ("exact", "accuracy")
    result = protocol.score(answers)
    assert (result.scores["accuracy"], result.counts["n"]) == (0.5, 2)
    assert [(row["question_id"], row["correct"]) for row in result.rows] == [("a", None), ("b", True), ("c", False)]
    assert result.notices[-1] == "2 of 3 rows are questions of ROC"
    nothing = of_tasks(Exact(), ("MIA",)).score(answers)
    assert (nothing.scores, nothing.counts) == ({}, {"n": 0, "failures": 0})
    assert nothing.notices == ["no question is of MIA"]
    assert len(nothing.rows) == 3
    assert Exact().score(answers).scores["accuracy"] == 1 / 3
