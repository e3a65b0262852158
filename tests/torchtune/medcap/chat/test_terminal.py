import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.dicom_files import write_dicom
from medcap.chat.terminal import Chat
from medcap.data.row_layouts import read_record
from medcap.errors import UserError
from medcap.generation.conversation import Conversation
from medcap.generation.prompt import caption_request, question_request
from medcap.generation.request import Sampling

GREEDY = Sampling(max_new_tokens=6)


def answer(generator, request, sampling=GREEDY):
    return generator.generate([request], sampling)[0].text


def conversed(generator, *turns, system=""):
    """The answers to turns (text, images), each knowing those before it."""
    conversation = Conversation(system)
    for text, images in turns:
        conversation.ask(text, images)
        conversation.answer(answer(generator, conversation.request()))
    return [exchange.answer for exchange in conversation.exchanges]


def test_answers_are_streamed_line_by_line(talk, generator):
    out, err = talk("/image 0.png", "", "/reset", "Is there a circle?")
    assert out == [
        answer(generator, caption_request("0.png")),
        answer(generator, question_request(None, "Is there a circle?")),
    ]
    assert err[0] == "0.png: 12 x 10, shown with your next words"
    assert "cut after 6 tokens: /set max_new_tokens=... allows more" in err


def test_images_come_at_any_turn_and_turns_are_remembered(talk, generator, tmp_path):
    write_dicom(tmp_path / "scan.dcm", np.arange(64, dtype=np.uint16).reshape(8, 8))
    out, _ = talk("What is it?", "/image 0.png", "/image scan.dcm", "And these?", "Is it the left one?")
    expected = conversed(
        generator, ("What is it?", []), ("And these?", ["0.png", "scan.dcm"]), ("Is it the left one?", [])
    )
    assert out == expected
    assert out[2] != answer(generator, question_request(None, "Is it the left one?"))


def test_a_system_text_comes_first(talk, generator):
    out, err = talk("/system Be brief.", "What is it?", "/system", "/reset", "What is it?")
    assert out == [
        *conversed(generator, ("What is it?", []), system="Be brief."),
        answer(generator, question_request(None, "What is it?")),
    ]
    assert "system: Be brief." in err and "no system text" in err


def test_questions_can_be_asked_alone(talk, generator):
    out, err = talk("/image 0.png", "What is it?", "/alone on", "Is it left?", "/alone off", "Is it left?", "/alone")
    alone = [answer(generator, question_request("0.png", words)) for words in ("What is it?", "Is it left?")]
    assert out[:2] == alone and out[2] != out[1]
    assert "each question alone" in err and err[-1] == "write /alone on or /alone off"


def test_retry_samples_again_and_replaces_the_answer(talk, generator):
    chat = Chat(replace(GREEDY, temperature=2.0, seed=3))
    out, _ = talk("What is it?", "/retry", "And now?", chat=chat)
    assert out[0] != out[1]
    assert [exchange.answer for exchange in chat.conversation.exchanges] == out[1:]


def test_settings_can_be_changed(talk, generator):
    out, _ = talk(
        "/set max_new_tokens=2", "What is it?", "/set temperature=1.5", "/set seed=4", "/reset", "What is it?"
    )
    request = replace(question_request(None, "What is it?"), id="conversation")
    assert out == [
        answer(generator, request, Sampling(2)),
        answer(generator, request, Sampling(2, temperature=1.5, seed=4)),
    ]


def test_a_conversation_is_saved_to_train_on_and_to_read(talk, say, tmp_path):
    say("Yes, left")
    out, err = talk("/image 0.png", "What is it?", "/save said/it.json", "/save it.md")
    (row,) = json.loads((tmp_path / "said/it.json").read_text())
    assert row == {
        "image": [str(tmp_path / "0.png")],
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": "Yes, left"},
        ],
    }
    assert out == ["Yes, left"] and "Yes, left" in (tmp_path / "it.md").read_text()
    assert "saved 1 exchange in said/it.json" in err


@pytest.mark.parametrize("lost", [KeyboardInterrupt(), UserError("out of memory"), ""])
def test_an_image_reaches_the_next_turn_when_the_first_has_no_answer(talk, say, tmp_path, lost):
    requests = say(lost, "Yes", "No")
    talk("/image 0.png", "What is it?", "/image 1.png", "Is it left?", "And red?", "/save it.json")
    images = [str(tmp_path / "0.png"), str(tmp_path / "1.png")]
    assert requests[0] == [("user", [images[0], "\nWhat is it?"])]
    assert requests[1] == [("user", [*images, "\nIs it left?"])]
    assert requests[2] == [("user", [*images, "\nIs it left?"]), ("assistant", ["Yes"]), ("user", ["And red?"])]
    (row,) = json.loads((tmp_path / "it.json").read_text())
    assert row["image"] == images
    assert row["conversations"][:2] == [
        {"from": "human", "value": "<image>\n<image>\nIs it left?"},
        {"from": "gpt", "value": "Yes"},
    ]
    assert len(row["conversations"]) == 4


def test_an_image_reaches_a_question_that_is_asked_alone_after_a_failure(talk, say, tmp_path):
    requests = say(UserError("out of memory"), "Yes")
    talk("/alone on", "/image 0.png", "What is it?", "Is it left?")
    assert requests[1] == [("user", [str(tmp_path / "0.png"), "\nIs it left?"])]


def test_a_question_that_failed_is_asked_again_with_its_image(talk, say, tmp_path):
    requests = say("Yes", UserError("out of memory"), "No")
    chat = Chat(replace(GREEDY, seed=3))
    talk("What is it?", "/image 0.png", "Is it left?", "/retry", chat=chat)
    assert requests[1] == requests[2]
    assert requests[2][-1] == ("user", [str(tmp_path / "0.png"), "\nIs it left?"])
    assert [exchange.answer for exchange in chat.conversation.exchanges] == ["Yes", "No"] and chat.sampling.seed == 3


def test_an_answer_that_is_stopped_at_a_retry_leaves_the_image_to_the_next_turn(talk, say, tmp_path):
    requests = say("Yes", KeyboardInterrupt(), "No")
    talk("/image 0.png", "What is it?", "/retry", "Is it left?")
    assert requests[2] == [("user", [str(tmp_path / "0.png"), "\nIs it left?"])]


def test_forgotten_images_do_not_come_back(talk, say):
    requests = say(UserError("out of memory"), "No")
    _, err = talk("/image 0.png", "What is it?", "/reset", "/retry", "Is it left?")
    assert requests[1] == [("user", ["Is it left?"])] and "nothing was asked yet" in err


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("<image> is it left?", "<image>\nis it left?"),
        ("\u2460 is it left?", "<image>\nis it left?"),
        ("is it left? <image>", "is it left?\n<image>"),
        ("is the thing in \u2460 left?", "is the thing in \u2460 left?"),
        ("what is an <image> tag?", "<image>\nwhat is an <image> tag?"),
        ("<|image|> is it left?", "<image>\n<|image|> is it left?"),
    ],
)
def test_typed_placeholders_stand_for_the_image_and_the_saved_row_can_be_trained_on(talk, say, tmp_path, typed, value):
    requests = say("<image> Yes, \u2460", "No")
    talk("/image 0.png", typed, "and red?", "/save it.json")
    (row,) = json.loads((tmp_path / "it.json").read_text())
    assert [turn["value"] for turn in row["conversations"]] == [value, "Yes,", "and red?", "No"]
    record = read_record(row, Path("it.json"), 0, lambda image, folder: image)
    turns = [(turn.role, [str(part["content"]) for part in turn.content]) for turn in record.messages]
    assert turns[:3] == requests[1] and turns[:1] == requests[0]


@pytest.mark.parametrize("typed", ["<image> is it left?", "\u2460", "is it \u2460?", "/system <image> Be brief."])
def test_a_placeholder_without_an_image_is_refused_in_one_line(talk, say, typed):
    requests = say("Yes")
    _, err = talk(typed, "Is it left?")
    assert len(err) == 1 and "<image>" in err[0]
    assert requests == [[("user", ["Is it left?"])]]


def test_a_turn_that_was_asked_alone_about_an_earlier_image_is_saved_and_remembered(talk, say, tmp_path):
    requests = say("Yes", "No", "Yes")
    talk("/image 0.png", "What is it?", "/alone on", "<image> is it left?", "/alone off", "and red?", "/save it.json")
    image = str(tmp_path / "0.png")
    assert requests[1] == [("user", [image, "\nis it left?"])]
    assert [turn for turn in requests[2] if turn[0] == "user"] == [
        ("user", [image, "\nWhat is it?"]),
        ("user", ["is it left?"]),
        ("user", ["and red?"]),
    ]
    (row,) = json.loads((tmp_path / "it.json").read_text())
    assert row["image"] == [image]
    assert len(read_record(row, Path("it.json"), 0, lambda name, folder: name).messages) == 6


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/imgae x", "there is no command /imgae: /help lists them"),
        ("/image none.png", "none.png: there is no such file"),
        ("/image 0.png frame=2", "no such file; the keys after a file are frames, axis, window, fit"),
        ("/image broken.png", "not a readable image"),
        ("/set lr=1", "write /set KEY=VALUE with a key of temperature"),
        ("/set temperature=warm", "temperature=warm: it must be a number"),
        ("/set seed=1.5", "seed=1.5: it must be a whole number"),
        ("/set top_p=2", "top_p=2: it must be above 0 and at most 1"),
        ("/save it.txt", "write /save FILE.json"),
        ("/save it.json", "nothing was said yet"),
        ("/retry", "nothing was asked yet"),
        ("lung " * 300, "leaves no room for an answer within the model's 256: ask with fewer words"),
    ],
)
def test_a_mistake_is_one_line_and_the_chat_continues(talk, generator, tmp_path, line, words):
    (tmp_path / "broken.png").write_text("<html>")
    out, err = talk(line, "What is it?")
    assert words in err[0]
    assert out == [answer(generator, question_request(None, "What is it?"))]


def test_an_image_that_is_missing_leaves_the_turn_open(talk, generator, tmp_path):
    chat = Chat(GREEDY)
    chat.show("0.png")
    picture = (tmp_path / "0.png").read_bytes()
    (tmp_path / "0.png").unlink()
    out, err = talk("What is it?", chat=chat)
    assert out == [] and "0.png does not exist" in err[-1]
    (tmp_path / "0.png").write_bytes(picture)
    out, _ = talk("What is it?", chat=chat)
    assert out == [answer(generator, question_request("0.png", "What is it?"))]


def test_ctrl_c_stops_an_answer_and_not_the_chat(talk, generator, monkeypatch):
    whole = answer(generator, question_request(None, "What is it?"))
    generate = generator.generate

    def interrupted(requests, sampling, on_token):
        monkeypatch.setattr(generator, "generate", generate)
        told = []

        def stop(index, token):
            on_token(index, token)
            told.append(token)
            if len(told) == 3:
                raise KeyboardInterrupt

        return generate(requests, sampling, on_token=stop)

    monkeypatch.setattr(generator, "generate", interrupted)
    chat = Chat(GREEDY)
    out, err = talk("What is it?", "/retry", chat=chat)
    assert "stopped" in err
    assert whole.startswith(out[0]) and out[0] != whole and out[1] == whole


def test_quit_and_help(talk):
    out, err = talk("/help", "/quit", "never asked")
    assert out == [] and any(line.strip().startswith("/image FILE") for line in err)


def test_settings_are_checked_before_anything_is_loaded():
    with pytest.raises(UserError, match="top_p=3"):
        Chat(Sampling(top_p=3))
