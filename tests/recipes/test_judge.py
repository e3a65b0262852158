import csv
import json
import signal
import threading

import pytest

from helpers.chat_server import chat_server, completion
from helpers.judge_checkpoints import constant_decoder, write_chat_checkpoint
from helpers.waiting import PATIENCE, wait_for
from helpers.workspace import TINY_VISION, Workspace, tune

pytest.importorskip("openai")

KEY = "sk-a-very-secret-key"
USER = "<|start_header_id|>user<|end_header_id|>\n\n"
ASSISTANT = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
# (question, correct answer, given answer)
ROWS = (("Is there a mass?", "no", "No."), ("Which lung?", "left", "the right lung"), ("Is it CT?", "yes", ""))


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def raw_table(tmp_path):
    path = tmp_path / "vqarad-omit-raw-meta_model_5.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "instruction", "output", "generated"])
        for position, (question, reference, answer) in enumerate(ROWS):
            turns = f"{USER}①{ASSISTANT}...<|eot_id|>{USER}{question}{ASSISTANT}"
            writer.writerow([f"{position}.png", turns, reference, answer])
    return path


def write_predictions(folder, count):
    folder.mkdir(exist_ok=True)
    rows = [
        {"question_id": str(position), "question": "Q?", "reference": "yes", "prediction": f"answer {position}"}
        | {"modality": ("CT", "MR")[position % 2], "fingerprint": str(position)}
        for position in range(count)
    ]
    path = folder / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def judge(*overrides):
    tune("judge", "medcap/judge", "device=cpu", *map(str, overrides))


def endpoint(server, *overrides):
    judge("judge=endpoint", f"base_url={server.base_url}", "model=big/Judge", *overrides)


def by_number(prompt, _):
    """WRONG for every third answer, something else for every seventh."""
    number = int(prompt.partition("answer ")[2].partition("\n")[0])
    return "Hm." if number % 7 == 6 else "WRONG" if number % 3 == 2 else "RIGHT"


def test_medcaps_command_with_its_own_keys(tmp_path, raw_table, capsys):
    pytest.importorskip("accelerate")
    checkpoint = tmp_path / "Meta-Llama-3.1-70B-Instruct"
    write_chat_checkpoint(checkpoint, constant_decoder("RIGHT", embed_dim=64, intermediate_dim=128))
    judge("bit=4", f"ckpt_dir={checkpoint}", "exp=eval_vqa", f"csv_path={raw_table}")
    shown = capsys.readouterr().out
    assert "Meta-Llama-3.1-70B-Instruct_4bit: 3 answers, 2 right, 1 wrong, 0 unparsed, 0 failures" in shown
    path = tmp_path / "vqarad-omit-raw-meta_model_5-Meta-Llama-3.1-70B-Instruct_4bit-0.66667.csv"
    assert str(path) in shown
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0])[:3] == ["image", "instruction", "generated"]
    assert [row["verdict"] for row in table] == ["RIGHT", "RIGHT", "WRONG"]


def test_a_local_judge_in_the_checkpoints_own_format(tmp_path, raw_table):
    checkpoint = write_chat_checkpoint(tmp_path / "judge", constant_decoder("WRONG"))
    judge("bits=16", f"checkpoint_dir={checkpoint}", f"csv_path={raw_table}", f"output_dir={tmp_path}/out", "limit=2")
    metrics = json.loads((tmp_path / "out" / "verdicts_metrics.json").read_text())
    assert (metrics["judge"], metrics["n"], metrics["wrong"]) == ("judge_16bit", 2, 2)


def test_the_model_under_test_judges(tmp_path, raw_table):
    (tmp_path / "workspace").mkdir()
    arguments = [
        "judge=self",
        *Workspace(tmp_path / "workspace").model_overrides(),
        f"vision={TINY_VISION}",
        "vision_checkpoint=null",
        "projector.num_image_tokens=4",
        f"csv_path={raw_table}",
        "max_new_tokens=12",
        "parsing=medcap",
    ]
    judge(*arguments)
    metrics = json.loads((tmp_path / "verdicts_metrics.json").read_text())
    assert (metrics["judge"], metrics["n"], metrics["failures"]) == ("self", 3, 0)
    assert metrics["settings"]["judge"] == "self"


def test_an_endpoint_judges_and_its_key_is_written_nowhere(tmp_path, monkeypatch, capsys):
    path = write_predictions(tmp_path / "vqa", 21)
    monkeypatch.setenv("MY_KEY", KEY)

    def echo(prompt, number):
        return f"RIGHT {KEY}" if "answer 20\n" in prompt else by_number(prompt, number)

    with chat_server(echo) as server:
        endpoint(server, f"predictions={path}", "api_key_env=MY_KEY", "concurrency=3")
        endpoint(server, f"predictions={path}", f"api_key={KEY}", f"output_dir={tmp_path}/again")
        assert set(server.keys) == {f"Bearer {KEY}"}
    shown = capsys.readouterr()
    metrics = json.loads((tmp_path / "vqa" / "verdicts_metrics.json").read_text())
    counts = [metrics[name] for name in ("right", "wrong", "unparsed", "failures")]
    assert counts == [13, 6, 2, 0]
    assert metrics["unparsed_ids"] == ["6", "13"]
    assert [line["modality"] for line in metrics["tables"]["modality"]] == ["CT", "MR"]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == 7
    assert not any(KEY.encode() in file.read_bytes() for file in files)
    assert KEY not in shown.out + shown.err


def test_an_endpoint_rates_conversations_in_both_orders_and_its_replies_can_be_read_again(tmp_path, capsys):
    path = write_predictions(tmp_path / "chat", 6)

    def respond(prompt, _):
        if "answer 5\n" in prompt:
            return "I would rather not."
        return "6 9" if prompt.index("answer ") < prompt.index("\nyes\n") else "8/10 4/10\nThe first is better."

    with chat_server(respond) as server:
        endpoint(server, "exp=eval_chat", f"csv_path={path}", "orders=both")
        assert len(server.requests) == 12
    shown = capsys.readouterr().out
    assert "big/Judge: 6 answers, 5 rated, 1 unrated, 0 missing (relative_score_both)" in shown
    metrics = json.loads((tmp_path / "chat" / "ratings_metrics.json").read_text())
    # Published order: 4 of 8; swapped: 6 of 9.
    assert metrics["scores"]["mean_of_ratios"] == pytest.approx((4 / 8 + 6 / 9) / 2)
    assert metrics["scores"]["ratio_of_means"] == pytest.approx(10 / 17)
    assert (metrics["unrated_ids"], [line["modality"] for line in metrics["tables"]["modality"]]) == (
        ["5"],
        ["CT", "MR"],
    )
    assert "Mean of ratios" in (tmp_path / "chat" / "ratings.html").read_text()
    replies = f"replies={tmp_path / 'chat' / 'ratings.jsonl'}"
    judge("exp=eval_chat", "judge=recorded", replies, f"csv_path={path}", f"output_dir={tmp_path}/again", "orders=both")
    again = json.loads((tmp_path / "again" / "ratings_metrics.json").read_text())
    assert (again["scores"], again["unrated_ids"]) == (metrics["scores"], metrics["unrated_ids"])


def test_a_run_that_is_killed_goes_on_and_ends_like_an_undisturbed_one(tmp_path, server):
    path = write_predictions(tmp_path, 60)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with chat_server(by_number) as answering:
        endpoint(answering, f"csv_path={path}", f"output_dir={whole}")

        asked, killed_it = len(answering.requests), threading.Event()

        def respond(prompt, number):
            if number >= asked + 30:
                killed_it.wait(PATIENCE)
            return by_number(prompt, number)

        answering.respond = respond
        command = [f"base_url={answering.base_url}", "judge=endpoint", "model=big/Judge", "concurrency=2"]
        command += [f"csv_path={path}", f"output_dir={killed}"]
        module = "import sys; from torchtune._cli.tune import main; sys.argv[0] = 'tune'; main()"
        recipe = ["run", "medcap/recipes/judge", "--config", "medcap/judge"]
        process = server.program(tmp_path / "printed", module, *recipe, *command)
        verdicts = killed / "verdicts.jsonl"
        wait_for(lambda: verdicts.exists() and verdicts.read_bytes().count(b"\n") >= 20)
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
        killed_it.set()
        done = verdicts.read_bytes().count(b"\n")
        assert 20 <= done < 60
        verdicts.write_bytes(verdicts.read_bytes() + b'{"question_id": "7", "verd')
        answering.respond = by_number
        asked = len(answering.requests)
        endpoint(answering, f"csv_path={path}", f"output_dir={killed}")
        assert len(answering.requests) - asked == 60 - done
    for folder in (whole, killed):
        assert len((folder / "verdicts.jsonl").read_text().splitlines()) == 60
    read = [sorted((folder / "verdicts.jsonl").read_bytes().splitlines()) for folder in (whole, killed)]
    assert read[0] == read[1]
    assert (whole / "verdicts_metrics.json").read_bytes() == (killed / "verdicts_metrics.json").read_bytes()


def test_an_endpoint_that_is_down_is_one_line_and_verdicts_are_kept(tmp_path, capsys):
    path = write_predictions(tmp_path, 10)
    with chat_server(lambda prompt, _: (400, "{}") if "answer 4\n" in prompt else "RIGHT") as server:
        endpoint(server, f"csv_path={path}")
        kept = (tmp_path / "verdicts.jsonl").read_bytes()
        server.respond = lambda *_: (503, "{}")
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            endpoint(server, f"csv_path={path}", "retries=0")
    assert end.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert "does not reply (status 503" in error[0]
    assert (tmp_path / "verdicts.jsonl").read_bytes().startswith(kept)
    assert json.loads((tmp_path / "verdicts_metrics.json").read_text())["right"] == 9


def test_a_server_with_other_fields_judges_and_the_change_is_reported(tmp_path, capsys):
    path = write_predictions(tmp_path, 4)

    def respond(_, number):
        if "max_tokens" in server.requests[number]:
            return 400, json.dumps({"error": {"message": "no", "code": "unsupported_parameter", "param": "max_tokens"}})
        return "<think>It is not WRONG.</think>RIGHT. Same place."

    with chat_server(respond) as server:
        endpoint(server, f"csv_path={path}", "request.reasoning_effort=low", "request.temperature=null")
    sent = {name: value for name, value in server.requests[-1].items() if name not in ("model", "messages")}
    assert sent == {"reasoning_effort": "low", "max_completion_tokens": 200}
    metrics = json.loads((tmp_path / "verdicts_metrics.json").read_text())
    assert (metrics["right"], metrics["n"]) == (4, 4)
    assert metrics["notices"] == ["the server does not take max_tokens: max_completion_tokens is sent instead"]
    assert metrics["settings"]["request"] == {"reasoning_effort": "low", "temperature": None}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (completion(None, "length"), "none of the 4 answers can be judged; the first one: the reply has no words"),
        (completion("I cannot say.", "stop"), "replied to 4 answers, and not one reply is RIGHT or WRONG"),
    ],
)
def test_a_judge_that_gives_not_one_verdict_is_one_line(tmp_path, capsys, body, message):
    path = write_predictions(tmp_path, 4)
    with chat_server(lambda *_: (200, body)) as server, pytest.raises(SystemExit) as end:
        endpoint(server, f"csv_path={path}")
    assert end.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("medcap: ")
    assert message in line
    assert not (tmp_path / "verdicts_metrics.json").exists()


def test_chat_with_an_endpoint(monkeypatch, capsys):
    lines = iter(["Hello", "q"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    with chat_server(lambda prompt, _: f"You said {prompt}") as server:
        endpoint(server, "exp=chat")
    assert capsys.readouterr().out == "You said Hello\n"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "csv_path is missing"),
        (("csv_path={csv}",), "checkpoint_dir is missing"),
        (("csv_path=none.csv",), "csv_path=none.csv: no such file"),
        (("csv_path={csv}", "predictions=other.jsonl"), "are two names of one key"),
        (("csv_path={csv}", "exp=chat"), "csv_path goes with exp=eval_vqa"),
        (("csv_path={csv}", "exp=eval"), "exp='eval' must be one of eval_vqa, eval_chat, chat"),
        (("csv_path={csv}", "orders=both"), "orders goes with exp=eval_chat, not with exp=eval_vqa"),
        (("csv_path={csv}", "replies=x.jsonl"), "replies goes with judge=recorded, not with judge=local"),
        (("csv_path={csv}", "judge=recorded", "exp=eval_chat"), "replies is missing: add replies=FILE"),
        (("csv_path={csv}", "exp=eval_chat", "question_file=none.jsonl"), "question_file=none.jsonl: no such file"),
        (("exp=chat", "judge=recorded"), "judge=recorded has replies to known prompts only"),
        (("csv_path={csv}", "judge=gpt"), "judge='gpt' must be one of local, self, endpoint"),
        (("csv_path={csv}", "parsing=loose"), "parsing='loose' must be one of strict, medcap"),
        (("csv_path={csv}", "checkpoint_dir={llm}", "bits=16"), "its tokenizer cannot be read"),
        (("csv_path={csv}", "ckpt_dir={llm}", "bit=5"), "bits=5: there are 4, 8 and 16"),
        (("csv_path={csv}", "ckpt_dir={llm}", "checkpoint_dir=other"), "are two names of one key"),
        (("csv_path={csv}", "ckpt_dir={llm}", "bits=8", "dtype=fp32"), "dtype=fp32 goes with bits=16 only"),
        (("csv_path={csv}", "base_url=http://localhost/v1"), "base_url goes with judge=endpoint"),
        (("csv_path={csv}", "judge=endpoint"), "model is missing"),
        (("csv_path={csv}", "request.seed=1"), "request goes with judge=endpoint"),
        (("csv_path={csv}", "judge=endpoint", "request=low"), "request='low' must be of type dict"),
        (("csv_path={csv}", "judge=endpoint", "model=m"), "there is no key for https://api.openai.com/v1"),
        (("csv_path={csv}", "judge=endpoint", "model=m", "bits=4"), "bits goes with judge=local"),
        (("csv_path={csv}", "judge=endpoint", "model=m", "concurrency=0"), "concurrency=0 must be at least 1"),
        (("csv_path={csv}", "judge=self", "tokenizer=null"), "tokenizer is missing"),
        (
            ("csv_path={csv}", "judge=self", "checkpointer.checkpoint_dir=null"),
            "checkpointer.checkpoint_dir is missing",
        ),
        (("csv_path={csv}", "judge=self", "vision_checkpoint=null"), "vision is missing"),
        (("csv_path={csv}", "csvpath=x"), "unknown key csvpath: did you mean csv_path?"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, raw_table, capsys, overrides, message):
    (tmp_path / "llm").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "llm" / name).write_text("{}")
    with pytest.raises(SystemExit) as end:
        judge(*(override.format(csv=raw_table, llm=tmp_path / "llm") for override in overrides))
    assert end.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("medcap: ")
    assert message in line
    assert not (tmp_path / "verdicts.jsonl").exists()
