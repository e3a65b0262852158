"""Added words in prompts, answers and their text, for the tokenizer of every family."""

import tempfile
from functools import cache
from pathlib import Path

import pytest
from torchtune.data import Message

from helpers.decoder_tokenizers import FAMILIES, family_tokenizer
from medcap.data.added_tokens import AddedTokens
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.labels_and_image_tokens import LabelRules
from medcap.errors import UserError
from medcap.generation.prompt import user_message
from medcap.legacy.prompt import PlainTextChat

EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
WORDS = ("<seg>", "<seg>2", "<im_a>", "<im_b>", "two words")
FIRST = 200_000  # the table has rows that no tokenizer here has an id for
SEG, SEG2, BEFORE, AFTER, TWO = range(FIRST, FIRST + len(WORDS))


@cache
def chat_of(family, *image_words):
    added = AddedTokens(WORDS, FIRST, image_words)
    return ChatTokenizer(family_tokenizer(family, Path(tempfile.mkdtemp())), 3, added)


def words_in(tokens):
    return [token for token in tokens if FIRST <= token < FIRST + len(WORDS)]


@EVERY_FAMILY
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<seg>", [SEG]),
        ("<seg>2", [SEG2]),
        ("<seg>12<seg>2<seg>", [SEG, SEG2, SEG]),
        ("clear <seg> lungs, two words", [SEG, TWO]),
        ("a<im_a>\n<seg>b", [BEFORE, SEG]),
        ("<seg <SEG> seg> two  words", []),
    ],
)
def test_text_is_cut_at_the_words_and_comes_back(family, text, expected):
    chat = chat_of(family)
    answer = chat.answer(text)
    assert words_in(answer) == expected
    assert chat.decode(answer) == text
    asked = chat.prompt([user_message(None, text)], answer_prefix=text)
    assert words_in(asked.tokens) == expected * 2
    if not expected:
        assert answer == chat.without_added.answer(text)


@EVERY_FAMILY
def test_labels_and_prompts_are_parts_of_one_sample(family):
    chat = chat_of(family)
    turns = [user_message(None, "Where is <seg>?"), Message(role="assistant", content="It is <seg>2.", masked=False)]
    sample = chat.tokenize(turns)
    assert words_in(sample.labels) == [SEG2] and words_in(sample.tokens) == [SEG, SEG2]
    prompt, answer = chat.prompt(turns[:1]).tokens, chat.answer("It is <seg>2.")
    assert sample.tokens[: len(prompt) + len(answer)] == prompt + answer
    assert [label for label in sample.labels if label != -100] == answer
    learnt = chat.tokenize(turns, rules=LabelRules(train_on_input=True)).labels
    assert words_in(learnt) == [SEG, SEG2]


@EVERY_FAMILY
def test_image_words_stand_around_every_image(family):
    chat, image = chat_of(family, "<im_a>", "<im_b>"), [BEFORE, *[None] * 3, AFTER]
    tokens = chat.prompt([user_message(["a.png", "b.png"], "<seg>?")]).tokens
    marked = [None if token == chat.image_token_id else token for token in tokens]
    start = marked.index(BEFORE)
    assert marked[start : start + 10] == image * 2 and marked.count(None) == 6
    assert words_in(chat.without_added.prompt([user_message("a.png", "<seg>?")]).tokens) == []


@EVERY_FAMILY
def test_without_them_a_tokenizer_is_the_plain_one(family):
    chat = chat_of(family)
    plain = ChatTokenizer(family_tokenizer(family, Path(tempfile.mkdtemp())), 3)
    text = "Is <seg> there?"
    assert chat.without_added.prompt([user_message(None, text)]) == plain.prompt([user_message(None, text)])
    assert chat.without_added.answer(text) == plain.answer(text) and plain.without_added is plain
    assert chat.without_added.image_token_id == chat.image_token_id
    assert chat.image_token_id == plain.image_token_id or chat.image_token_id == FIRST + len(WORDS)
    assert chat.fingerprint != plain.fingerprint == chat.without_added.fingerprint or family != "llama3"


def test_what_medcap_2024_wrote_as_text_is_cut_too():
    plain = PlainTextChat(chat_of("llama3", "<im_a>", "<im_b>"))
    tokens = plain.prompt([user_message("a.png", "Is <seg> there?")]).tokens
    assert words_in(tokens) == [BEFORE, AFTER, SEG] and tokens[0] == plain.tokenizer.bos_id
    image = plain.image_token_id
    assert tokens[tokens.index(BEFORE) :][:5] == [BEFORE, image, image, image, AFTER]
    assert plain.decode(plain.answer("a <seg>2 b")) == "a <seg>2 b"
    assert words_in(plain.without_added.prompt([user_message("a.png", "<seg>")]).tokens) == []


@pytest.mark.parametrize("word", ["user", "<|eot_id|>", "①"])
def test_words_that_are_tokens_already_are_refused(word, tmp_path):
    with pytest.raises(UserError, match=r"words.tokens: .* is one token of the tokenizer already|stands for an image"):
        ChatTokenizer(family_tokenizer("llama3", tmp_path), 3, AddedTokens((word,), 700))
