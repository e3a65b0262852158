import pickle

import pytest
from torchtune.data import Message

from helpers.tiny_generation import plain_answer, plain_score, tiny_generator, write_images
from helpers.tokenizers import tiny_tokenizer_file
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.images.tiles import Tiles
from medcap.errors import UserError
from medcap.generation.generator import Generator
from medcap.generation.prompt import caption_request, question_request, user_message
from medcap.generation.request import Request, Sampling
from medcap.legacy.prompt import (
    IMAGE,
    PlainTextChat,
    answer_limit,
    description_limit,
    plain_text,
    plain_text_tokens,
    room_for_description,
    text_turns,
)
from medcap.models.tokenizers import llama3_tokenizer

CAPTION = [("user", IMAGE), ("assistant", "")]
QUESTION = "Is there evidence of an aortic aneurysm?"


@pytest.fixture
def tokenizer(tmp_path):
    return llama3_tokenizer(str(tiny_tokenizer_file(tmp_path)))


def test_the_published_prompt_text():
    expected = f"<|start_header_id|>user<|end_header_id|>\n\n{'①' * 50}<|eot_id|>"
    assert plain_text(CAPTION) == expected + "<|start_header_id|>assistant<|end_header_id|>\n\n"


def test_markers_are_ordinary_tokens(tokenizer):
    tokens = plain_text_tokens(tokenizer, CAPTION)
    first_rank_of_specials = tokenizer.bos_id
    assert tokens[0] == tokenizer.bos_id
    assert max(tokens[1:]) < first_rank_of_specials
    assert tokens.count(tokenizer.encode("①", add_bos=False, add_eos=False)[0]) == 50


class CountingTokenizer:
    """Gives texts the token counts that Llama 3's tokenizer gives them."""

    def encode(self, text):
        if text == QUESTION:
            return [0] * 14
        return [0] * (192 if QUESTION in text else 130)


def test_the_published_limits():
    tokenizer = CountingTokenizer()
    conditioned = [
        ("user", IMAGE),
        ("assistant", "..."),
        ("user", f"Describe the image to answer the question: {QUESTION}"),
        ("assistant", ""),
    ]
    assert description_limit(tokenizer, CAPTION, QUESTION, 500, 200) == 200
    assert description_limit(tokenizer, CAPTION, QUESTION, 500, 500) == 351
    assert description_limit(tokenizer, conditioned, QUESTION, 500, 500) == 289
    assert answer_limit(500) == 50
    assert answer_limit(20) == 20


def test_the_limit_counts_both_stages_with_begin_and_end_of_text(tokenizer):
    both = plain_text([*CAPTION, ("user", ""), ("assistant", "")])
    room = 500 - len(tokenizer.encode(both)) - len(tokenizer.encode(QUESTION)) - 5
    assert description_limit(tokenizer, CAPTION, QUESTION, 500, 10_000) == room
    assert tokenizer.encode(both)[0] == tokenizer.bos_id
    assert tokenizer.encode(both)[-1] == tokenizer.eos_id


def test_a_pickled_one_makes_the_same_prompt(tokenizer):
    plain = PlainTextChat(ChatTokenizer(tokenizer, 4))
    messages = question_request("a.png", QUESTION).messages
    assert pickle.loads(pickle.dumps(plain)).prompt(messages) == plain.prompt(messages)


def test_plain_text_chat_encodes_markers_as_words_and_stops_where_one_is_spelt(tokenizer):
    chat = ChatTokenizer(tokenizer, 3)
    plain = PlainTextChat(chat)
    messages = [user_message("a.png", "Is there a lung?")]
    prompt = plain.prompt(messages)
    turns = [("user", "①①①\nIs there a lung?"), ("assistant", "")]
    assert prompt.tokens == plain_text_tokens(tokenizer, turns)
    assert (prompt.tokens.count(chat.image_token_id), prompt.images) == (3, ["a.png"])
    assert len(prompt.tokens) > len(chat.prompt(messages).tokens)
    spelt = tokenizer.encode("clear lung<|eot_id|>user", add_bos=False, add_eos=False)
    assert plain.decode(spelt) == "clear lung"
    assert plain.answer("no") == tokenizer.encode("no<|eot_id|>", add_bos=False, add_eos=False)


def test_plain_text_chat_gives_each_image_its_own_number_of_tokens(tokenizer):
    plain = PlainTextChat(ChatTokenizer(tokenizer, 3, tiles=Tiles(8, 4))).counting(lambda tiles, image: len(image))
    prompt = plain.prompt([user_message(["ab", "c"], "Is there a lung?")])
    turns = [("user", "①" * 9 + "\nIs there a lung?"), ("assistant", "")]
    assert prompt.tokens == plain_text_tokens(tokenizer, turns)
    assert prompt.image_lengths == [6, 3]


def test_room_for_a_description_is_never_more_than_both_stages_leave(tokenizer):
    chat = ChatTokenizer(tokenizer, 100)
    messages = [user_message("a.png")]
    room = room_for_description(chat, messages, QUESTION, 500, 10_000)
    asked = [*messages, Message(role="assistant", content=""), Message(role="user", content=QUESTION)]
    published = description_limit(tokenizer, CAPTION, QUESTION, 500, 10_000)
    assert room == min(published, 500 - len(chat.prompt(asked).tokens) - 5)
    assert room_for_description(chat, messages, QUESTION, 5000, 200) == 200


def test_turns_as_text():
    messages = [
        user_message("a.png", "Is it?"),
        Message(role="assistant", content="It is."),
        user_message(None, "Where?"),
    ]
    assert text_turns(messages, [2]) == [("user", "①①\nIs it?"), ("assistant", "It is."), ("user", "Where?")]


class FixedChat:
    """A chat of 100 tokens over a tokenizer that counts as Llama 3's does."""

    tokenizer = CountingTokenizer()
    vocab_size = 128256

    def __init__(self, image_token_id):
        self.image_token_id = image_token_id

    def prompt(self, messages):
        self.asked = [(message.role, message.content[0]["content"]) for message in messages]
        self.tokens = [0] * 100
        return self


def test_published_limits_hold_where_the_placeholder_is_a_token():
    chat = FixedChat(118075)
    assert room_for_description(chat, [user_message("a.png")], QUESTION, 500, 500) == 351
    assert chat.asked == [("user", "a.png"), ("assistant", ""), ("user", QUESTION)]
    assert room_for_description(chat, [user_message("a.png")], QUESTION, 500, 200) == 200
    assert room_for_description(chat, [user_message("a.png")], QUESTION, 140, 200) == -9


def test_another_models_limit_is_what_both_stages_leave():
    chat = FixedChat(128256)
    assert room_for_description(chat, [user_message("a.png")], QUESTION, 500, 500) == 395
    assert room_for_description(chat, [user_message("a.png")], QUESTION, 500, 200) == 200


def test_plain_text_generation_equals_plain_generation(tmp_path):
    generator = tiny_generator(tmp_path, decoder_max_seq_len=400)
    plain = PlainTextChat(generator.tokenizer)
    published = Generator(generator.model, plain, generator.preprocess, generator.reader, progress=False)
    requests = [caption_request(image) for image in write_images(tmp_path, 2)]
    requests += [question_request("0.png", "Is there a lung?"), question_request(None, "What shows a circle?")]
    results = published.generate(requests, Sampling(max_new_tokens=5))
    assert [result.tokens for result in results] == [plain_answer(published, request, 5) for request in requests]
    begun = Request(requests[2].messages, answer_prefix="The answer is")
    (scores,) = published.score([begun], [[" left.", " right lung."]], end_of_turn=False)
    expected = [plain_score(published, begun, text, end_of_turn=False) for text in (" left.", " right lung.")]
    assert scores.num_tokens == [count for _, count in expected]
    assert scores.sums == pytest.approx([total for total, _ in expected], abs=1e-4)


def test_plain_text_that_holds_the_image_character_is_refused(tokenizer):
    plain = PlainTextChat(ChatTokenizer(tokenizer, 3))
    with pytest.raises(UserError, match="stands for an image"):
        plain.prompt([user_message("a.png", "Is ① there?")])


def test_plain_text_needs_the_placeholder_as_a_token(tokenizer):
    chat = ChatTokenizer(tokenizer, 3)
    chat.image_token_id = chat.vocab_size
    with pytest.raises(UserError, match=r"prompt_format=medcap_2024 needs .*: use prompt_format=chat"):
        PlainTextChat(chat)
