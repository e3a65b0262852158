"""The runner of the parts that are worth running on a card, with made-up parts."""

import json
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Starts a process of its own, which outlives one that is merely ended.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import parts

    return parts


def python(words):
    return (sys.executable, "-c", words)


def test_a_part_that_fails_or_hangs_or_is_not_there_does_not_stop_the_others(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "GRACE_SECONDS", 0.2)
    # The first one leaves a file that the last one reads: the order is that of the list.
    read = f"import os; print(open({str(tmp_path / 'mark')!r}).read(), os.environ['GIVEN'])"
    listed = [
        parts.Part("first", python(f"open({str(tmp_path / 'mark')!r}, 'w').write('was here')"), 30),
        parts.Part("fails", python("print('why'); raise SystemExit(3)"), 30),
        parts.Part("hangs", python(STUBBORN), 2),
        parts.Part("absent", ("/no/such/program",), 30),
        parts.Part("last", python(read), 30),
    ]
    outcomes = parts.run_parts(listed, tmp_path / "out", 120, {"GIVEN": "too"})
    assert [(one.name, one.status, one.exit) for one in outcomes] == [
        ("first", "done", 0),
        ("fails", "failed", 3),
        ("hangs", "out of time", None),
        ("absent", "failed", None),
        ("last", "done", 0),
    ]
    assert 2 <= outcomes[2].seconds < 10
    logs = {one.name: (tmp_path / "out" / f"{one.name}.log").read_text().strip() for one in listed}
    assert logs["fails"] == "why" and logs["last"] == "was here too" and "/no/such/program" in logs["absent"]
    child = Path(f"/proc/{int(logs['hangs'])}/stat")
    end = time.monotonic() + 10
    while child.exists() and child.read_text().split()[2] != "Z" and time.monotonic() < end:
        time.sleep(0.05)
    assert not child.exists() or child.read_text().split()[2] == "Z"
    saved = json.loads((tmp_path / "out/hangs.part.json").read_text())
    assert saved["status"] == "out of time" and saved["limit"] == 2.0
    assert parts.outcomes_table(outcomes)[3].startswith("| fails | failed | ")


def test_what_no_time_is_left_for_is_left_out(parts, tmp_path):
    listed = [
        parts.Part("slow", python("import time; time.sleep(60)"), 60),
        parts.Part("after", python("pass"), 30),
    ]
    began = time.monotonic()
    outcomes = parts.run_parts(listed, tmp_path, 3.5, {})
    assert [one.status for one in outcomes] == ["out of time", "left out"]
    assert time.monotonic() - began < 20
    assert json.loads((tmp_path / "after.part.json").read_text())["status"] == "left out"


def test_the_parts_fit_into_eight_minutes_and_into_a_rehearsal(parts, tmp_path):
    import card

    real, small = card.card_parts(tmp_path), card.rehearsal_parts(tmp_path)
    assert [part.name for part in real] == [part.name for part in small]
    # Limits are for what goes wrong: the last parts are those that may be left out.
    assert sum(part.seconds for part in real[:6]) <= card.ALL_SECONDS == 480
    assert all(Path(word).exists() for part in real + small for word in part.command if word.endswith(".py"))


def test_tables_are_collected_under_the_cards_name(parts, tmp_path, monkeypatch, capsys):
    import card

    monkeypatch.setattr("sys.argv", ["card.py", "--only", "two", "--out", str(tmp_path)])
    write = f"open({str(tmp_path / 'two_table.md')!r}, 'w').write('| a |')"
    listed = [parts.Part(name, python(write), 30) for name in ("one", "two")]
    monkeypatch.setattr(card, "rehearsal_parts", lambda folder: listed)
    assert card.main() == 0
    summary = (tmp_path / "summary.md").read_text()
    assert "| two | done | " in summary and "- [two_table](two_table.md)" in summary and "| one |" not in summary
    assert json.loads((tmp_path / "machine.json").read_text())["torch"]
    monkeypatch.setattr("sys.argv", ["card.py", "--only", "three", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        card.main()
    assert "--only three: the parts are one, two" in capsys.readouterr().err


def test_packages_to_carry_are_those_that_are_not_there(parts, tmp_path, monkeypatch, capsys):
    import card

    (tmp_path / "there.txt").write_text("numpy==2.3.0\nPillow==12.0\nomegaconf==2.4.0\n")
    monkeypatch.setattr("sys.argv", ["card.py", "--wheels", str(tmp_path / "there.txt")])
    assert card.main() == 0
    printed = capsys.readouterr().out.split()
    assert "torchtune==0.6.1" in printed and "torchao==0.15.0" in printed
    names = {line.partition("==")[0] for line in printed}
    # There already, or with torch.
    assert names.isdisjoint({"numpy", "pillow", "omegaconf", "torch", "triton", "sympy", "medcap"})
