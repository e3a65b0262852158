import json

import pytest

from helpers.workspace import tune_words
from medcap.demo import run
from medcap.demo.run import Stages, run_demo
from medcap.scoring.metrics import java_scorers


def test_a_stage_runs_once_for_its_key_and_again_after_an_earlier_one_changed(tmp_path):
    done = []
    made = tmp_path / "made"
    made.touch()

    def go(data, train):
        stages = Stages(tmp_path / "stages.json")
        stages.run("data", data, made, lambda: done.append("data"))
        stages.run("train", train, made, lambda: done.append("train"))
        return stages.cached

    assert go(1, 1) == []
    assert go(1, 1) == ["data", "train"]
    assert go(1, 2) == ["data"]
    assert go(2, 2) == []
    assert done == ["data", "train", "train", "data", "train"]
    made.unlink()
    assert go(2, 2) == []


def test_a_stage_that_fails_is_not_remembered(tmp_path):
    with pytest.raises(ValueError, match="broken"):
        Stages(tmp_path / "stages.json").run("data", 1, tmp_path, lambda: (_ for _ in ()).throw(ValueError("broken")))
    stages = Stages(tmp_path / "stages.json")
    stages.run("data", 1, tmp_path, lambda: None)
    assert stages.cached == []


@pytest.mark.slow
def test_the_whole_way_and_a_second_run_from_what_is_there(tmp_path, monkeypatch, capsys):
    for name, value in (("TRAIN_IMAGES", 6), ("TEST_IMAGES", 2), ("TEXT_RECORDS", 2000), ("LANGUAGE_STEPS", 2)):
        monkeypatch.setattr(run, name, value)
    # One program of the three is a process of its own. The others import the same for seconds, and METEOR's Java
    # process takes ten more to start; tests/recipes/test_medcap_commands.py asks for captions with it.
    programs, in_a_process = [], run._run

    def start(words):
        programs.append(words[2])
        if words[2].endswith("full_finetune_single_device"):
            in_a_process(words)
        else:
            tune_words(words[1:])

    monkeypatch.setattr(run, "_run", start)
    monkeypatch.setattr(java_scorers, "meteor", lambda hypotheses, references: (0.0, [0.0] * len(hypotheses)))
    metrics = run_demo(tmp_path / "demo", seed=0)
    out = tmp_path / "demo"
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert metrics["llm_sha256_before"] == metrics["llm_sha256_after"]
    assert {"accuracy", "accuracy_shuffled", "n"} <= metrics["vqa"].keys()
    assert {"CIDEr", "Bleu_4"} <= metrics["caption"].keys()
    assert {"data", "language", "train", "generate", "total"} <= metrics["seconds"].keys()
    page = (out / "report.html").read_text()
    assert "data:image/" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert (out / "train" / "checkpoint" / "latest" / "COMPLETE").is_file()
    assert (out / "llm" / "original" / "tokenizer.model").is_file()
    assert "unchanged, bit for bit" in capsys.readouterr().out
    assert programs == ["medcap/recipes/full_finetune_single_device", *["medcap/recipes/generate"] * 2]
    again = run_demo(out, seed=0)
    assert len(programs) == 3
    assert again["cached"] == ["data", "language", "train", "generate", "caption"]
    assert again["vqa"] == metrics["vqa"]
