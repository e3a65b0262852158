from torchtune.data import Message

from helpers.tokenizers import tiny_tokenizer_file
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.row_layouts import split_images
from medcap.generation.prompt import caption_request, question_request
from medcap.models.tokenizers import llama3_tokenizer


def test_question_has_the_parts_of_a_training_record():
    (message,) = question_request("a.png", "Is there a circle?").messages
    expected = split_images("<image>\nIs there a circle?")
    expected[0]["content"] = "a.png"
    assert message.content == expected
    assert (message.role, message.masked) == ("user", True)


def test_caption_is_the_image_alone():
    request = caption_request("a.png", id="row 4")
    assert request.id == "row 4"
    assert request.messages[0].content == [{"type": "image", "content": "a.png"}]


def test_question_without_an_image_is_text():
    (message,) = question_request(None, "Is this clear?").messages
    assert message.content == [{"type": "text", "content": "Is this clear?"}]


def test_prompt_is_the_beginning_of_the_training_tokens(tmp_path):
    tokenizer = ChatTokenizer(llama3_tokenizer(str(tiny_tokenizer_file(tmp_path))), 5)
    answer = Message(role="assistant", content="Yes, the left lung.", masked=False)
    for request in (caption_request("a.png"), question_request("a.png", "Is there a circle?")):
        prompt = tokenizer.prompt(request.messages)
        chat = tokenizer.tokenize([*request.messages, answer])
        first_label = next(position for position, label in enumerate(chat.labels) if label != -100)
        assert prompt.tokens == chat.tokens[:first_label]
        assert prompt.images == ["a.png"]
