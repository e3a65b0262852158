"""Folders of tokenizers: which files are read, which templates are taken, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.chat_template_folders import chat_template_folder, write
from helpers.family_chats import ANSWERS, CONVERSATIONS, QUESTIONS, chat_of, folder, reference, turns
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.errors import UserError
from medcap.models.template_tokenizer import transformers_tokenizer
from medcap.models.tokenizers import check_tokenizer_fits


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
