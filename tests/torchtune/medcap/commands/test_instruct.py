import json
import os
import signal
import time

import pytest

from helpers.chat_server import chat_server
from medcap.cli import main
from medcap.language_models.recorded import RecordedReplies

GOOD = "User: What is it?\n\nAssistant: Based on the caption, a cyst."


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.csv"
    path.write_text("".join(["id,caption\n", *(f"{number},Scan {number}.\n" for number in range(5))]))
    return path


def fails(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_conversations_are_generated_by_an_endpoint_and_cleaned(captions, tmp_path, capsys):
    pytest.importorskip("openai")
    bad = (400, '{"error": {"message": "content policy"}}')
    with chat_server(lambda prompt, _: bad if "Scan 2" in prompt else f"{GOOD} {prompt[-2:]}") as server:
        words = ["instruct", "generate", captions, "--out", tmp_path / "made", "--model", "m"]
        words += ["--base-url", server.base_url, "--request", '{"temperature": 0.5}']
        words += ["--price-in", 1e6, "--price-out", 0]
        assert main([str(word) for word in words]) == 0
        first = server.requests[0]
    assert [message["role"] for message in first["messages"]] == ["system", *["user", "assistant"] * 8, "user"]
    assert (first["temperature"], first["max_tokens"]) == (0.5, 1024)
    printed = capsys.readouterr().out.splitlines()
    assert printed[1] == "4 replies, 4 rows written"
    assert "  1 failed: status 400 (first: 2)" in printed
    assert "tokens: 4 of prompts, 8 of replies, cost 4" in printed
    assert json.loads((tmp_path / "made" / "summary.json").read_text())["failed"]["status 400"]["count"] == 1
    main(["instruct", "clean", str(tmp_path / "made" / "conversations.jsonl"), "--out", str(tmp_path / "clean")])
    printed = capsys.readouterr().out
    assert "  4 pairs changed: words before a statement" in printed
    rows = [json.loads(line) for line in (tmp_path / "clean" / "conversations.jsonl").read_text().splitlines()]
    assert [row["conversations"][1]["value"] for row in rows] == [f"A cyst. {number}." for number in (0, 1, 3, 4)]
    assert (tmp_path / "clean" / "report.html").is_file()


@pytest.mark.parametrize("name", ["conversations.jsonl", "replies.jsonl"])
@pytest.mark.parametrize("action", ["generate", "rewrite", "clean"])
def test_nothing_that_is_read_is_written_over(tmp_path, capsys, action, name):
    source, recorded = tmp_path / name, tmp_path / "recorded.jsonl"
    source.write_text('{"id": "a", "caption": "A cyst.", "conversations": []}\n')
    recorded.write_text('{"id": "a", "reply": "no"}\n')
    words = ["instruct", action, source, "--out", tmp_path]
    if action != "clean":
        words += ["--recorded", recorded]
    elif name != "conversations.jsonl":
        return
    assert f"--out {source} would replace the file that is read: name another one" in fails(capsys, *words)
    assert source.read_text() == '{"id": "a", "caption": "A cyst.", "conversations": []}\n'


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_says_that_it_goes_on(captions, tmp_path, capsys, monkeypatch, number, status):
    monkeypatch.setattr(RecordedReplies, "ask", lambda *_: os.kill(os.getpid(), number) or time.sleep(10))
    (tmp_path / "replies").write_text('{"id": "1", "reply": "no"}\n')
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        main(
            [
                "instruct",
                "generate",
                str(captions),
                "--out",
                str(tmp_path / "a"),
                "--recorded",
                str(tmp_path / "replies"),
            ]
        )
    assert end.value.code == status
    line = "medcap: stopped; replies so far are kept, the same command goes on"
    assert capsys.readouterr().err.strip().splitlines() == [line]
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_model_that_does_not_exist_is_one_line_and_nothing_is_kept(captions, tmp_path, capsys):
    pytest.importorskip("openai")
    missing = (404, '{"error": {"message": "The model nobody does not exist", "code": "model_not_found"}}')
    with chat_server(lambda *_: missing) as server:
        words = ["instruct", "generate", captions, "--out", tmp_path / "out", "--base-url", server.base_url]
        line = fails(capsys, *words, "--model", "nobody", "--retries", 0)
    assert "does not reply (status 404: The model nobody does not exist): check" in line
    assert (tmp_path / "out" / "replies.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name one that writes: --model NAME of a server"),
        (("--model", "m", "--recorded", "x"), "(--model and --recorded was given)"),
        (
            ("--model", "m"),
            "no key for https://api.openai.com/v1: set the environment variable OPENAI_API_KEY",
        ),
        (("--model", "m", "--base-url", "localhost"), "the base URL localhost is no whole address"),
        (("--model", "m", "--base-url", "http://localhost/v1", "--request", "{"), "--request is not JSON"),
        (("--model", "m", "--base-url", "http://localhost/v1", "--request", "[]"), "must be an object of JSON"),
        (("--model", "m", "--base-url", "http://localhost/v1", "--timeout", "0"), "--timeout must be more than 0"),
        (("--recorded", "{folder}/gone.jsonl"), "gone.jsonl cannot be read: No such file"),
        (("--checkpoint-dir", "{folder}"), "has no config.json"),
        (("--recorded", "{folder}/captions.csv", "--max-cost", "-1"), "holds no recorded replies"),
    ],
)
def test_what_cannot_be_asked_is_one_line(captions, tmp_path, capsys, words, message):
    pytest.importorskip("openai")
    words = [word.format(folder=tmp_path) if "{folder}" in word else word for word in words]
    assert message in fails(capsys, "instruct", "generate", captions, "--out", tmp_path / "out", *words)
