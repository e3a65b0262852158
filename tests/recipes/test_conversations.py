"""The whole line: conversations written from captions, cleaned, trained on, and the answers rated by a judge."""

import json
import re

import pytest

from helpers.chat_server import chat_server
from helpers.workspace import tune
from medcap.cli import main
from medcap.datasets.phantoms.benchmarks import write_phantom_benchmarks
from medcap.datasets.phantoms.writing import write_phantoms
from medcap.results import load

FIGURES = 12


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def medcap(capsys, *words):
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(caption):
    """What a language model makes of a caption: it thinks aloud, and gives away that it reads."""
    place = re.search(r"in the ([a-z ]+)\.", caption).group(1)
    kind = re.search(r"nodule|ring|cross|cluster", caption).group()
    return (
        f"<think>The caption is: {caption}</think>User: What is the lesion?\n\nAssistant: According to the caption, it"
        f" is a {kind}.\n\nUser: Where is it?\n\nAssistant: In the {place}.\n\nUser: Who took it?\n\nAssistant: This is"
        " not mentioned in the caption."
    )


@pytest.mark.slow
def test_conversations_are_written_cleaned_trained_on_and_their_model_is_judged(workspace, tmp_path, capsys):
    pytest.importorskip("openai")
    pytest.importorskip("pandas")
    train, sets, work = tmp_path / "train", tmp_path / "sets", tmp_path / "work"
    write_phantoms(train, FIGURES, seed=0)
    write_phantom_benchmarks(sets, 3, seed=1)
    capsys.readouterr()

    figures = ["instruct", "generate", train / "records.jsonl", "--domain-column", "modality"]
    with chat_server(lambda prompt, _: written(prompt.partition("Figure Caption:\n")[2])) as server:
        asked = medcap(
            capsys, *figures, "--out", work / "talks", "--model", "writer", "--base-url", server.base_url
        ).splitlines()
    assert len(server.requests) == FIGURES
    assert asked[1:3] == [f"{FIGURES} replies, {FIGURES} rows written", f"  {3 * FIGURES} questions with answers"]
    recorded = ["--recorded", work / "talks" / "replies.jsonl"]
    medcap(capsys, *figures, "--out", work / "recorded", *recorded)
    rows = (work / "talks" / "conversations.jsonl").read_bytes()
    assert (work / "recorded" / "conversations.jsonl").read_bytes() == rows

    held_out = ["--test", sets / "VQA_RAD", "--image-root", train, "--distance", 0, "--processes", 1]
    medcap(capsys, "instruct", "clean", work / "talks" / "conversations.jsonl", "--out", work / "clean", *held_out)
    clean = work / "clean" / "conversations.jsonl"
    summary = json.loads((work / "clean" / "summary.json").read_text())
    assert {rule: pairs["count"] for rule, pairs in summary["pairs"].items() if pairs["count"]} == {
        "the answer does not answer": FIGURES,
        "words before a statement": FIGURES,
    }
    # Three conversations have the words of others: a dozen phantoms have four kinds in five places.
    assert (summary["rows_left"], summary["pairs_left"], summary["test_sets"]["found"]) == (9, 18, {})
    kept = lines(clean)
    answers = [turn["value"] for row in kept for turn in row["conversations"] if turn["from"] == "gpt"]
    assert not any("caption" in answer for answer in answers)
    assert answers[0].startswith("It is a ") and answers[1].startswith("In the ")
    assert "all 9 rows can be used" in medcap(capsys, "validate", clean, "--image-root", train)

    run = workspace.train(
        f"dataset.source={clean}", f"dataset.image_roots=[{train}]", "dataset.max_seq_len=256", "epochs=2"
    )
    assert json.loads((run / "summary.json").read_text())["samples"] == len(kept)

    for name, more in (("tuned", [f"vision_checkpoint={run}"]), ("other", [f"vision_checkpoint={run}", "seed=1"])):
        workspace.generate(*more, "test_chat=True", f"dataset_source={sets}", f"output_dir={tmp_path / name}")
        questions = lines(tmp_path / name / "chat" / "predictions.jsonl")
        assert len(questions) == 6
        replies = tmp_path / f"{name}.jsonl"
        said = [f"<think>{i}/10 and 3?</think>10 {2 + i}\nThe second is short." for i in range(6)]
        given = [{"question_id": row["question_id"], "reply": text} for row, text in zip(questions, said, strict=True)]
        replies.write_text("".join(json.dumps(row) + "\n" for row in given))
        answers = tmp_path / name / "chat" / "predictions.jsonl"
        tune("judge", "medcap/judge", "exp=eval_chat", "judge=recorded", f"replies={replies}", f"csv_path={answers}")
    rated = json.loads((tmp_path / "tuned" / "chat" / "ratings_metrics.json").read_text())
    assert rated["scores"]["mean_of_ratios"] == pytest.approx(sum(range(2, 8)) / 60)

    capsys.readouterr()
    shown = medcap(capsys, "summarize", tmp_path / "tuned", tmp_path / "other")
    assert "mean_of_ratios" in shown
    shown = medcap(capsys, "compare", tmp_path / "tuned" / "chat", tmp_path / "other" / "chat")
    assert "A and B score the same on every row." in shown
    shown = medcap(capsys, "compare", tmp_path / "tuned", tmp_path / "other", "--ratings")
    assert "mean_of_ratios, A" in shown and "A and B score the same on every row." in shown
    frame = load(tmp_path / "tuned", tmp_path / "other").scores
    assert set(frame[frame["kind"] == "ratings"]["run"]) == {str(tmp_path / "tuned"), str(tmp_path / "other")}
