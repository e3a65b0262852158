import json
import signal
import threading

import pytest

from helpers.chat_server import chat_server
from helpers.waiting import PATIENCE, wait_for
from medcap.datasets.rows.json_rows import read_rows
from medcap.errors import UserError
from medcap.instruct.asking import REPLIES, Asking
from medcap.instruct.budget import Limits
from medcap.instruct.figures import Columns
from medcap.instruct.generate import generate
from medcap.language_models.base import NOT_SENT, LanguageModel, Reply
from medcap.language_models.recorded import RecordedReplies

GOOD = "User: What is it?\n\nAssistant: A cyst."


class Scripted(LanguageModel):
    """Replies by the id of a prompt, and remembers whom it was asked about."""

    kind = "scripted"

    def __init__(self, replies=None, stop_after=None, name="m"):
        self.replies = replies or {}
        self.stop_after = stop_after
        self.model = name
        self.asked = []
        self.prompts = []

    @property
    def name(self):
        return self.model

    @property
    def settings(self):
        return {"model": self.model}

    def ask(self, prompts, on_reply, admit=None):
        for position, prompt in enumerate(prompts):
            if why := admit(position):
                on_reply(position, Reply("", NOT_SENT, error=why))
                continue
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(prompt.id)
            self.prompts.append(prompt)
            on_reply(position, self.replies.get(prompt.id, Reply(GOOD, "stop", 10, num_prompt_tokens=100)))


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "captions.jsonl"
    rows = [{"pair_id": f"P{number}", "fig_caption": f"Scan {number}.", "domain": "ct"} for number in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(source, model, *, mentions=True, **asking):
    return generate(source, Columns(), model, source.parent / "out", Asking(**asking), mentions)


def lines(source, name):
    return [json.loads(line) for line in (source.parent / "out" / name).read_text().splitlines()]


def test_a_figure_becomes_a_row_with_its_image_domain_and_turns(source):
    model = Scripted({"P1": Reply(f"{GOOD}\n\nUser: Where?\n\nAssistant: Left.", "stop", 20, "", 100)})
    summary = run(source, model)
    rows = [row for _, row in read_rows(source.parent / "out" / "conversations.jsonl")]
    assert [row["id"] for row in rows] == [f"P{number}" for number in range(6)]
    assert {key: rows[1][key] for key in ("id", "image", "domain")} == {"id": "P1", "image": "P1.jpg", "domain": "ct"}
    assert [turn["from"] for turn in rows[1]["conversations"]] == ["human", "gpt"] * 2
    firsts = [row["conversations"][0]["value"] for row in rows]
    assert set(firsts) == {"<image>\nWhat is it?", "What is it?\n<image>"}  # both sides of the coin
    assert rows[1]["conversations"][2]["value"] == "Where?"
    assert (summary.rows, summary.counts["questions with answers"]) == (6, 7)
    assert summary.text().splitlines()[-1] == "tokens: 600 of prompts, 70 of replies"


def test_the_prompt_has_the_task_eight_examples_and_the_figure(source):
    source.write_text('{"id": 1, "caption": "A scan.", "fig_label": "Fig. 1", "mentions": ["Seen.", "Big."]}\n')
    model = Scripted()
    run(source, model)
    turns = model.prompts[0].turns
    assert [turn.role for turn in turns] == ["system", *["user", "assistant"] * 8, "user"]
    assert turns[-1].content == "Figure Caption:\nFig. 1: A scan.\n\nFigure Context:\n\t- Seen.\n\t- Big."
    assert turns[2].content.startswith("User: ") and "\n\nAssistant: " in turns[2].content
    assert "Figure Context" in turns[0].content
    model = Scripted()
    run(source, model, mentions=False, overwrite=True)
    turns = model.prompts[0].turns
    assert turns[-1].content == "Figure Caption:\nFig. 1: A scan."
    assert not any("Figure Context" in turn.content for turn in turns)


def test_a_run_that_was_stopped_asks_nothing_twice_and_loses_nothing(source):
    first = Scripted(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        run(source, first)
    with (source.parent / "out" / REPLIES).open("a") as file:
        file.write('{"id": "P2", "reply": "cut o')  # as a kill in the middle of a line leaves it
    second = Scripted(stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        run(source, second)
    third = Scripted()
    summary = run(source, third)
    assert first.asked + second.asked + third.asked == [f"P{number}" for number in range(6)]
    assert [row["id"] for row in lines(source, REPLIES)] == [f"P{number}" for number in range(6)]
    assert (summary.rows, summary.asked.earlier) == (6, 5)
    assert run(source, Scripted(stop_after=0)).rows == 6  # nothing is left to ask


def test_failures_are_counted_by_kind_kept_apart_and_asked_again(source):
    replies = {
        "P0": Reply("", "error", error="status 500: busy (3 tries)"),
        "P1": Reply("", "error", error="status 500: no room"),
        "P2": Reply("I cannot."),
        "P3": Reply("User: A?\nAssistant: a", "length"),
    }
    summary = run(source, Scripted(replies))
    assert dict(summary.failed.skipped) == {
        "status 500": 2,
        "the reply has no turns of User and Assistant": 1,
        "the reply was cut off": 1,
    }
    assert [row["id"] for row in lines(source, "failures.jsonl")] == ["P0", "P1", "P2", "P3"]
    assert [row["reply"] for row in lines(source, REPLIES)][:4] == [None, None, "I cannot.", "User: A?\nAssistant: a"]
    again = Scripted()
    assert run(source, again).rows == 4
    assert again.asked == ["P0", "P1"]  # what the model said to the others is known
    once_more = Scripted()
    assert run(source, once_more, again=True).rows == 6
    assert once_more.asked == ["P2", "P3"]


def test_other_settings_are_refused_by_their_options(source):
    run(source, Scripted())
    with pytest.raises(UserError, match=r"model: \"m\" there, \"other\" now\): set --out to another folder"):
        run(source, Scripted(name="other"))
    other = Scripted(name="other")
    summary = run(source, other, keep_old=True)
    assert other.asked == []
    assert summary.asked.notices == ["6 replies were made under other settings than these"]


def test_a_model_that_replies_to_nothing_leaves_no_file_that_would_refuse_the_right_one(source):
    broken = Scripted({f"P{number}": Reply("", "error", error="no room") for number in range(6)}, name="wrong")
    with pytest.raises(UserError, match=r"replied to none of the 6 prompts; the last one \(P5\): no room"):
        run(source, broken)
    assert run(source, Scripted(name="right")).rows == 6


def test_a_model_that_writes_no_conversations_is_not_asked_any_more(source):
    source.write_text("".join(json.dumps({"id": number, "caption": "A scan."}) + "\n" for number in range(40)))
    model = Scripted({str(number): Reply("le imag", "length") for number in range(40)})
    message = r"not one of the first 16 replies can be used; the last one: the reply has no turns .* \('le imag'\)"
    with pytest.raises(UserError, match=message):
        run(source, model)
    assert len(model.asked) == len(lines(source, REPLIES)) == 16
    assert run(source, Scripted(), overwrite=True).rows == 40


@pytest.mark.parametrize(
    ("limits", "asked", "why"),
    [
        (Limits(tokens=100_000), 6, ""),
        # Each prompt has room for itself and 50 tokens of reply; the replies use 110 each.
        (Limits(tokens=7000), 1, "the budget of 7,000 tokens, of which 6,910 are used, has no room"),
        (
            Limits(cost=0.007, price_in=1.0, price_out=2.0),
            1,
            "the budget of 0.007, of which 0.00692 is used, has no room",
        ),
    ],
)
def test_a_budget_ends_the_asking_and_a_larger_one_goes_on(source, limits, asked, why, monkeypatch):
    monkeypatch.setattr("medcap.instruct.budget._estimate", lambda text: 6900)
    replies = {f"P{number}": Reply(GOOD, "stop", 10, num_prompt_tokens=6900) for number in range(6)}
    model = Scripted(replies)
    summary = run(source, model, limits=limits, max_new_tokens=50)
    assert len(model.asked) == asked
    assert summary.asked.why_not.partition(" for another")[0] == why
    assert (summary.rows, summary.asked.not_sent) == (asked, 6 - asked)
    more = Scripted(replies)
    summary = run(source, more, limits=Limits(tokens=10**9), max_new_tokens=50)
    assert model.asked + more.asked == [f"P{number}" for number in range(6)]
    assert (summary.asked.budget.prompt_tokens, summary.asked.budget.tokens) == (6 * 6900, 60)


def test_a_limit_without_prices_is_refused():
    with pytest.raises(UserError, match="--max-cost needs the prices"):
        Limits(cost=1.0)
    with pytest.raises(UserError, match="--price-in and --price-out go together"):
        Limits(price_in=1.0)
    assert Limits(price_in=2.0, price_out=8.0).price(500_000, 250_000) == 3.0


def test_recorded_replies_take_the_place_of_a_model(source):
    recorded = source.parent / "recorded.jsonl"
    rows = [{"pair_id": "P0", "result": "User: A?\nAssistant: old."}, {"pair_id": "P0", "result": GOOD}, {"id": "P1"}]
    rows += [
        {"id": "P2", "reply": "User: A?\nAssistant: a", "finish": "length"},
        {"id": "P3", "reply": None, "error": "x"},
    ]
    recorded.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"id": "P4", "rep')
    summary = run(source, RecordedReplies(recorded, progress=False))
    assert [row["conversations"][1]["value"] for row in lines(source, "conversations.jsonl")] == ["A cyst."]
    assert dict(summary.failed.skipped) == {"no recorded reply": 4, "the reply was cut off": 1}
    assert summary.asked.notices[0].endswith("recorded.jsonl: 2 lines hold no reply and are left out")
    assert summary.asked.notices[1].startswith("the tokens of 2 replies were not counted")
    (source.parent / "empty.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="holds no recorded replies"):
        RecordedReplies(source.parent / "empty.jsonl")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        RecordedReplies(source.parent / "gone.jsonl")


def test_examples_of_ones_own_are_used_and_checked(source):
    own = source.parent / "examples.json"
    own.write_text(json.dumps({"generate": [{"caption": "An eye.", "conversation": [["What?", "An eye."]]}]}))
    model = Scripted()
    run(source, model, examples=own)
    assert [turn.content for turn in model.prompts[0].turns[1:3]] == [
        "Figure Caption:\nAn eye.",
        "User: What?\n\nAssistant: An eye.",
    ]
    own.write_text(json.dumps({"generate": [{"caption": "An eye."}]}))
    with pytest.raises(UserError, match="example 0 under 'generate' needs caption and conversation"):
        run(source, model, examples=own)
    own.write_text("[]")
    with pytest.raises(UserError, match="has no list under 'generate'"):
        run(source, model, examples=own)


@pytest.mark.slow
def test_a_killed_program_goes_on_where_it_was(source, server):
    pytest.importorskip("openai")
    source.write_text("".join(json.dumps({"id": str(n), "caption": f"Scan {n}."}) + "\n" for n in range(20)))
    code = "import sys; from medcap.cli import main; sys.exit(main())"
    replies = source.parent / "out" / REPLIES
    hanging, answered = threading.Event(), 5

    def respond(_, number):
        if number in (5, 12):  # 5 replies, then 6 more, each time before a request that is never answered
            hanging.wait(PATIENCE)
        return GOOD

    with chat_server(respond) as chat:
        words = ["instruct", "generate", str(source), "--out", str(replies.parent), "--model", "m"]
        words += ["--base-url", chat.base_url, "--concurrency", "1"]
        for answered in (5, 11):
            process = server.program(source.parent / f"printed_{answered}", code, *words)
            wait_for(lambda count=answered: replies.exists() and replies.read_text().count("\n") == count)
            assert process.end(signal.SIGKILL) == -signal.SIGKILL
        process = server.program(source.parent / "printed", code, *words)
        assert process.wait()[0] == 0, process.errors.read_text()
        hanging.set()
        assert len(chat.requests) <= 22  # each once, and the two that were on their way
    assert sorted(int(row["id"]) for row in lines(source, REPLIES)) == list(range(20))
    assert f"20 replies ({answered} of an earlier run), 20 rows written" in process.printed()
