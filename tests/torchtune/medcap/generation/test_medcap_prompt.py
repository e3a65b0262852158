import pytest

from helpers.tokenizers import tiny_tokenizer_file
from medcap.generation.medcap_prompt import IMAGE, answer_limit, description_limit, plain_text, plain_text_tokens
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
