"""Tokenizers of Hugging Face folders: the ids of transformers' chat templates, the same in training and in prompts."""

from __future__ import annotations

import datetime
import json
import pickle
import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from torchtune.data import Message
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from helpers.chat_template_folders import CHAT_FAMILIES, chat_template_folder, write
from helpers.tokenizers import tiny_tokenizer_file
from medcap.checkpoints.hf_llama_writer import CHAT_TEMPLATE, write_fast_tokenizer
from medcap.data.added_tokens import AddedTokens
from medcap.data.chat_tokenizer import IGNORE_INDEX, ChatTokenizer
from medcap.data.labels_and_image_tokens import LabelRules
from medcap.errors import UserError
from medcap.generation.text_stream import TextStream
from medcap.models.template_tokenizer import transformers_tokenizer
from medcap.models.tokenizers import check_tokenizer_fits, llama3_tokenizer

EVERY_FAMILY = pytest.mark.parametrize("family", CHAT_FAMILIES)
ANSWERS = ("Clear lungs.", "Yes")
QUESTIONS = ("What is shown?", "Is it normal?")
SYSTEM = "Be brief."
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


@cache
def folder(family: str) -> Path:
    return chat_template_folder(family, Path(tempfile.mkdtemp()))


@cache
def chat_of(family: str) -> ChatTokenizer:
    return ChatTokenizer(transformers_tokenizer(str(folder(family))), 4)


@cache
def reference(family: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(folder(family))


def parts(*words: str) -> list[dict[str, Any]]:
    """A turn of texts and images, the latter written as ``IMAGE``."""
    return [
        {"type": "image", "content": "a.png"} if word == "IMAGE" else {"type": "text", "content": word}
        for word in words
    ]


def turns(*contents: Any, system: str = "") -> list[Message]:
    begun = [Message(role="system", content=system, masked=True)] if system else []
    roles = ("user", "assistant") * len(contents)
    return [
        *begun,
        *(
            Message(role=role, content=content, masked=role == "user")
            for role, content in zip(roles, contents, strict=False)
        ),
    ]


def plain(messages: list[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.text_content} for message in messages]


CONVERSATIONS = {
    "one turn": turns(QUESTIONS[0], ANSWERS[0]),
    "two turns": turns(QUESTIONS[0], ANSWERS[0], QUESTIONS[1], ANSWERS[1]),
    "system": turns(QUESTIONS[0], ANSWERS[0], system=SYSTEM),
    "system, two turns": turns(QUESTIONS[0], ANSWERS[0], QUESTIONS[1], ANSWERS[1], system=SYSTEM),
    "images": turns(
        parts("IMAGE", "\nWhat is shown?"), ANSWERS[0], parts("Is ", "IMAGE", " like ", "IMAGE"), ANSWERS[1]
    ),
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


def copied(family: str, target: Path, **settings: Any) -> Path:
    """A family's folder with other entries in tokenizer_config.json; None takes one out."""
    chat_template_folder(family, target)
    file = target / "tokenizer_config.json"
    changed = {**json.loads(file.read_text()), **settings}
    write(file, {name: value for name, value in changed.items() if value is not None})
    return target


def test_a_template_may_stand_in_tokenizer_config(tmp_path: Path) -> None:
    template = (folder("phi4") / "chat_template.jinja").read_text()
    copied(
        "phi4", tmp_path, chat_template=[{"name": "tools", "template": ""}, {"name": "default", "template": template}]
    )
    (tmp_path / "chat_template.jinja").unlink()
    messages = CONVERSATIONS["system, two turns"]
    chat = ChatTokenizer(transformers_tokenizer(str(tmp_path)), 4)
    assert chat.tokenize(messages).tokens == chat_of("phi4").tokenize(messages).tokens


def test_tokenizer_json_alone_is_enough(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "chat_template.jinja"):
        (tmp_path / name).write_text((folder("glm4") / name).read_text())
    tokenizer = transformers_tokenizer(str(tmp_path / "tokenizer.json"))
    assert tokenizer.stop_tokens == [tokenizer.special_tokens["<|user|>"]] == [tokenizer.eos_id]
    assert ChatTokenizer(tokenizer, 4).answer("Yes")[-1] == tokenizer.eos_id


def test_a_token_that_a_file_says_there_is_not_is_written_as_nothing(tmp_path: Path) -> None:
    chat_template_folder("qwen3", tmp_path)
    file = tmp_path / "tokenizer_config.json"
    write(file, {**json.loads(file.read_text()), "bos_token": None})
    write(tmp_path / "config.json", {"bos_token_id": 355, "eos_token_id": [357, 99_999]})
    (tmp_path / "generation_config.json").unlink()
    text = "{% for m in messages %}{{ bos_token }}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    tokenizer = transformers_tokenizer(str(tmp_path), text)
    assert tokenizer.bos_id is None
    assert tokenizer.stop_tokens == [357]
    assert tokenizer.decode(tokenizer.tokenize_messages(turns("Q", "Yes"))[0], False) == (
        "<|im_start|>Q<|im_end|><|im_start|>Yes<|im_end|>"
    )


def test_a_model_of_plain_text_gets_a_plain_template(tmp_path: Path) -> None:
    phi = str(folder("phi1_5"))
    with pytest.raises(UserError, match=r"brings no chat template .* tokenizer\.chat_template=plain"):
        transformers_tokenizer(phi)
    chat = ChatTokenizer(transformers_tokenizer(phi, chat_template="plain"), 4)
    sample = chat.tokenize(CONVERSATIONS["system, two turns"])
    text = reference("phi1_5").decode(sample.tokens)
    assert text == (
        "Be brief.\n\nUser: What is shown?\nAssistant: Clear lungs.<|endoftext|>"
        "User: Is it normal?\nAssistant: Yes<|endoftext|>"
    )
    # As one text: the blank before an answer is part of its first token.
    assert sample.tokens == reference("phi1_5").encode(text)
    assert chat.tokenize(turns("Q", "Yes")).tokens == reference("phi1_5").encode("User: Q\nAssistant: Yes<|endoftext|>")
    gemma = transformers_tokenizer(str(folder("gemma3")), chat_template="plain")
    assert gemma.tokenize_messages(turns("Q", "Yes"))[0][0] == gemma.bos_id


def test_options_open_an_answer_as_the_generation_prompt_does(tmp_path: Path) -> None:
    # SmolLM 3's way: the template writes the empty thought into the generation prompt alone.
    text = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    text += "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    text += "{% if think is false %}{{ '<think>\\n\\n</think>\\n' }}{% endif %}{% endif %}"
    template = tmp_path / "template.jinja"
    template.write_text(text)
    path = str(folder("qwen3"))
    opened = ChatTokenizer(transformers_tokenizer(path, str(template), {"think": False}), 4)
    messages = turns(*QUESTIONS[:1], *ANSWERS[:1])
    text_of_sample = reference("qwen3").decode(opened.tokenize(messages).tokens)
    assert text_of_sample.endswith("<|im_start|>assistant\n<think>\n\n</think>\nClear lungs.<|im_end|>\n")
    without = ChatTokenizer(transformers_tokenizer(path, text), 4)
    assert "<think>" not in reference("qwen3").decode(without.prompt(messages[:1]).tokens)
    assert opened.fingerprint != without.fingerprint
    with pytest.raises(UserError, match=r"template_options\.thinking: .* reads no such variable; it reads think$"):
        transformers_tokenizer(path, text, {"thinking": False})


def test_a_template_of_a_model_with_images_gets_parts() -> None:
    text = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% for part in m.content %}"
    text += "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    tokenizer = transformers_tokenizer(str(folder("qwen3")), text)
    tokens, _ = tokenizer.tokenize_messages(CONVERSATIONS["one turn"])
    assert reference("qwen3").decode(tokens) == (
        "<|im_start|>user\nWhat is shown?<|im_end|>\n<|im_start|>assistant\nClear lungs.<|im_end|>\n"
    )


@pytest.mark.parametrize(("family", "tag"), [("mistral", "[/INST]"), ("olmo2", "<|assistant|>")])
def test_words_do_not_become_tags_that_the_template_writes_as_text(family: str, tag: str) -> None:
    chat, hugging_face = chat_of(family), reference(family)
    words = f"Is it{tag} Yes {tag} x"
    own = [hugging_face.encode(text, add_special_tokens=False) for text in (tag, f"a {tag}"[1:])]

    def count(tokens: list[int]) -> int:
        return sum(tokens[at : at + len(ids)] == ids for ids in own for at in range(len(tokens)))

    assert count(chat.prompt(turns(words)).tokens) == count(chat.prompt(turns("Q")).tokens)
    assert chat.decode(chat.answer(words)) == words


def test_the_date_is_the_one_that_is_given() -> None:
    path = str(folder("gpt_oss"))
    for today in ("2024-07-26", "2031-01-02"):
        tokenizer = transformers_tokenizer(path, today=today)
        assert f"Current date: {today}\n" in tokenizer.decode(tokenizer.tokenize_messages(turns("Q"))[0])
    with pytest.raises(UserError, match=r"tokenizer\.today=26 July is not a date"):
        transformers_tokenizer(path, today="26 July")


LOSES_ANSWERS = "{% for m in messages if m.role == 'user' %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
ENDS_NOTHING = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (LOSES_ANSWERS, "cannot be split into turns: it does not write the words of user, assistant once each"),
        (ENDS_NOTHING, "cannot be split into turns: in user, assistant it puts no special token after an answer"),
        ("{% for m in messages %}{{ m.content }}", r"is not a chat template: Unexpected end of template"),
        ("{{ raise_exception('never\\nat all') }}", r"the chat template refuses user, assistant: never$"),
        ("{{ messages[0].content.no_such() }}", "the chat template refuses user, assistant: 'str object' has no"),
        ("{{ messages[0].content }}{{ x", "is not a chat template"),
        (
            "{{ bos_token }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}",
            "writes bos_token, and no file",
        ),
        ("no_such_file.jinja", r"tokenizer\.chat_template=no_such_file\.jinja cannot be read: No such file"),
    ],
)
def test_templates_that_cannot_be_used_are_refused_in_one_line(template: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        transformers_tokenizer(str(folder("qwen3")), template)
    assert "\n" not in str(caught.value)


def test_a_template_without_an_end_of_past_answers_is_refused_for_several_questions() -> None:
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}<|im_end|>"
    chat = ChatTokenizer(transformers_tokenizer(str(folder("qwen3")), template), 4)
    assert chat.decode(chat.answer("Yes")) == "Yes"
    with pytest.raises(UserError, match="in user, assistant, user, assistant it puts no special token after an answer"):
        chat.tokenize(CONVERSATIONS["two turns"])


def test_what_a_template_refuses_is_told_in_its_own_words() -> None:
    with pytest.raises(UserError, match="Conversation roles must alternate"):
        chat_of("gemma3").prompt([*turns("Q"), *turns("Q")])


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.path=.*: there is no tokenizer\.json"):
        transformers_tokenizer(str(tmp_path))
    file = tmp_path / "tokenizer.json"
    file.write_text('{"model": {')
    with pytest.raises(UserError, match=r"tokenizer\.path=.*tokenizer\.json"):
        transformers_tokenizer(str(tmp_path))
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UserError, match=r"tokenizer\.path=.*git-lfs"):
        transformers_tokenizer(str(tmp_path))


def test_it_fits_the_embedding_table_of_its_own_model(tmp_path: Path) -> None:
    tokenizer = transformers_tokenizer(str(folder("gemma3")))
    check_tokenizer_fits(tokenizer, tokenizer.vocab_size)
    # Gemma 3's 1B has no row for the token of images, which its tokenizer has.
    copied("gemma3", tmp_path)
    write(tmp_path / "config.json", {"vocab_size": tokenizer.vocab_size})
    added = {str(tokenizer.vocab_size): {"content": "<image_soft_token>", "special": True}}
    copied("gemma3", tmp_path, added_tokens_decoder=added)
    larger = transformers_tokenizer(str(tmp_path))
    check_tokenizer_fits(larger, tokenizer.vocab_size)
    assert "<image_soft_token>" not in larger.special_tokens
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=f"makes ids up to {tokenizer.vocab_size}, but the LLM has"):
        check_tokenizer_fits(transformers_tokenizer(str(tmp_path)), tokenizer.vocab_size)
