import json

import pytest

from medcap import reporting


@pytest.fixture
def waits(monkeypatch):
    waits = []
    monkeypatch.setattr(reporting.time, "sleep", waits.append)
    return waits


def test_an_error_is_one_line(capsys, monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    reporting.report("two\n  lines")
    assert capsys.readouterr().err == "medcap: two lines\n"


def test_torchrun_finds_the_line_where_it_looks(tmp_path, monkeypatch):
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    reporting.report("no such key")
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=2, error_file=str(file))
    assert failure.message["extraInfo"]["py_callstack"] == "medcap: no such key"
    reporting.tell_torchrun("ValueError(1)", "Traceback ...")
    assert json.loads(file.read_text())["message"]["extraInfo"]["py_callstack"] == "Traceback ..."


@pytest.mark.parametrize(("rank", "expected"), [(None, []), ("0", []), ("1", [reporting.QUIET_SECONDS])])
def test_the_first_process_tells_what_all_of_them_meet(capsys, monkeypatch, waits, rank, expected):
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    if rank is None:
        monkeypatch.delenv("RANK", raising=False)
    else:
        monkeypatch.setenv("RANK", rank)
    reporting.report_common("wrong")
    assert waits == expected
    assert capsys.readouterr().err == "medcap: wrong\n"
