import errno
import json
import logging
import os
import subprocess
import sys

import pytest

from helpers.waiting import PATIENCE
from medcap import reporting
from medcap.errors import UserError


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
    reporting.tell_torchrun("another")
    assert json.loads(file.read_text())["message"]["extraInfo"]["py_callstack"] == "another"


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


def fail(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("no such key"), 2, "medcap: no such key"),
        (KeyboardInterrupt(), 130, ""),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.json"),
            1,
            "medcap: medcap score a.json cannot go on: No space left on device: out.json",
        ),
        (MemoryError(), 1, "medcap: medcap score a.json cannot go on: the system's memory is full"),
        # Not our output, but some other pipe, such as that of a scorer's process.
        (
            BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)),
            1,
            "medcap: medcap score a.json cannot go on: Broken pipe",
        ),
    ],
)
def test_what_ends_a_program_is_one_line(capsys, error, status, line):
    with pytest.raises(SystemExit) as end:
        reporting.run_program(fail(error), ["medcap", "score", "a.json"])
    assert end.value.code == status
    assert capsys.readouterr().err == (line + "\n" if line else "")


@pytest.mark.parametrize(
    "error", [ValueError("two\nlines"), KeyError("a"), RecursionError("deep"), AssertionError(), ZeroDivisionError()]
)
def test_an_error_that_was_not_foreseen_names_itself_its_place_and_what_was_done(capsys, error):
    with pytest.raises(SystemExit) as end:
        reporting.run_program(fail(error), ["medcap", "score", "a.json"])
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("medcap: medcap score a.json ended in an error that was not foreseen: ")
    assert f"{type(error).__name__}: " in line and "(medcap/test_reporting.py, line " in line
    assert line.endswith("run it again with MEDCAP_TRACEBACK=1 and report all that it prints as a fault of medcap")


def test_the_row_that_an_error_was_met_in_is_named(capsys):
    error = ValueError("odd")
    error.add_note("train.json, row 7")
    with pytest.raises(SystemExit):
        reporting.run_program(fail(error), ["medcap"])
    assert "ValueError: odd (medcap/test_reporting.py, line " in (line := capsys.readouterr().err)
    assert ", train.json, row 7); run it again" in line


def test_an_error_of_another_process_is_reported_by_its_end():
    text = 'Caught ValueError in worker.\nOriginal Traceback (most recent call last):\n  File "x", line 1\n    call()\n'
    told = reporting.unforeseen(ValueError(text + "ValueError: odd\ntrain.json, row 7\n"), "it")
    assert told.startswith(
        "it ended in an error that was not foreseen: ValueError: odd train.json, row 7 (at an unknown place)"
    )


@pytest.mark.parametrize("error", [ValueError("a bug"), UserError("no such key")])
def test_the_whole_traceback_is_there_on_request(capsys, monkeypatch, error):
    monkeypatch.setenv("MEDCAP_TRACEBACK", "1")
    with pytest.raises(SystemExit):
        reporting.run_program(fail(error), ["medcap"])
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback (most recent call last):\n")
    assert printed.splitlines()[-1].startswith("medcap: ")


def test_the_program_gives_what_its_work_gives_and_ends_as_it_ends():
    assert reporting.run_program(lambda: 5, ["medcap"]) == 5
    with pytest.raises(SystemExit) as end:
        reporting.run_program(fail(SystemExit(7)), ["medcap"])
    assert end.value.code == 7


def test_no_message_shows_a_key():
    words = ["medcap", "serve", "run", "--api-key", "secret", "api_key=secret", "--api-key=secret", "--port", "0"]
    assert reporting.shown_command(words) == "medcap serve run --api-key ... api_key=... --api-key=... --port 0"
    assert len(reporting.shown_command(["x" * 10_000])) < 600


SEVERAL = """
import sys
from medcap.reporting import run_program
def work():
    for number in range(100_000):
        print("line", number{})
run_program(work, ["medcap"])
"""


@pytest.mark.processes
@pytest.mark.parametrize("where", ["", ", file=sys.stderr"])
def test_output_that_nobody_reads_ends_the_program_silently(where):
    process = subprocess.Popen(
        [sys.executable, "-c", SEVERAL.format(where)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    closed, other = (process.stderr, process.stdout) if where else (process.stdout, process.stderr)
    assert closed.readline() == "line 0\n"
    closed.close()
    assert other.read() == ""
    other.close()
    assert process.wait(timeout=PATIENCE) == 141


def test_only_torchaos_notice_about_extensions_is_kept_from_the_user(caplog):
    reporting.hide_torchao_notice()
    logger = logging.getLogger("torchao")
    before = len(logger.filters)
    reporting.hide_torchao_notice()
    assert len(logger.filters) == before
    with caplog.at_level(logging.WARNING):
        logger.warning("Skipping import of cpp extensions due to incompatible torch version")
        logger.warning("another warning")
    assert [record.getMessage() for record in caplog.records] == ["another warning"]


@pytest.mark.processes
def test_importing_torchtune_after_medcap_prints_nothing():
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "import medcap, torchao"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "cpp extensions" not in ended.stderr
