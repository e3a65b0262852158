import json

import pytest

from medcap.checkpoints.tensor_tree import load_tree, save_tree
from medcap.datasets.training_dataset import BadRow
from medcap.errors import UserError
from medcap.training.reliability.bad_rows import BadRows, refuse_before_training


def bad(*numbers):
    return [BadRow(f"data.json, row {number}", f"reason {number}") for number in numbers]


def test_bad_rows_are_counted_once_and_end_the_run_past_the_limit(tmp_path):
    rows = BadRows(num_rows=100, allowed_fraction=0.02, folder=tmp_path / "log")
    assert rows.add(bad(3, 7, 3)) == bad(3, 7) and rows.add(bad(7)) == []
    assert len(rows) == 2
    rows.check()
    assert rows.add(bad(7, 1)) == bad(1)
    with pytest.raises(UserError) as caught:
        rows.check()
    assert str(caught.value) == (
        "3 of 100 rows turned out to be damaged, more than max_bad_fraction=0.02 allows; the last: reason 1"
    )
    assert [json.loads(line) for line in (tmp_path / "log" / "bad_rows.jsonl").read_text().splitlines()] == [
        {"name": "data.json, row 3", "reason": "reason 3"},
        {"name": "data.json, row 7", "reason": "reason 7"},
        {"name": "data.json, row 1", "reason": "reason 1"},
    ]


@pytest.mark.parametrize(("found", "rows", "fraction"), [(8, 21, "0.381"), (1, 4, "0.25"), (1, 30000, "0.001")])
def test_the_fraction_that_a_refusal_names_allows_the_rows(found, rows, fraction):
    refusal = refuse_before_training(bad(*range(found)), rows, 0.0)
    assert refusal.endswith(f"allow some with max_bad_fraction={fraction}")
    assert refuse_before_training(bad(*range(found)), rows, float(fraction)) is None


def test_no_bad_rows_at_all_are_allowed_by_a_fraction_of_zero():
    rows = BadRows(num_rows=100, allowed_fraction=0.0)
    rows.check()
    rows.add(bad(1))
    with pytest.raises(UserError, match="1 of 100 rows"):
        rows.check()


def test_a_resumed_run_counts_and_logs_as_if_it_had_not_stopped(tmp_path):
    file = tmp_path / "bad_rows.jsonl"
    first = BadRows(100, 0.5, tmp_path)
    first.add(bad(1, 2))
    save_tree(tmp_path, "state", first.state())
    first.add(bad(3))  # after the checkpoint, before the run was killed
    first.close()
    with file.open("a") as opened:
        opened.write('{"name": "data.json, ro')

    resumed = BadRows(100, 0.5, tmp_path)
    resumed.load(load_tree(tmp_path, "state"))
    assert len(resumed) == 2
    assert resumed.add(bad(1, 3, 4)) == bad(3, 4)
    assert resumed.state() == {"names": [f"data.json, row {n}" for n in (1, 2, 3, 4)], "last_reason": "reason 4"}
    names = [json.loads(line)["name"] for line in file.read_text().splitlines()]
    assert names == [f"data.json, row {n}" for n in (1, 2, 3, 4)]


def test_a_new_run_starts_the_file_over_and_other_processes_write_none(tmp_path):
    (tmp_path / "bad_rows.jsonl").write_text('{"name": "of an earlier run", "reason": ""}\n')
    BadRows(100, 0.5).add(bad(1))
    rows = BadRows(100, 0.5, tmp_path)
    assert "earlier" in (tmp_path / "bad_rows.jsonl").read_text()
    rows.add([])
    assert (tmp_path / "bad_rows.jsonl").read_text() == ""


def test_the_reason_of_a_checkpoints_last_row_is_still_known():
    rows = BadRows(10, 0.0)
    rows.add(bad(1))
    resumed = BadRows(10, 0.0)
    resumed.load(rows.state())
    with pytest.raises(UserError, match=r"1 of 10 rows .* the last: reason 1"):
        resumed.check()


def test_a_reason_does_not_repeat_the_row_s_name(tmp_path):
    rows = BadRows(10, 0.0, tmp_path)
    row = BadRow("data.json, row 2", "data.json, row 2: no token is left to learn")
    assert rows.add([row]) == [BadRow("data.json, row 2", "no token is left to learn")]
    assert json.loads((tmp_path / "bad_rows.jsonl").read_text()) == {
        "name": "data.json, row 2",
        "reason": "no token is left to learn",
    }
    with pytest.raises(UserError, match=r"the last: data.json, row 2: no token is left to learn"):
        rows.check()
