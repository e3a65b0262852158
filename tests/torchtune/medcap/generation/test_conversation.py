from pathlib import Path

from medcap.data.conversations import read_record
from medcap.generation.conversation import Conversation


def parts(request):
    return [(message.role, [part["content"] for part in message.content]) for message in request.messages]


def two_turns():
    conversation = Conversation("Be brief.")
    conversation.ask("Is there a mass?", ["a.png", "b.png"])
    conversation.answer("No.")
    conversation.ask("", ["c.png"])
    return conversation


def test_a_request_holds_everything_that_was_said():
    conversation = two_turns()
    assert parts(conversation.request()) == [
        ("system", ["Be brief."]),
        ("user", ["a.png", "b.png", "\nIs there a mass?"]),
        ("assistant", ["No."]),
        ("user", ["c.png"]),
    ]


def test_the_last_answer_is_not_part_of_what_is_asked_again():
    conversation = two_turns()
    conversation.answer("A lung.")
    assert parts(conversation.request())[-1] == ("user", ["c.png"])
    conversation.answer("Two lungs.")
    assert [exchange.answer for exchange in conversation.exchanges] == ["No.", "Two lungs."]


def test_a_saved_conversation_is_read_as_the_same_turns():
    conversation = two_turns()
    conversation.answer("A lung.")
    conversation.ask("not answered")
    record = read_record(conversation.to_row(), Path("saved.json"), 0, lambda image, folder: Path(image))
    conversation.exchanges.pop()
    asked = parts(conversation.request())
    assert [(message.role, [part["content"] for part in message.content]) for message in record.messages] == [
        *asked,
        ("assistant", ["A lung."]),
    ]


def test_markdown_shows_images_words_and_answers():
    conversation = Conversation()
    conversation.ask("", ["my file.png"])
    conversation.answer("A chest.")
    assert conversation.to_markdown() == "![my file.png](<my file.png>)\n**You:** (describe)\n\nA chest.\n"
