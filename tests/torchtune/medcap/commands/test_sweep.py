import pytest

from medcap.cli import main
from medcap.commands import sweep


def test_options_reach_the_run(monkeypatch):
    calls = []
    monkeypatch.setattr(sweep, "run_sweep", lambda *options: calls.append(options))
    assert main(["sweep", "a.yaml", "--workers", "2", "--resume"]) == 0
    assert main(["sweep", "b.yaml", "--retry-failed"]) == 0
    assert calls == [("a.yaml", 2, True, False), ("b.yaml", None, False, True)]


def test_a_wrong_number_of_workers_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["sweep", "a.yaml", "--workers", "0"])
    assert "argument --workers: '0' is no whole number from 1 on" in capsys.readouterr().err


def test_a_mistake_is_one_line(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("gird: {}\n")
    with pytest.raises(SystemExit) as end:
        main(["sweep", str(tmp_path / "a.yaml")])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"medcap: {tmp_path}/a.yaml: unknown key gird: did you mean grid?\n"
