import csv
import multiprocessing

import pytest

from medcap.errors import UserError
from medcap.evaluation.results_table import append_result


def run(output_dir="a", task="vqarad", protocol="exact", settings="f1"):
    return {"output_dir": output_dir, "task": task, "protocol": protocol, "settings": settings}


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_appended_as_plain_cells(tmp_path):
    path = tmp_path / "deep" / "results.csv"
    append_result(path, {**run(), "n": 451, "accuracy": 0.61, "note": 'a "b", é\nc', "done": True, "low": None})
    append_result(path, {**run("b"), "n": 2, "accuracy": float("nan")})
    assert path.read_bytes().decode() == (
        "output_dir,task,protocol,settings,n,accuracy,note,done,low\n"
        'a,vqarad,exact,f1,451,0.61,"a ""b"", é\nc",True,\n'
        "b,vqarad,exact,f1,2,,,,\n"
    )


def test_a_new_column_is_added_and_old_rows_leave_it_empty(tmp_path):
    path = tmp_path / "results.csv"
    append_result(path, {**run("a"), "accuracy": 0.5})
    append_result(path, {**run("b"), "recall": 0.25})
    append_result(path, {"recall": 0.75, **run("c"), "accuracy": 1})
    assert [(row["output_dir"], row["accuracy"], row["recall"]) for row in rows_of(path)] == [
        ("a", "0.5", ""),
        ("b", "", "0.25"),
        ("c", "1", "0.75"),
    ]


def test_a_run_replaces_its_own_row_and_no_other(tmp_path):
    path = tmp_path / "results.csv"
    others = [run("b"), run(task="slake"), run(protocol="llava_med"), run(settings="f2")]
    for row in [run(), *others]:
        append_result(path, {**row, "accuracy": 0.5})
    append_result(path, {**run(), "recall": 0.9})
    rows = rows_of(path)
    assert len(rows) == 5
    assert (rows[0]["accuracy"], rows[0]["recall"]) == ("", "0.9")
    assert [row["accuracy"] for row in rows[1:]] == ["0.5"] * 4


def test_pandas_reads_numbers(tmp_path):
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "results.csv"
    append_result(path, {**run("a"), "accuracy": 0.1 + 0.2, "n": 3})
    append_result(path, {**run("b"), "accuracy": None, "n": 4})
    frame = pandas.read_csv(path)
    assert frame["accuracy"][0] == 0.1 + 0.2
    assert frame["accuracy"].isna().tolist() == [False, True]
    assert frame["n"].tolist() == [3, 4]


def append_some(path, name):
    for index in range(10):
        append_result(path, {**run(f"{name}{index}"), f"score_{name}": index})


@pytest.mark.processes
def test_runs_that_write_at_the_same_time_lose_nothing(tmp_path):
    pytest.importorskip("fcntl")
    path = tmp_path / "results.csv"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=append_some, args=(path, name)) for name in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(row["output_dir"] for row in rows_of(path)) == sorted(f"{n}{i}" for n in "abc" for i in range(10))


def test_a_file_that_is_not_a_table_of_results_is_left_alone(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no table of results"):
        append_result(path, run())
    assert path.read_text() == "a,b\n1,2\n"
    path.write_text("output_dir,task,protocol,settings\na,b,c\n")
    with pytest.raises(UserError, match="line 2: 3 cells in 4 columns"):
        append_result(path, run())
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        append_result(path, run())


def test_rows_without_a_run_or_with_nested_values_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a result needs settings"):
        append_result(tmp_path / "results.csv", {**run(), "settings": ""})
    with pytest.raises(ValueError, match="scores: a cell holds text or a number"):
        append_result(tmp_path / "results.csv", {**run(), "scores": {"f1": 1}})
    assert not (tmp_path / "results.csv").exists()
