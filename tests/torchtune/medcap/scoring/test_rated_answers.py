import json

import pytest

from medcap.cli import main
from medcap.errors import UserError
from medcap.scoring.rated_answers import read_ratings

A = {"q1": (10, 5), "q2": (10, 10), "q4": None}  # q3 has no answer
B = {"q1": (10, 10), "q2": (10, 10), "q3": (10, 5), "q4": (8, 8)}
C = {"q1": (10, 10), "q2": (5, 5), "q3": (10, 10), "q4": (8, 8)}


def write(folder, scores, judge="judge", order="published", missing=()):
    folder.mkdir(exist_ok=True)
    rows = [
        {"question_id": id, "order": order, "question": "Q?", "reference": "r", "prediction": f"a {id}"}
        | {"image": f"{id}.png", "reply": "...", "fingerprint": f"{id} {order}"}
        | dict(zip(("reference_score", "prediction_score"), pair or (None, None), strict=True))
        for id, pair in scores.items()
    ]
    with (folder / "ratings.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    metrics = {"judge": judge, "orders": "published"}
    (folder / "ratings_metrics.json").write_text(json.dumps(metrics))
    answers = [row | {"prediction": "a"} for row in rows]
    answers += [
        {"question_id": id, "question": "Q?", "reference": "r", "prediction": None, "image": f"{id}.png"}
        for id in missing
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    return folder


def printed(capsys, *words):
    assert main(["compare", *map(str, words)]) == 0
    return capsys.readouterr().out.splitlines()


def test_two_runs_are_compared_by_what_a_judge_gave(tmp_path, capsys):
    one, other = write(tmp_path / "one", A, missing=["q3"]), write(tmp_path / "other", B)
    result = json.loads("\n".join(printed(capsys, one, other, "--ratings", "--json")))
    assert (result["protocol"], result["score"], result["test"]) == ("relative_score", "mean_of_ratios", "sign_flip")
    # Without q4, which A's judge did not rate: 0.5, 1 and 0 against 1, 1 and 0.5; a missing answer counts as 0.
    assert (result["n"], result["a"]["failures"]) == (3, 1)
    assert (result["a"]["score"], result["b"]["score"]) == pytest.approx((0.5, 0.875))
    assert result["difference"]["value"] == pytest.approx(1 / 3)
    shown = printed(capsys, one, other, "--ratings")
    assert shown[0] == "note: common rows that do not count for mean_of_ratios: 1 of 4"
    assert "protocol relative_score" in shown
    # As medcap summarize has them.
    assert [line.split()[:3] for line in shown if line.startswith("mean_of_ratios")] == [
        ["mean_of_ratios,", "A", "50.0"],
        ["mean_of_ratios,", "B", "87.5"],
    ]
    assert any(line.split()[:4] == ["B", "minus", "A", "+33.3"] for line in shown)


def test_many_runs_are_corrected_and_other_judges_are_named(tmp_path, capsys):
    runs = [write(tmp_path / name, scores, judge=name) for name, scores in (("b", B), ("c", C))]
    shown = printed(capsys, *runs, runs[0], "--ratings")
    assert shown[0] == (
        f"note: the ratings are not of one judge: b, orders=published in {runs[0]}/ratings.jsonl;"
        f" c, orders=published in {runs[1]}/ratings.jsonl"
    )
    assert "protocol relative_score, 4 common rows, 3 comparisons" in shown
    assert next(line.split()[:2] for line in shown if line.startswith("A ")) == ["A", "87.5"]


def test_a_row_counts_where_every_order_is_rated(tmp_path):
    folder = write(tmp_path / "one", B)
    write(folder, {"q1": (10, 5), "q2": (10, 8), "q3": None, "q4": (0, 5)}, order="swapped")
    ratings = {answer.question.id: answer.ratings for answer in read_ratings(folder / "ratings.jsonl")}
    assert ratings == {"q1": ((10, 10), (10, 5)), "q2": ((10, 10), (10, 8)), "q3": (), "q4": ()}


def test_what_is_no_rating_and_two_ways_at_once_are_one_line(tmp_path, capsys):
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"question_id": "1", "reference": "r", "prediction": "p"}\n')
    with pytest.raises(UserError, match=r"row 0: this is no rating of a judge; give a ratings.jsonl"):
        read_ratings(plain)
    folder = write(tmp_path / "one", B)
    (folder / "ratings.jsonl").unlink()
    for words, message in (
        (
            ("--ratings",),
            "holds no ratings.jsonl, neither itself nor in a folder: a judge writes it",
        ),
        (("--ratings", "--protocol", "exact"), "--ratings and --protocol exclude each other"),
    ):
        with pytest.raises(SystemExit):
            main(["compare", str(folder), str(folder), *words])
        assert message in capsys.readouterr().err
