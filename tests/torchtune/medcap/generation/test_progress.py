import re

import pytest

from medcap.generation import progress as progress_module
from medcap.generation.progress import Progress

LINE = r"generate: 2 of 2 requests in [\d.]+ s \([\d.]+ requests/s, \d+ tokens/s\)\n"


def test_a_line_at_the_end_when_stderr_is_no_terminal(capsys):
    with Progress(2) as progress:
        progress.add(5)
        progress.add(7)
    assert re.fullmatch(LINE, capsys.readouterr().err)


def test_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress_module, "LINE_EVERY_SECONDS", 0.0)
    with Progress(3) as progress:
        for _ in range(3):
            progress.add(1)
    assert capsys.readouterr().err.count("\n") == 4


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress(1) as progress:
        progress.add(4)
    shown = capsys.readouterr().err
    assert "1/1" in shown
    assert "tokens/s" in shown


def test_silent_when_disabled_and_after_an_error(capsys):
    with Progress(1, enabled=False) as progress:
        progress.add(1)
    with pytest.raises(OSError, match="full"), Progress(1):
        raise OSError("full")
    assert capsys.readouterr().err == ""
