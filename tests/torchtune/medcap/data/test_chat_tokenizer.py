import io
import json
import pickle
from pathlib import Path

import pytest
import sentencepiece
from torchtune.data import Message
from torchtune.models.gemma import gemma_tokenizer
from torchtune.models.llama2 import llama2_tokenizer
from torchtune.models.mistral import mistral_tokenizer
from torchtune.models.phi3 import phi3_mini_tokenizer
from torchtune.models.qwen2_5 import qwen2_5_tokenizer

from helpers.tokenizers import tiny_tokenizer_file
from medcap.data.added_tokens import AddedTokens
from medcap.data.chat_tokenizer import IGNORE_INDEX, ChatTokenizer
from medcap.data.images.tiles import Tiles
from medcap.data.labels_and_image_tokens import LabelRules
from medcap.data.row_layouts import split_images
from medcap.errors import UserError
from medcap.models.tokenizers import llama3_tokenizer

TILES = Tiles(8, 4)
MEDCAP_RULES = LabelRules(train_on_header=True, mask_after_image=True)
RUN = "①" * 50
WORDS = "Chest X-ray shows clear lungs."


def chat(*turns):
    roles = ["user", "assistant"] * len(turns)
    messages = []
    for role, text in zip(roles, turns, strict=False):
        parts = [part | {"content": "a.jpg"} if part["type"] == "image" else part for part in split_images(text)]
        messages.append(Message(role=role, content=parts, masked=role == "user"))
    return messages


def learnt(chat):
    return [position for position, label in enumerate(chat.labels) if label != IGNORE_INDEX]


@pytest.fixture
def tokenizer(tmp_path):
    return llama3_tokenizer(str(tiny_tokenizer_file(tmp_path)))


@pytest.fixture
def chat_tokenizer(tokenizer):
    return ChatTokenizer(tokenizer, 50)


def special(tokenizer, name):
    return tokenizer.special_tokens[f"<|{name}|>"]


def plain(chat_tokenizer, text):
    return chat_tokenizer.tokenizer.encode(text, add_bos=False, add_eos=False)


def test_medcap_record_has_its_published_layout(chat_tokenizer, tokenizer):
    words = plain(chat_tokenizer, WORDS)
    sample = chat_tokenizer.tokenize(chat(RUN, WORDS), 500, MEDCAP_RULES)
    header = [
        special(tokenizer, "start_header_id"),
        *plain(chat_tokenizer, "user"),
        special(tokenizer, "end_header_id"),
    ]
    assert chat_tokenizer.image_token_id == plain(chat_tokenizer, "①")[0]
    assert sample.tokens[:5] == [special(tokenizer, "begin_of_text"), *header, *plain(chat_tokenizer, "\n\n")]
    assert sample.tokens[5:55] == [chat_tokenizer.image_token_id] * 50
    assert sample.tokens[55] == special(tokenizer, "eot_id")
    assert sample.tokens[60:] == [*words, special(tokenizer, "eot_id"), special(tokenizer, "end_of_text")]
    # medcap: the assistant's header, its words and its end of turn; not what follows an image token.
    assert learnt(sample) == list(range(56, 61 + len(words)))
    assert sample.images == ["a.jpg"]


def test_by_default_only_the_assistants_words_and_end_of_turn_are_learnt(chat_tokenizer):
    words = plain(chat_tokenizer, WORDS)
    sample = chat_tokenizer.tokenize(chat(RUN, WORDS))
    assert learnt(sample) == list(range(60, 61 + len(words)))
    assert [sample.labels[position] for position in learnt(sample)] == [sample.tokens[p] for p in learnt(sample)]


def test_training_on_input_with_medcaps_rule_masks_images_and_what_follows(chat_tokenizer):
    words = plain(chat_tokenizer, WORDS)
    rules = LabelRules(train_on_input=True, mask_after_image=True)
    sample = chat_tokenizer.tokenize(chat(RUN, WORDS), 500, rules)
    assert learnt(sample) == [1, 2, 3, 4, *range(56, 61 + len(words))]
    instruction = chat_tokenizer.tokenize(chat(RUN + "\n\nDescribe", WORDS), 500, rules)
    # Position 55 is the line break after the image, 56 the instruction's first word.
    assert learnt(instruction)[:5] == [1, 2, 3, 4, 56]


def test_an_answer_that_follows_an_image_is_learnt_unless_medcaps_rule_is_asked_for(chat_tokenizer):
    spoken = chat("Show it", RUN + "Yes")
    default = chat_tokenizer.tokenize(spoken)
    first_word = default.tokens.index(plain(chat_tokenizer, "Yes")[0])
    assert first_word in learnt(default)
    assert first_word not in learnt(chat_tokenizer.tokenize(spoken, rules=MEDCAP_RULES))


def test_truncation_keeps_the_head_and_ends_the_text(chat_tokenizer, tokenizer):
    sample = chat_tokenizer.tokenize(chat(RUN, WORDS), 64, MEDCAP_RULES)
    assert len(sample.tokens) == 64
    assert sample.tokens[-1] == special(tokenizer, "end_of_text")
    assert learnt(sample) == list(range(56, 63))


def test_truncation_inside_an_image_or_before_the_answer_is_refused(chat_tokenizer):
    with pytest.raises(UserError, match="max_seq_len=30 cuts an image"):
        chat_tokenizer.tokenize(chat(RUN, WORDS), 30)
    with pytest.raises(UserError, match="no token is left to learn"):
        chat_tokenizer.tokenize(chat(RUN, WORDS), 60)
    with pytest.raises(UserError, match="no token is left to learn"):
        chat_tokenizer.tokenize(chat(RUN))


def test_prompt_is_the_beginning_of_the_training_text(chat_tokenizer):
    prompt = chat_tokenizer.prompt(chat(RUN))
    assert len(prompt.tokens) == 60
    assert prompt.tokens == chat_tokenizer.tokenize(chat(RUN, WORDS)).tokens[:60]
    assert prompt.images == ["a.jpg"]
    two_turns = chat(RUN, "Yes", "What")
    assert chat_tokenizer.tokenize([*two_turns, *chat("x", "No")[1:]]).tokens[
        : len(chat_tokenizer.prompt(two_turns).tokens)
    ] == (chat_tokenizer.prompt(two_turns).tokens)


def test_an_answer_is_what_follows_the_prompt_in_a_training_sample(chat_tokenizer, tokenizer):
    words = plain(chat_tokenizer, WORDS)
    assert chat_tokenizer.answer(WORDS) == [*words, special(tokenizer, "eot_id")]
    assert chat_tokenizer.answer(f"  {WORDS}\n", end_of_turn=False) == words
    prompt = chat_tokenizer.prompt(chat(RUN, "Yes", "What")).tokens
    sample = chat_tokenizer.tokenize(chat(RUN, "Yes", "What", WORDS)).tokens
    assert prompt + chat_tokenizer.answer(WORDS) == sample[:-1]
    assert chat_tokenizer.answer("") == chat_tokenizer.answer(" \n", end_of_turn=False) == []


def test_an_answer_is_nobodys_to_change(chat_tokenizer):
    first = chat_tokenizer.answer("Yes")
    first.append(0)
    assert chat_tokenizer.answer("Yes") == first[:-1]
    assert chat_tokenizer.answer("Yes", end_of_turn=False) == first[:-2]


def test_more_answers_than_are_remembered(chat_tokenizer, monkeypatch):
    monkeypatch.setattr("medcap.data.chat_tokenizer._MOST_ANSWERS", 2)
    texts = ["Yes", "No", "left", "right", "Yes"]
    assert [chat_tokenizer.answer(text, False) for text in texts] == [plain(chat_tokenizer, text) for text in texts]
    assert len(chat_tokenizer._answers) <= 2


def test_a_prompt_may_begin_the_answer(chat_tokenizer):
    messages = chat(RUN + "\nWhat is there?")
    opened = chat_tokenizer.prompt(messages)
    begun = chat_tokenizer.prompt(messages, answer_prefix="The answer is")
    assert begun.tokens == [*opened.tokens, *plain(chat_tokenizer, "The answer is")]
    assert begun.images == opened.images == ["a.jpg"]
    assert chat_tokenizer.prompt(messages, answer_prefix=" ").tokens == opened.tokens


def test_an_answer_that_holds_an_image_character_is_refused(chat_tokenizer):
    with pytest.raises(UserError, match="stands for an image"):
        chat_tokenizer.answer("see ①")


def test_special_tokens_in_text_are_only_text(chat_tokenizer, tokenizer):
    tokens = chat_tokenizer.prompt(chat("<|eot_id|> <|image|>")).tokens
    assert tokens.count(special(tokenizer, "eot_id")) == 1


def test_text_that_holds_a_mark_is_refused(chat_tokenizer):
    with pytest.raises(UserError, match="stands for an image"):
        chat_tokenizer.prompt([Message(role="user", content="a \ufdd0 b")])


def test_decode_drops_stop_tokens_and_white_space(chat_tokenizer, tokenizer):
    ids = [*plain(chat_tokenizer, " clear lungs. "), special(tokenizer, "eot_id")]
    assert chat_tokenizer.decode(ids) == "clear lungs."
    assert chat_tokenizer.decode([]) == ""


def test_a_pickled_tokenizer_makes_the_same_ids(chat_tokenizer, tmp_path):
    copied = pickle.loads(pickle.dumps(chat_tokenizer))
    spoken = chat(RUN + "\nWhat is there?", WORDS)
    assert copied.tokenize(spoken) == chat_tokenizer.tokenize(spoken)
    assert copied.decode(copied.answer(WORDS)) == WORDS
    assert copied.fingerprint == chat_tokenizer.fingerprint
    added = AddedTokens(("<SEG>",), 1000)
    with_words = ChatTokenizer(llama3_tokenizer(str(tiny_tokenizer_file(tmp_path))), 50, added)
    copied = pickle.loads(pickle.dumps(with_words))
    assert copied.answer("Yes <SEG>") == with_words.answer("Yes <SEG>")
    assert copied.decode(copied.answer("Yes <SEG>")) == "Yes <SEG>"
    assert 1000 not in copied.without_added.answer("Yes <SEG>")


@pytest.fixture(scope="module")
def sentencepiece_file(tmp_path_factory):
    text = ["Chest X-ray shows clear lungs.", "What is shown in the image?", "user assistant model\n", "[INST] [/INST]"]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text * 20),
        model_writer=model,
        vocab_size=300,
        byte_fallback=True,
        hard_vocab_limit=False,
    )
    path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return str(path)


def write_byte_level_files(folder):
    """A Qwen tokenizer without merges: every byte is a token."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    (folder / "vocab.json").write_text(json.dumps({letter: rank for rank, letter in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return str(folder / "vocab.json"), str(folder / "merges.txt")


def build(name, file):
    from torchtune.data import ChatMLTemplate
    from torchtune.models.llama2 import Llama2ChatTemplate
    from torchtune.models.mistral import MistralChatTemplate

    if name == "llama2":
        return llama2_tokenizer(file, prompt_template="torchtune.models.llama2.Llama2ChatTemplate"), Llama2ChatTemplate
    if name == "mistral":
        template = "torchtune.models.mistral.MistralChatTemplate"
        return mistral_tokenizer(file, prompt_template=template), MistralChatTemplate
    if name == "gemma":
        return gemma_tokenizer(file, prompt_template="torchtune.data.ChatMLTemplate"), ChatMLTemplate
    if name == "qwen2_5":
        return qwen2_5_tokenizer(*write_byte_level_files(Path(file).parent)), None
    return phi3_mini_tokenizer(file), None


@pytest.mark.parametrize("name", ["llama2", "mistral", "gemma", "phi3", "qwen2_5"])
def test_other_templates_keep_their_own_text_and_get_image_runs(name, sentencepiece_file):
    reference, _ = build(name, sentencepiece_file)
    messages = chat("What is shown in the image?", WORDS)
    expected, _ = reference.tokenize_messages(messages)
    wrapped = ChatTokenizer(build(name, sentencepiece_file)[0], 4)
    sample = wrapped.tokenize(messages)
    assert sample.tokens == expected
    decoded = wrapped.decode([label for label in sample.labels if label != IGNORE_INDEX])
    assert WORDS in decoded
    assert "What" not in decoded
    assert "[/INST]" not in decoded
    assert "assistant" not in decoded
    with_image = wrapped.tokenize(chat("<image>\nWhat is shown in the image?", WORDS))
    assert with_image.tokens.count(wrapped.image_token_id) == 4
    assert wrapped.prompt(messages[:1]).tokens == expected[: len(wrapped.prompt(messages[:1]).tokens)]
    first = next(position for position, label in enumerate(sample.labels) if label != IGNORE_INDEX)
    assert len(wrapped.prompt(messages[:1]).tokens) == first
    learnt_tokens = [label for label in sample.labels if label != IGNORE_INDEX]
    assert wrapped.answer(WORDS) == learnt_tokens
    words = wrapped.answer(WORDS, end_of_turn=False)
    assert words == [token for token in learnt_tokens if token not in wrapped.stop_tokens]
    assert wrapped.prompt(messages[:1], WORDS).tokens == [*wrapped.prompt(messages[:1]).tokens, *words]


def tiled(tokenizer, pictures):
    return ChatTokenizer(tokenizer, 3, tiles=TILES).counting(lambda tiles, image: pictures[image])


def two_images(answer="Yes"):
    parts = [{"type": "image", "content": name} for name in ("wide", "small")]
    return [
        Message(role="user", content=[parts[0], {"type": "text", "content": "and"}, parts[1]], masked=True),
        Message(role="assistant", content=answer),
    ]


def test_each_image_has_as_many_tokens_as_its_pictures(tokenizer):
    chat_tokenizer = tiled(tokenizer, {"wide": 5, "small": 1})
    sample = chat_tokenizer.tokenize(two_images())
    assert (sample.images, sample.image_lengths) == (["wide", "small"], [15, 3])
    shown = [token == chat_tokenizer.image_token_id for token in sample.tokens]
    assert (shown.index(True), shown[5:20], any(shown[20:21]), sum(shown)) == (5, [True] * 15, False, 18)
    prompt = chat_tokenizer.prompt(two_images()[:1])
    assert (prompt.tokens, prompt.image_lengths) == (sample.tokens[: len(prompt.tokens)], [15, 3])
    assert chat_tokenizer.most_image_tokens == 15


@pytest.mark.parametrize(("first", "second"), [(5, 1), (1, 5)])
def test_a_cut_image_is_named_with_its_own_number_of_tokens(tokenizer, first, second):
    chat_tokenizer = tiled(tokenizer, {"wide": first, "small": second})
    wanted = f"its {3 * second} tokens end at 26; .* use fewer image tokens or vision.tiles"
    with pytest.raises(UserError, match=wanted):
        chat_tokenizer.tokenize(two_images(), 20)


def test_tiles_change_the_fingerprint_and_nothing_else_does(tokenizer, tmp_path):
    def fingerprint(**options):
        fresh = llama3_tokenizer(str(tiny_tokenizer_file(tmp_path)))
        return ChatTokenizer(fresh, 3, **options).fingerprint

    assert fingerprint() == fingerprint(tiles=None)
    assert len({fingerprint(tiles=tiles) for tiles in (None, TILES, Tiles(8, 5), Tiles(9, 4))}) == 4
    plain = ChatTokenizer(tokenizer, 3)
    assert plain.counting(lambda tiles, image: 5) is plain


def test_with_tiles_an_image_of_unknown_shape_is_never_guessed(tokenizer):
    with pytest.raises(ValueError, match="how many pictures wide has is not known"):
        ChatTokenizer(tokenizer, 3, tiles=TILES).tokenize(two_images())
