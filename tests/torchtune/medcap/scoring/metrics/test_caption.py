import numpy as np
import pytest

from medcap.errors import UserError
from medcap.scoring.metrics import caption, java_scorers
from medcap.scoring.metrics.caption import bleu_of_sums, caption_metrics

pytestmark = pytest.mark.processes

# Computed once with pycocoevalcap 1.2 itself, one reference a row.
REFERENCES = [
    "Chest X-ray shows clear lungs.",
    "MRI of the brain with a mass in the left frontal lobe.",
    "Normal abdominal CT.",
]
CAPTIONS = [
    "The chest X-ray shows clear lungs.",
    "CT of the brain with a mass in the right frontal lobe.",
    "Normal abdominal CT.",
]
GOLDEN = {
    "Bleu_1": 0.857143,
    "Bleu_2": 0.816497,
    "Bleu_3": 0.763143,
    "Bleu_4": 0.713565,
    "METEOR": 0.519934,
    "ROUGE_L": 0.919192,
    "CIDEr": 7.651380,
}


AWKWARD = ["", "\n \n", "①", "Läsion\nim café 日本", "a ||| b", "<script>", "lone \udcff surrogate", "x\u2028y"]
AWKWARD_REFERENCES = [["clear lungs"], ["a"], ["①"], ["Läsion im café 日本"], *[["b", "a"]] * 4]


@pytest.fixture
def without_meteor(monkeypatch):
    monkeypatch.setattr(java_scorers, "meteor", lambda hypotheses, references: (0.0, [0.0] * len(hypotheses)))


@pytest.fixture(scope="module")
def results():
    """The scores of both sets above; METEOR takes seconds to start, so one process answers for both."""
    converse, kept = java_scorers._meteor_dialogue, {}

    def twice(process, hypotheses, references):
        kept["awkward"] = converse(process, *caption._tokenize(AWKWARD, AWKWARD_REFERENCES))
        return converse(process, hypotheses, references)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(java_scorers, "_meteor_dialogue", twice)
        golden = caption_metrics(CAPTIONS, [[text] for text in REFERENCES])
        patch.setattr(java_scorers, "meteor", lambda hypotheses, references: kept["awkward"])
        return golden, caption_metrics(AWKWARD, AWKWARD_REFERENCES)


def test_scores_equal_the_published_evaluation_to_six_digits(results):
    result, _ = results
    assert list(result.scores) == list(GOLDEN)
    for name, value in GOLDEN.items():
        assert result.scores[name] == pytest.approx(value, abs=5e-7), name
    assert all(len(values) == 3 for values in result.rows.values())
    assert np.mean(result.rows["CIDEr"]) == pytest.approx(result.scores["CIDEr"])
    assert result.rows["METEOR"][2] == pytest.approx(1.0)


def test_awkward_captions_score_and_stay_in_the_denominator(results):
    _, result = results
    assert all(len(values) == 8 for values in result.rows.values())
    assert all(np.isfinite(value) for values in result.rows.values() for value in values)
    assert [result.rows[name][position] for name in result.rows for position in (0, 1)] == [0.0] * 14
    assert result.rows["ROUGE_L"][3] == result.rows["METEOR"][3] == 1.0


def test_scoring_prints_nothing(without_meteor, capfd):
    caption_metrics(["a", ""], [["a"], ["b"]])
    assert capfd.readouterr() == ("", "")


def test_one_row_gets_scores_and_a_notice_about_cider(without_meteor):
    result = caption_metrics(["clear lungs"], [["clear lungs"]])
    assert result.scores["ROUGE_L"] == 1.0
    assert result.scores["CIDEr"] == 0.0
    assert any("only one row" in notice for notice in result.notices)


def test_an_empty_caption_never_matches_an_empty_reference(without_meteor):
    result = caption_metrics(["", "clear"], [["..."], ["clear"]])
    assert result.rows["ROUGE_L"] == [0.0, 1.0]


def test_absent_spice_models_give_one_notice_and_no_score(without_meteor, monkeypatch):
    monkeypatch.setattr(java_scorers, "spice_present", lambda: False)
    result = caption_metrics(["a", "b"], [["a"], ["b"]])
    assert "SPICE" not in result.scores
    assert [notice for notice in result.notices if notice.startswith("SPICE is absent")] == result.notices


def test_present_spice_models_add_the_score(without_meteor, monkeypatch):
    monkeypatch.setattr(java_scorers, "spice_present", lambda: True)
    monkeypatch.setattr(java_scorers, "spice", lambda hypotheses, references: (0.25, [0.5, 0.0]))
    assert caption_metrics(["a", "b"], [["a"], ["b"]]).rows["SPICE"] == [0.5, 0.0]


def test_failing_spice_is_a_notice(without_meteor, monkeypatch):
    def fail(hypotheses, references):
        raise UserError("Java ended with status 1: no room")

    monkeypatch.setattr(java_scorers, "spice_present", lambda: True)
    monkeypatch.setattr(java_scorers, "spice", fail)
    assert caption_metrics(["a"], [["a"]]).notices[-1] == "SPICE is absent: Java ended with status 1: no room"


def test_bleu_from_sums_equals_the_scorer():
    hypotheses, references = ["a b c d e", "f g", ""], [["a b c d", "x"], ["f h g"], ["q"]]
    scores, _, counts = caption._bleu(hypotheses, references)
    for order in (1, 2, 3, 4):
        assert bleu_of_sums(counts.sum(axis=0, keepdims=True), order)[0] == pytest.approx(scores[order - 1], rel=1e-12)
    assert bleu_of_sums(counts[2:], 4)[0] == 0.0


@pytest.mark.parametrize(
    ("captions", "references", "message"),
    [([], [], "no rows"), (["a"], [], "1 predictions but 0"), (["a"], [[]], "row 0 has no reference")],
)
def test_impossible_input_is_refused(captions, references, message):
    with pytest.raises(ValueError, match=message):
        caption_metrics(captions, references)


def fails_on(rows, reason="java.lang.OutOfMemoryError: Java heap space"):
    """A METEOR that fails on the first of some rows whose caption is not empty."""

    def meteor(hypotheses, references):
        for row in rows:
            if hypotheses[row]:
                raise java_scorers.RowFailure(row, reason)
        return 0.5, [float(bool(text)) for text in hypotheses]

    return meteor


def test_rows_that_meteor_fails_on_are_reported_and_the_others_scored(monkeypatch):
    monkeypatch.setattr(java_scorers, "meteor", fails_on([1, 3]))
    result = caption_metrics(["clear", "large heart", "small", "of the heart", "x"], [["clear"]] * 5)
    assert result.rows["METEOR"] == [1.0, 0.0, 1.0, 0.0, 1.0]
    assert result.rows["ROUGE_L"][0] == 1.0
    # The longer one is not tried.
    assert result.failures == dict.fromkeys((1, 3), "java.lang.OutOfMemoryError: Java heap space")


def test_a_failure_that_is_not_of_memory_leaves_out_one_row(monkeypatch):
    monkeypatch.setattr(java_scorers, "meteor", fails_on([1], "java.lang.NullPointerException"))
    result = caption_metrics(["a", "b", "b"], [["a"]] * 3)
    assert result.rows["METEOR"] == [1.0, 0.0, 1.0]
    assert result.failures == {1: "java.lang.NullPointerException"}


def test_a_meteor_that_fails_on_everything_ends_the_scoring(monkeypatch):
    monkeypatch.setattr(java_scorers, "meteor", fails_on(range(9), "no room"))
    with pytest.raises(UserError, match="METEOR's Java process ended early: row 5: no room"):
        caption_metrics(["a"] * 9, [["a"]] * 9)
    monkeypatch.setattr(java_scorers, "meteor", lambda *_: (_ for _ in ()).throw(java_scorers.RowFailure(0, "no room")))
    with pytest.raises(UserError, match="ended early: row 0: no room"):
        caption_metrics([""], [["a"]])
