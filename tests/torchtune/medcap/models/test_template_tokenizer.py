"""Tokenizers of Hugging Face folders: the ids of transformers' chat templates, the same in training and in prompts."""

from __future__ import annotations

import datetime
import pickle
import random
from pathlib import Path

import pytest
from transformers.utils import chat_template_utils

from helpers.chat_template_folders import CHAT_FAMILIES
from helpers.family_chats import (
    ANSWERS,
    CONVERSATIONS,
    SYSTEM,
    chat_of,
    folder,
    plain,
    reference,
    turns,
)
from helpers.tokenizers import tiny_tokenizer_file
from medcap.checkpoints.hf_llama_writer import CHAT_TEMPLATE, write_fast_tokenizer
from medcap.data.added_tokens import AddedTokens
from medcap.data.chat_tokenizer import IGNORE_INDEX, ChatTokenizer
from medcap.data.labels_and_image_tokens import LabelRules
from medcap.generation.text_stream import TextStream
from medcap.models.template_tokenizer import transformers_tokenizer
from medcap.models.tokenizers import llama3_tokenizer

EVERY_FAMILY = pytest.mark.parametrize("family", CHAT_FAMILIES)
# Words, white space and signs that a tokenizer may join to what comes before or after.
PIECES = (
    "lung",
    "The",
    "'s",
    "a",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    ".",
    "?",
    "...",
    "(PA)",
    "2.5",
    "1.",
    ":",
    "<",
    "[",
    "é",
    "胸部",
)
END = {
    "qwen3": "<|im_end|>",
    "gemma3": "<end_of_turn>",
    "gpt_oss": "<|return|>",
    "phi3": "<|end|>",
    "phi4": "<|im_end|>",
    "mistral": "</s>",
    "mistral_v3": "</s>",
    "llama3": "<|eot_id|>",
    "olmo2": "<|endoftext|>",
    "glm4": "<|user|>",
}


@pytest.fixture
def fixed_day(monkeypatch: pytest.MonkeyPatch) -> None:
    class Day(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Day:
            return cls(2024, 7, 26, tzinfo=tz)

    monkeypatch.setattr(chat_template_utils, "datetime", Day)


@EVERY_FAMILY
@pytest.mark.usefixtures("fixed_day")
def test_one_question_has_the_ids_of_transformers(family: str) -> None:
    for name in ("one turn", "system"):
        messages = CONVERSATIONS[name]
        if name == "system" and family.startswith("mistral"):
            continue  # its template leaves system words out of a whole conversation
        tokens = chat_of(family).tokenize(messages).tokens
        expected = reference(family).apply_chat_template(plain(messages), return_dict=False)
        if family == "glm4":
            expected = [*expected, reference(family).convert_tokens_to_ids("<|user|>")]
        assert tokens == expected
    messages = CONVERSATIONS["system"][:-1]
    opened = reference(family).apply_chat_template(
        plain(messages), add_generation_prompt=True, enable_thinking=False, return_dict=False
    )
    if family == "gpt_oss":  # transformers leaves the channel to the model
        opened += reference(family).encode("<|channel|>final<|message|>", add_special_tokens=False)
    assert chat_of(family).prompt(messages).tokens == opened


@EVERY_FAMILY
@pytest.mark.usefixtures("fixed_day")
def test_any_words_have_the_ids_of_transformers(family: str) -> None:
    draw, hugging_face = random.Random(0), reference(family)
    for _ in range(30):
        spoken = [text for _ in range(60) if (text := "".join(draw.choices(PIECES, k=draw.randint(1, 9))).strip())][:3]
        messages = turns(*spoken[:2], system="" if family.startswith("mistral") else spoken[2])
        expected = hugging_face.apply_chat_template(plain(messages), return_dict=False)
        sample = chat_of(family).tokenize(messages).tokens
        assert sample[: len(expected)] == expected
        assert len(sample) == len(expected) + (family == "glm4")
        prompt = chat_of(family).prompt(messages[:-1]).tokens
        assert sample[: len(prompt)] == prompt


@EVERY_FAMILY
@pytest.mark.usefixtures("fixed_day")
def test_two_questions_have_the_ids_of_transformers_where_past_answers_are_written_as_the_last(family: str) -> None:
    messages = CONVERSATIONS["two turns"]
    tokens = chat_of(family).tokenize(messages).tokens
    hugging_face = reference(family)
    expected = hugging_face.apply_chat_template(plain(messages), return_dict=False)
    if family == "glm4":
        expected = [*expected, hugging_face.convert_tokens_to_ids("<|user|>")]
    if family == "qwen3":  # which leaves the empty thought of the first answer out
        text = hugging_face.decode(expected).replace(ANSWERS[0], f"<think>\n\n</think>\n\n{ANSWERS[0]}")
        expected = hugging_face.encode(text, add_special_tokens=False)
    assert tokens == expected


@EVERY_FAMILY
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_prompt_begins_its_training_sample(family: str, name: str) -> None:
    chat, messages = chat_of(family), CONVERSATIONS[name]
    sample = chat.tokenize(messages)
    for number, message in enumerate(messages):
        if message.role == "assistant":
            prompt = chat.prompt(messages[:number])
            assert sample.tokens[: len(prompt.tokens)] == prompt.tokens
            words = chat.answer(message.text_content, end_of_turn=False)
            begun = chat.prompt(messages[:number], message.text_content).tokens
            assert begun == prompt.tokens + words == sample.tokens[: len(begun)]
            learnt = sample.labels[len(prompt.tokens) : len(begun) + 1]
            assert learnt == sample.tokens[len(prompt.tokens) : len(begun) + 1]
            assert learnt[-1] in chat.stop_tokens
    learnt = [label for label in sample.labels if label != IGNORE_INDEX]
    num_answers = sum(message.role == "assistant" for message in messages)
    said = [chat.answer(answer, end_of_turn=False) for answer in ANSWERS[:num_answers]]
    assert len(learnt) == sum(map(len, said)) + num_answers
    assert chat.decode(said[0]) == ANSWERS[0]
    assert sample.tokens.count(chat.image_token_id) == 4 * len(sample.images)


@EVERY_FAMILY
def test_an_answer_ends_with_the_templates_own_token(family: str) -> None:
    chat = chat_of(family)
    end = chat.tokenizer.special_tokens[END[family]]  # pyright: ignore[reportAttributeAccessIssue]
    assert chat.answer(ANSWERS[0])[-1] == end
    assert end in chat.stop_tokens
    assert chat.marks_turns


def test_gpt_oss_ends_a_past_answer_otherwise_and_stops_at_both_ends() -> None:
    chat = chat_of("gpt_oss")
    names = {token: name for name, token in chat.tokenizer.special_tokens.items()}  # pyright: ignore[reportAttributeAccessIssue]
    sample = chat.tokenize(CONVERSATIONS["two turns"])
    assert [names[label] for label in sample.labels if label in names] == ["<|end|>", "<|return|>"]
    assert {"<|end|>", "<|return|>"} <= {names[token] for token in chat.stop_tokens}


def test_mistrals_system_words_stay_before_the_first_question() -> None:
    chat = chat_of("mistral_v3")
    prompt = chat.prompt(CONVERSATIONS["system, two turns"][:-1]).tokens
    text = reference("mistral_v3").decode(prompt)
    assert text == "<s>[INST] Be brief.\n\nWhat is shown?[/INST] Clear lungs.</s>[INST] Is it normal?[/INST]"


def test_thoughts_in_words_are_not_the_templates_to_cut() -> None:
    chat = chat_of("qwen3")
    words = "<think>A circle.</think>\n\nYes"
    sample = chat.tokenize(turns("Is it a circle?", words, "Really?", words))
    assert chat.decode([label for label in sample.labels if label != IGNORE_INDEX]) == words + words
    # What the model itself says of a thought is kept, so that scoring can take it off.
    thought = [chat.tokenizer._tokenizer.token_to_id(name) for name in ("<think>", "</think>")]  # pyright: ignore
    assert chat.decode([*thought, *chat.answer("Yes")]) == "<think></think>Yes"


@EVERY_FAMILY
def test_a_copy_in_another_process_makes_the_same_ids(family: str) -> None:
    chat = chat_of(family)
    copy = pickle.loads(pickle.dumps(chat))
    messages = turns("a <|im_end|></s><think>", "<|end|><|eot_id|>", system=SYSTEM)
    assert copy.tokenize(messages).tokens == chat.tokenize(messages).tokens
    assert copy.fingerprint == chat.fingerprint
    assert chat.tokenize(messages).tokens == chat_of(family).tokenize(messages).tokens


@EVERY_FAMILY
def test_streamed_pieces_make_up_the_text(family: str) -> None:
    chat = chat_of(family)
    words = "Is it normal? Yes, é 胸部 and <b>clear</b>."
    stream = TextStream(chat)
    assert "".join([stream.push(token) for token in chat.answer(words)] + [stream.finish()]) == words


@EVERY_FAMILY
def test_added_words_are_tokens_of_their_own(family: str) -> None:
    rows = chat_of(family).vocab_size
    chat = ChatTokenizer(transformers_tokenizer(str(folder(family))), 4, AddedTokens(("<SEG>",), rows))
    ids = chat.answer("Yes <SEG> it is.")
    assert ids.count(rows) == 1
    assert chat.decode(ids) == "Yes <SEG> it is."
    messages = turns("Where <SEG>?", "Yes <SEG>.")
    assert chat.tokenize(messages).tokens[: len(chat.prompt(messages[:1]).tokens)] == chat.prompt(messages[:1]).tokens
    assert chat.without_added.answer("<SEG>") == chat_of(family).answer("<SEG>")


def test_llama_3s_own_files_give_torchtunes_ids(tmp_path: Path) -> None:
    file = tiny_tokenizer_file(tmp_path)
    llama = llama3_tokenizer(str(file))
    write_fast_tokenizer(tmp_path, llama, file, 4096, CHAT_TEMPLATE)
    own, torchtunes = ChatTokenizer(transformers_tokenizer(str(tmp_path)), 4), ChatTokenizer(llama, 4)
    for messages in CONVERSATIONS.values():
        sample, expected = own.tokenize(messages), torchtunes.tokenize(messages)
        # torchtune ends a conversation with one more token, which nothing learns.
        assert (sample.tokens, sample.labels) == (expected.tokens[:-1], expected.labels[:-1])
        assert own.prompt(messages[:-1]).tokens == torchtunes.prompt(messages[:-1]).tokens
    assert own.image_token_id == torchtunes.image_token_id
    assert own.stop_tokens == [llama.eot_id]  # without a generation_config.json


def test_headers_are_learnt_where_that_is_asked_for() -> None:
    chat = chat_of("qwen3")
    sample = chat.tokenize(CONVERSATIONS["two turns"], rules=LabelRules(train_on_header=True))
    learnt = [label for label in sample.labels if label != IGNORE_INDEX]
    header = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert reference("qwen3").decode(learnt) == f"{header}Clear lungs.<|im_end|>{header}Yes<|im_end|>"


def test_max_seq_len_cuts_a_conversation() -> None:
    tokenizer = transformers_tokenizer(str(folder("phi4")), max_seq_len=6)
    tokens, masked = tokenizer.tokenize_messages(CONVERSATIONS["one turn"])
    assert (len(tokens), len(masked), tokens[-1]) == (6, 6, tokenizer.eos_id)
