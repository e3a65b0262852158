import io
import json
from dataclasses import replace

import numpy as np
import pytest

from helpers.dicom_files import write_dicom
from helpers.tiny_generation import tiny_generator, write_images
from medcap.chat.terminal import Chat
from medcap.errors import UserError
from medcap.generation.conversation import Conversation
from medcap.generation.prompt import caption_request, question_request
from medcap.generation.request import Sampling

GREEDY = Sampling(max_new_tokens=6)


@pytest.fixture
def generator(tmp_path, monkeypatch):
    write_images(tmp_path, 2)
    monkeypatch.chdir(tmp_path)
    return tiny_generator(tmp_path)


@pytest.fixture
def talk(generator, monkeypatch, capsys):
    """Types lines; returns the lines of standard output and of standard error."""

    def type_lines(*lines, chat=None):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        (chat or Chat(GREEDY)).talk(generator)
        out, err = capsys.readouterr()
        return out.splitlines(), err.splitlines()

    return type_lines


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


def test_a_system_text_is_told_first(talk, generator):
    out, err = talk("/system Be brief.", "What is it?", "/system", "/reset", "What is it?")
    assert out == [
        *conversed(generator, ("What is it?", []), system="Be brief."),
        answer(generator, question_request(None, "What is it?")),
    ]
    assert "system: Be brief." in err and "no system text" in err


def test_retry_samples_anew_and_replaces_the_answer(talk, generator):
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


def test_a_conversation_is_saved_to_train_on_and_to_read(talk, generator, tmp_path):
    out, err = talk("/image 0.png", "What is it?", "/save said/it.json", "/save it.md")
    (row,) = json.loads((tmp_path / "said/it.json").read_text())
    assert row == {
        "image": [str(tmp_path / "0.png")],
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": out[0]},
        ],
    }
    assert out[0] in (tmp_path / "it.md").read_text()
    assert "saved 1 exchange in said/it.json" in err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/imgae x", "there is no command /imgae: /help lists them"),
        ("/image none.png", "none.png: there is no such file"),
        ("/image broken.png", "not a readable image"),
        ("/set lr=1", "write /set KEY=VALUE with a key of temperature"),
        ("/set temperature=warm", "temperature=warm: it must be a number"),
        ("/set seed=1.5", "seed=1.5: it must be a whole number"),
        ("/set top_p=2", "top_p=2: it must be above 0 and at most 1"),
        ("/save it.txt", "write /save FILE.json"),
        ("/save it.json", "nothing was said yet"),
        ("/retry", "nothing was asked yet"),
        ("lung " * 300, "leaves no room for an answer"),
    ],
)
def test_a_mistake_is_one_line_and_the_chat_goes_on(talk, generator, tmp_path, line, words):
    (tmp_path / "broken.png").write_text("<html>")
    out, err = talk(line, "What is it?")
    assert words in err[0]
    assert out == [answer(generator, question_request(None, "What is it?"))]


def test_an_image_that_is_gone_leaves_the_turn_open(talk, generator, tmp_path):
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
