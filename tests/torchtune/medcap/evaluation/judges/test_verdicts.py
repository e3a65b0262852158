import csv
import json

import pytest

from helpers.processes import run_in_processes
from medcap.errors import UserError
from medcap.evaluation.judges.base import Judge, Reply
from medcap.evaluation.judges.inputs import read_judged
from medcap.evaluation.judges.verdicts import judge_answers
from medcap.evaluation.predictions import dataset_fingerprint
from medcap.evaluation.shared.team import Team


class Scripted(Judge):
    """Replies by the words after "Our answer: " and remembers them."""

    kind = "scripted"

    def __init__(self, replies=(), stop_after=None, name="judge", temperature=0):
        self.replies = dict(replies)
        self.asked = []
        self.stop_after = stop_after
        self.model = name
        self.temperature = temperature

    @property
    def name(self):
        return self.model

    @property
    def settings(self):
        return {"model": self.model, "temperature": self.temperature}

    def ask(self, prompts, on_reply):
        for position, prompt in enumerate(prompts):
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            answer = prompt.partition("Our answer: ")[2].partition("\n")[0]
            self.asked.append(answer)
            reply = self.replies.get(answer, "RIGHT")
            on_reply(position, reply if isinstance(reply, Reply) else Reply(reply, "stop", 2))


REPLIES = {"a1": "WRONG", "a2": "Right.", "a3": "the right lung", "a4": Reply("", "error", error="timed out")}


@pytest.fixture
def source(tmp_path):
    rows = [
        {"question_id": f"q{position}", "question": "Q?", "reference": "r", "prediction": f"a{position}"}
        | {"modality": "CT" if position % 2 else "MR", "image": f"{position}.png"}
        for position in range(6)
    ]
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(source, output, judge, **options):
    return judge_answers(judge, read_judged(source), output, source=source, **options)


def rows(folder):
    return [json.loads(line) for line in (folder / "verdicts.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.processes
def test_two_processes_write_the_files_of_one(source, tmp_path):
    whole = run(source, tmp_path / "one", Scripted(REPLIES))

    def work(world):
        judge, team = Scripted(REPLIES), Team(world, batch=1)
        return run(source, tmp_path / "two", judge, team=team), judge.asked

    (metrics, asked), (nothing, theirs) = run_in_processes(work)
    assert metrics == whole
    assert nothing is None
    # The first one asks once more alone for what has failed.
    assert sorted({*asked, *theirs}) == [f"a{position}" for position in range(6)]
    one, two = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert [path.name for path in one] == [path.name for path in two]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_verdicts_and_metrics_are_written(source, tmp_path):
    metrics = run(source, tmp_path / "out", Scripted(REPLIES))
    assert json.loads((tmp_path / "out" / "verdicts_metrics.json").read_text()) == metrics
    counts = {name: metrics[name] for name in ("n", "right", "wrong", "unparsed", "failures", "empty_answers")}
    assert counts == {"n": 6, "right": 3, "wrong": 1, "unparsed": 1, "failures": 1, "empty_answers": 0}
    assert metrics["scores"] == {"accuracy": 0.5}
    assert metrics["averages"]["macro"]["modality"]["value"] == 0.5
    interval = metrics["intervals"]["accuracy"]
    assert interval["low"] < 0.5 < interval["high"]
    assert [(line["modality"], line["right"], line["n"]) for line in metrics["tables"]["modality"]] == [
        ("CT", 1, 3),
        ("MR", 2, 3),
    ]
    assert metrics["dataset"] == {"source": str(source), "sha256": dataset_fingerprint(source), "rows": 6}
    assert (metrics["judge"], metrics["parsing"], metrics["protocol"]) == ("judge", "strict", "judge_strict")
    assert len(metrics["prompt_sha256"]) == 64
    assert (metrics["unparsed_ids"], metrics["failed_ids"]) == (["q3"], ["q4"])
    assert metrics["notices"] == [
        "1 answer has no verdict and counts as wrong (the first, q4: timed out); the same command asks them again",
        "1 reply is neither RIGHT nor WRONG and counts as wrong (the first, q3: 'the right lung')",
    ]
    first, *_, failed, _ = rows(tmp_path / "out")
    for row in (first, failed):
        del row["fingerprint"], row["settings"]
    assert first == {
        "question_id": "q0",
        "image": "0.png",
        "question": "Q?",
        "reference": "r",
        "modality": "MR",
        "prediction": "a0",
        "verdict": "RIGHT",
        "reply": "RIGHT",
        "finish": "stop",
        "num_tokens": 2,
        "error": None,
    }
    assert (failed["verdict"], failed["reply"], failed["error"]) == (None, None, "timed out")


def test_a_killed_run_continues_and_ends_like_an_undisturbed_one(source, tmp_path):
    whole = run(source, tmp_path / "whole", Scripted(REPLIES))
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", Scripted(REPLIES, stop_after=3))
    path = tmp_path / "out" / "verdicts.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    again = Scripted(REPLIES)
    assert run(source, tmp_path / "out", again) == whole
    assert again.asked == ["a2", "a3", "a4", "a5"]
    assert sorted(path.read_bytes().splitlines()) == sorted(
        (tmp_path / "whole" / "verdicts.jsonl").read_bytes().splitlines()
    )


def test_only_failures_are_asked_again(source, tmp_path):
    run(source, tmp_path / "out", Scripted(REPLIES))
    repaired = Scripted()
    metrics = run(source, tmp_path / "out", repaired)
    assert repaired.asked == ["a4"]
    assert (metrics["right"], metrics["failures"]) == (4, 0)


def test_other_parsing_reads_the_same_replies_again(source, tmp_path):
    run(source, tmp_path / "out", Scripted({**REPLIES, "a4": "Hm?"}))
    silent = Scripted(stop_after=0)
    metrics = run(source, tmp_path / "out", silent, parsing="medcap")
    assert (metrics["right"], metrics["wrong"], metrics["unparsed"], metrics["protocol"]) == (4, 2, 0, "judge_medcap")
    assert run(source, tmp_path / "out", silent)["right"] == 3


def test_another_judge_needs_another_folder_or_overwrite(source, tmp_path):
    run(source, tmp_path / "out", Scripted())
    with pytest.raises(UserError, match=r'model: "judge" there, "other" now.*output_dir=.*overwrite=true'):
        run(source, tmp_path / "out", Scripted(name="other"))
    other = Scripted(name="other")
    run(source, tmp_path / "out", other, overwrite=True)
    assert len(other.asked) == 6


def test_old_verdicts_can_be_kept_and_are_reported(source, tmp_path):
    run(source, tmp_path / "out", Scripted({"a5": Reply("", "error", error="down"), "a0": "bright"}))
    other = Scripted(name="other")
    metrics = run(source, tmp_path / "out", other, keep_old=True, parsing="medcap")
    assert other.asked == ["a5"]
    assert metrics["right"] == 6
    assert metrics["notices"] == ["5 verdicts were made under other settings than these"]


def test_a_changed_answer_or_reference_is_asked_again(source, tmp_path):
    run(source, tmp_path / "out", Scripted())
    changed = [json.loads(line) for line in source.read_text().splitlines()]
    changed[0]["prediction"] = "b0"
    changed[1]["reference"] = "s"
    source.write_text("".join(json.dumps(row) + "\n" for row in changed))
    again = Scripted()
    run(source, tmp_path / "out", again)
    assert again.asked == ["b0", "a1"]


NO_WORDS = [
    Reply("", "length"),
    Reply(" \n", "content_filter"),
    Reply("...", "stop"),
    Reply("<think>Is it", "length", 9),
]


@pytest.mark.parametrize("parsing", ["strict", "medcap"])
@pytest.mark.parametrize("reply", NO_WORDS)
def test_a_reply_without_words_is_asked_again(source, tmp_path, reply, parsing):
    metrics = run(source, tmp_path / "out", Scripted({"a1": reply, "a2": reply}), parsing=parsing)
    assert (metrics["right"], metrics["unparsed"], metrics["failures"]) == (4, 0, 2)
    row = rows(tmp_path / "out")[1]
    assert (row["verdict"], row["reply"], row["finish"]) == (None, None, reply.finish)
    assert row["error"].startswith("the reply has ")
    assert f"(finish {reply.finish})" in row["error"]
    again = Scripted()
    assert run(source, tmp_path / "out", again, parsing=parsing)["right"] == 6
    assert again.asked == ["a1", "a2"]


def test_a_reply_that_was_cut_off_is_asked_again_unless_it_had_given_its_verdict(source, tmp_path):
    replies = {"a1": Reply("Let me compare the two.", "length"), "a2": Reply("WRONG. The mass is in", "length")}
    metrics = run(source, tmp_path / "out", Scripted(replies))
    assert (metrics["right"], metrics["wrong"], metrics["failed_ids"]) == (4, 1, ["q1"])
    assert metrics["notices"] == [
        "1 answer has no verdict and counts as wrong (the first, q1: the reply was cut off before a verdict (finish"
        " length): 'Let me compare the two.'; raise max_new_tokens, and set keep_old_answers=true to keep the other"
        " verdicts); the same command asks them again"
    ]
    again = Scripted()
    assert run(source, tmp_path / "out", again)["right"] == 5
    assert again.asked == ["a1"]


def test_replies_without_words_in_an_older_file_are_asked_again(source, tmp_path):
    run(source, tmp_path / "out", Scripted({"a1": "Hm."}))
    path = tmp_path / "out" / "verdicts.jsonl"
    old = rows(tmp_path / "out")
    old[1] |= {"reply": "", "finish": "length", "verdict": "UNPARSED"}
    old[2] |= {"reply": "Let me think", "finish": "length", "verdict": "UNPARSED"}
    old[3] |= {"reply": "RIGHT. Both agree.", "finish": "stop", "verdict": "UNPARSED"}
    path.write_text("".join(json.dumps(row) + "\n" for row in old))
    again = Scripted()
    assert run(source, tmp_path / "out", again)["right"] == 6
    assert again.asked == ["a1", "a2"]


def test_a_run_without_one_verdict_stops(source, tmp_path):
    silent = Scripted({f"a{position}": NO_WORDS[0] for position in range(6)})
    with pytest.raises(UserError, match=r"none of the 6 answers can be judged; .*no words \(finish length\)"):
        run(source, tmp_path / "silent", silent)
    vague = Scripted({f"a{position}": "Hm." for position in range(5)} | {"a5": NO_WORDS[0]})
    with pytest.raises(UserError, match=r"judge replied to 5 answers, and not one reply is RIGHT or WRONG .*'Hm\.'"):
        run(source, tmp_path / "vague", vague)
    assert not (tmp_path / "vague" / "verdicts_metrics.json").exists()
    # The replies are kept: what was paid for can be read by another rule, and a failure is asked again.
    again = Scripted()
    assert run(source, tmp_path / "vague", again)["right"] == 1
    assert again.asked == ["a5"]


def test_an_empty_answer_is_no_verdict_of_the_judge(tmp_path):
    source = tmp_path / "answers.json"
    source.write_text(json.dumps([{"question": "Q", "reference": "r", "prediction": p} for p in ("", "a", "b")]))
    for reply in (Reply("", "error", error="down"), Reply("", "length"), "Hm."):
        with pytest.raises(UserError, match=r"none of the 3 answers can be judged|not one reply is RIGHT or WRONG"):
            run(source, tmp_path / str(reply), Scripted({"a": reply, "b": reply}))


def test_a_judge_that_gives_no_verdict_stops_early(tmp_path):
    source = tmp_path / "many.json"
    source.write_text(json.dumps([{"question": "Q", "reference": "r", "prediction": str(n)} for n in range(100)]))
    vague = Scripted({str(n): "I cannot say." for n in range(100)})
    with pytest.raises(UserError, match="replied to 16 answers, and not one reply is RIGHT or WRONG"):
        run(source, tmp_path / "out", vague)
    assert len(vague.asked) == 16
    late = Scripted({str(n): "I cannot say." for n in range(1, 100)})
    metrics = run(source, tmp_path / "late", late)
    assert (metrics["right"], metrics["unparsed"]) == (1, 99)
    assert metrics["notices"] == [
        "99 replies are neither RIGHT nor WRONG and count as wrong (the first, 1: 'I cannot say.'): 99% of all, so the"
        " accuracy says more of the judge than of the answers; take another judge"
    ]


def test_verdicts_on_another_file_are_not_replaced_unasked(source, tmp_path):
    run(source, tmp_path, Scripted())
    before = (tmp_path / "verdicts_metrics.json").read_bytes()
    other = tmp_path / "predictions_shuffled.jsonl"
    other.write_text(source.read_text().replace("a0", "b0"))
    with pytest.raises(UserError, match=r"has the verdicts on .*predictions\.jsonl: set output_dir=.*overwrite=true"):
        run(other, tmp_path, Scripted())
    assert (tmp_path / "verdicts_metrics.json").read_bytes() == before
    assert run(other, tmp_path, Scripted(), overwrite=True)["dataset"]["source"] == str(other)
    moved = tmp_path / "moved.jsonl"
    other.rename(moved)
    assert run(moved, tmp_path, Scripted(stop_after=0))["right"] == 6


def test_an_empty_answer_is_wrong_and_a_row_without_reference_a_failure_without_asking(tmp_path):
    source = tmp_path / "answers.json"
    answers = [("", "r"), (" \n", "r"), ("a", ""), ("None", "None"), ("b", ["", "s"])]
    source.write_text(json.dumps([{"question": "Q", "reference": r, "prediction": p} for p, r in answers]))
    judge = Scripted()
    metrics = run(source, tmp_path / "out", judge)
    assert judge.asked == ["None", "b"]
    assert (metrics["right"], metrics["wrong"], metrics["failures"], metrics["empty_answers"]) == (2, 2, 1, 2)
    assert [row["error"] for row in rows(tmp_path / "out")[:3]] == [
        None,
        None,
        "the row has no reference to compare with",
    ]
    assert run(source, tmp_path / "out", Scripted(stop_after=0)) == metrics
    assert len(rows(tmp_path / "out")) == 5


def test_a_judge_that_fails_on_everything_stops_the_run(source, tmp_path):
    class Failing(Scripted):
        def ask(self, prompts, on_reply):
            for position in range(len(prompts)):
                self.asked.append(position)
                on_reply(position, Reply("", "error", error="bad model"))

    with pytest.raises(UserError, match="none of the 6 answers can be judged; the first one: bad model"):
        run(source, tmp_path / "out", Failing())
    assert not (tmp_path / "out" / "verdicts_metrics.json").exists()
    assert run(source, tmp_path / "out", Scripted(name="other"))["right"] == 6
    many = tmp_path / "many.json"
    many.write_text(json.dumps([{"question": "Q", "reference": "r", "prediction": str(n)} for n in range(100)]))
    failing = Failing()
    with pytest.raises(UserError, match="failed on 16 answers and judged none; the last one: bad model"):
        run(many, tmp_path / "many", failing)
    assert len(failing.asked) == 16


RAW = """image,instruction,output,generated
"/x/a, b.png",Is it?,yes,"No, ""never\"""
b.png,Where?,läßt,
c.png,Q?,nan,None
"""


def test_a_csv_comes_back_as_a_csv_with_medcaps_columns_first(tmp_path):
    source = tmp_path / "vqarad-raw.csv"
    source.write_text(RAW, encoding="utf-8-sig")
    judge = Scripted({'No, "never"': "WRONG\nbecause,\nit is"}, name="meta/Llama 70B_4bit")
    metrics = run(source, tmp_path / "out", judge)
    assert metrics["csv"] == "vqarad-raw-meta_Llama_70B_4bit-0.33333.csv"
    path = tmp_path / "out" / metrics["csv"]
    assert path.read_bytes().startswith(b"\xef\xbb\xbfimage,instruction,generated,verdict,question_id,error\n")
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.reader(file))[1:]
    start = "Respond with only RIGHT or WRONG to indicate whether we predicted it correctly.\n\n"
    assert table == [
        [
            "/x/a, b.png",
            start + 'Question: Is it?\nOur answer: No, "never"\nCorrect answer: yes',
            "WRONG\nbecause,\nit is",
            "WRONG",
            "0",
            "",
        ],
        ["b.png", start + "Question: Where?\nOur answer: \nCorrect answer: läßt", "", "WRONG", "1", ""],
        ["c.png", start + "Question: Q?\nOur answer: None\nCorrect answer: nan", "RIGHT", "RIGHT", "2", ""],
    ]


def test_the_csv_of_another_accuracy_is_replaced_and_other_files_stay(tmp_path):
    source = tmp_path / "raw.csv"
    source.write_text(RAW, encoding="utf-8-sig")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "raw-judge-0.9.csv").write_text("mine")
    run(source, tmp_path / "out", Scripted({"None": Reply("", "error", error="down"), 'No, "never"': "WRONG"}))
    metrics = run(source, tmp_path / "out", Scripted())
    assert metrics["csv"] == "raw-judge-0.33333.csv"
    assert sorted(path.name for path in (tmp_path / "out").glob("*.csv")) == [
        "raw-judge-0.33333.csv",
        "raw-judge-0.9.csv",
    ]


def test_a_judge_sees_no_reasoning_and_a_reply_cut_off_in_it_is_wrong(tmp_path):
    said = ["<think>It may be b.</think>a", "<think>It may be", "b"]
    path = tmp_path / "answers.jsonl"
    lines = [
        {"question_id": f"q{number}", "question": "Q?", "reference": "a", "prediction": text}
        for number, text in enumerate(said)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    judge = Scripted({"b": "WRONG"})
    metrics = run(path, tmp_path / "out", judge)
    assert judge.asked == ["a", "b"]
    assert [line["verdict"] for line in sorted(rows(tmp_path / "out"), key=lambda row: row["question_id"])] == [
        *("RIGHT", "WRONG", "WRONG")
    ]
    assert metrics["empty_answers"] == 1
    assert metrics["notices"] == [
        "replies with reasoning or tags, which are taken off: 2 of 3 (the first is q0)",
        "replies that end within their reasoning, counted as wrong: 1 of 3 (the first is q1)",
    ]
