"""The page's script that decides what each run is sent, run by node, beside the terminal's in Python."""

import json
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from helpers.waiting import PATIENCE
from medcap.data.row_layouts import read_record
from medcap.generation.conversation import Conversation

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: it runs the page's script"),
]

# Asks as page.js does, and tells what each run is sent for the last question, and what is exported.
DRIVER = """
import { readFileSync } from "node:fs";
import { Conversation } from "./conversation.js";

function converse({ steps, system, alone }) {
  const conversation = new Conversation();
  for (const { text, images, answers, words } of steps) {
    const shown = images.map((name) => ({ name, url: name, sha256: name, width: 8, height: 8 }));
    const exchange = conversation.ask(text, shown, Object.keys(answers), [], words);
    for (const [model, given] of Object.entries(answers)) {
      const answer = exchange.answers.get(model);
      answer.seen = conversation.seen(exchange, model, alone);
      Object.assign(answer, given);
    }
  }
  const last = conversation.exchanges.at(-1);
  const models = [...last.answers.keys()];
  return {
    sent: Object.fromEntries(models.map((model) => [model, conversation.messages(last, model, system ?? "", alone)])),
    comparable: conversation.comparable(last),
    ...JSON.parse(JSON.stringify(conversation.toJSON({}))),
  };
}
console.log(JSON.stringify(JSON.parse(readFileSync(0)).map(converse)));
"""


@pytest.fixture(scope="module")
def converse(tmp_path_factory):
    """Holds conversations in node."""
    folder = tmp_path_factory.mktemp("page")
    for name in ("conversation.js", "view.js"):
        script = files("medcap.serving").joinpath("page", name).read_text(encoding="utf-8")
        (folder / name).write_text(script, encoding="utf-8")
    (folder / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    (folder / "driver.mjs").write_text(DRIVER, encoding="utf-8")

    def converse(*steps, **options):
        return converse_all([{"steps": steps, **options}])[0]

    def converse_all(conversations):
        done = subprocess.run(
            ["node", folder / "driver.mjs"],
            input=json.dumps(conversations).encode(),
            capture_output=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    converse.all = converse_all
    return converse


def step(text, *images, **answers):
    """A question, its images, and of each ticked run its words, or its state where they are a dictionary."""
    given = {name: answer if isinstance(answer, dict) else done(answer) for name, answer in answers.items()}
    return {"text": text, "images": images, "answers": given}


def done(text):
    return {"text": text, "state": "done"}


def sent(messages):
    """Roles, images and words."""
    return [
        (
            turn["role"],
            turn["content"]
            if isinstance(turn["content"], str)
            else [part.get("text") or part["image_url"]["url"] for part in turn["content"]],
        )
        for turn in messages
    ]


STOPPED = {"text": "", "state": "stopped"}
FAILED = {"text": "", "state": "failed", "problem": "too many requests wait already"}
BROKEN_OFF = {"text": "It is a", "state": "failed", "problem": "The server broke off"}
NEXT = {"text": "", "state": "open"}


def test_an_image_is_shown_to_a_run_that_is_ticked_later(converse):
    said = converse(step("What is it?", "a.png", A="A lung"), step("Which side?", A="Left", B="Right"))
    assert sent(said["sent"]["A"]) == [
        ("user", ["a.png", "What is it?"]),
        ("assistant", "A lung"),
        ("user", ["Which side?"]),
    ]
    assert sent(said["sent"]["B"]) == [("user", ["a.png", "Which side?"])]
    assert said["comparable"] == ["A", "B"]
    assert said["rows"][1] == {
        "model": "B",
        "image": ["a.png"],
        "conversations": [{"from": "human", "value": "<image>\nWhich side?"}, {"from": "gpt", "value": "Right"}],
    }


def test_each_run_is_sent_and_exports_boxes_in_its_own_notation(converse):
    words = {"A": "What is in [1, 2, 3, 4]?", "B": "What is in {<5><6><7><8>}?"}
    first = {**step("What is in {box 1}?", "a.png", A="A lung", B="A rib"), "words": words}
    for alone in (False, True):
        asked = converse(first, alone=alone)["sent"]
        assert {model: sent(asked[model])[-1] for model in "AB"} == {
            model: ("user", ["a.png", words[model]]) for model in "AB"
        }
    said = converse(first, step("And now?", A="Yes"))
    assert sent(said["sent"]["A"])[0] == ("user", ["a.png", words["A"]])
    assert [row["conversations"][0]["value"] for row in said["rows"]] == [f"<image>\n{words[model]}" for model in "AB"]


@pytest.mark.parametrize("lost", [STOPPED, FAILED, BROKEN_OFF, done(""), done("  ")])
def test_an_image_goes_with_the_next_turn_when_its_own_had_no_answer(converse, lost):
    said = converse(step("What is it?", "a.png", A=lost), step("Please look again.", A="A lung"), system="Be brief.")
    assert sent(said["sent"]["A"]) == [("system", "Be brief."), ("user", ["a.png", "Please look again."])]
    assert said["rows"][0]["image"] == ["a.png"]
    assert said["rows"][0]["conversations"][0]["value"] == "<image>\nPlease look again."


def test_several_images_wait_in_order_and_are_sent_once(converse):
    steps = [
        step("", "a.png", A=FAILED),
        step("And this?", "b.png", "c.png", A=STOPPED, B="Two"),
        step("Which side?", "d.png", A="Left", B="Right"),
        step("Sure?", A=NEXT, B=NEXT),
    ]
    said = converse(*steps)
    assert sent(said["sent"]["A"]) == [
        ("user", ["a.png", "b.png", "c.png", "d.png", "Which side?"]),
        ("assistant", "Left"),
        ("user", ["Sure?"]),
    ]
    assert sent(said["sent"]["B"]) == [
        ("user", ["a.png", "b.png", "c.png", "And this?"]),
        ("assistant", "Two"),
        ("user", ["d.png", "Which side?"]),
        ("assistant", "Right"),
        ("user", ["Sure?"]),
    ]
    assert said["rows"][0]["image"] == said["rows"][1]["image"] == ["a.png", "b.png", "c.png", "d.png"]


def test_a_question_alone_is_about_the_images_that_were_shown_last(converse):
    steps = [step("What?", "a.png", A="A lung"), step("And?", "b.png", A=FAILED), step("Which side?", A=NEXT, B=NEXT)]
    said = converse(*steps, alone=True)
    assert sent(said["sent"]["A"]) == sent(said["sent"]["B"]) == [("user", ["b.png", "Which side?"])]


def test_the_last_answer_is_not_part_of_what_is_asked_again(converse):
    said = converse(step("What?", "a.png", A=FAILED), step("Which side?", "b.png", A="Left"))
    assert sent(said["sent"]["A"]) == [("user", ["a.png", "b.png", "Which side?"])]


@pytest.mark.parametrize(
    ("answers", "comparable"),
    [
        ({"A": "Left", "B": "Right"}, ["A", "B"]),
        ({"A": "Left", "B": ""}, ["A", "B"]),
        ({"A": "Left", "B": FAILED}, ["A"]),
        ({"A": "Left", "B": BROKEN_OFF, "C": "Right"}, ["A", "C"]),
        ({"A": STOPPED, "B": "Right"}, ["B"]),
        ({"A": {"text": "Le", "state": "stopped"}, "B": "Right"}, ["A", "B"]),
        # Answered once more with each question alone, of which the other knows the images before it too.
        ({"A": {**done("Left"), "seen": []}, "B": "Right"}, []),
    ],
)
def test_answers_are_compared_only_between_runs_that_saw_the_same_images(converse, answers, comparable):
    assert converse(step("What?", "a.png", A=""), step("Which side?", **answers))["comparable"] == comparable


def test_a_run_that_never_answered_has_no_row(converse):
    said = converse(step("What?", "a.png", A="A lung", B=FAILED))
    assert [row["model"] for row in said["rows"]] == ["A"]


def test_a_turn_that_was_asked_alone_about_an_earlier_image_is_sent_without_its_placeholder(converse):
    said = converse(step("What?", "a.png", A="A lung"), step("<image> left?", A="No"), step("And red?", A=NEXT))
    assert sent(said["sent"]["A"])[2] == ("user", ["left?"])
    assert [turn["value"] for turn in said["rows"][0]["conversations"]][2] == "left?"


TYPED = st.lists(
    st.sampled_from(["<image>", "\u2460", "\u2460\u2460", " ", "\n", "lung", "<|image|>", "\u2461", "\x1c", "\ufeff"]),
    max_size=6,
).map("".join)
STEPS = st.lists(
    st.tuples(
        TYPED, st.lists(st.sampled_from(["a.png", "b.png"]), max_size=2), st.sampled_from(["", "Yes", "No \u2460"])
    ),
    min_size=1,
    max_size=5,
)


# Each example is a call of node: no shrinking.
@pytest.mark.slow
@settings(max_examples=4, deadline=None, derandomize=True, phases=[Phase.generate])
@given(conversations=st.lists(STEPS, min_size=20, max_size=20))
def test_rows_are_those_of_the_terminal_and_can_be_trained_on(converse, conversations):
    exported = converse.all(
        [{"steps": [step(text, *images, A=answer) for text, images, answer in steps]} for steps in conversations]
    )
    for steps, page in zip(conversations, exported, strict=True):
        terminal = Conversation()
        for text, images, answer in steps:
            terminal.ask(text, images)
            terminal.answer(answer)
        row = terminal.to_row()
        if not row["conversations"]:
            assert page["rows"] == []
            continue
        (found,) = page["rows"]
        assert found["conversations"] == row["conversations"] and found["image"] == row.get("image", [])
        record = read_record(found, Path("export.json"), 0, lambda image, folder: image)
        assert [image.path for image in record.images] == found["image"]


def outlined(text, *counts):
    """An answer with masks, as the page keeps them; None is an absent object."""
    masks = [{"mask": count and {}, "runLength": count and {"size": [2, 2], "counts": count}} for count in counts]
    return {"text": text, "state": "done", "masks": masks}


def test_a_row_holds_a_mask_for_each_word_on_the_last_image_before_it(converse):
    first = step("Outline it.", "a.png", "b.png", A=outlined("ring <SEG>, cyst not visible", "13", None))
    (row,) = converse(first, step("And now?", "c.png", A=outlined("<SEG> and <SEG>", "22", "31")))["rows"]
    assert row["masks"] == [
        {"mask": {"size": [2, 2], "counts": counts}, "image": image}
        for counts, image in (("13", 1), ("22", 2), ("31", 2))
    ]
    # A word without its mask would make a row that cannot be trained on.
    (row,) = converse(first, step("And now?", A=outlined("<SEG>")))["rows"]
    assert "masks" not in row
