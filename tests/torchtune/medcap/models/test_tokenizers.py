"""Llama 3's tokenizer on a small file, and tokenizers that do not belong to the LLM."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from torchtune.data import Message
from torchtune.models.llama3._tokenizer import LLAMA3_SPECIAL_TOKENS

from helpers.tokenizers import tiny_ranks, tiny_tokenizer_file, tiny_vocab_size
from medcap.errors import UserError
from medcap.models.tokenizers import check_tokenizer_fits, llama3_special_tokens, llama3_tokenizer, uncached_tiktoken


def test_special_tokens_of_llama_3_are_torchtunes() -> None:
    assert llama3_special_tokens(128_000) == LLAMA3_SPECIAL_TOKENS


def test_special_tokens_follow_a_small_vocabulary_without_a_gap() -> None:
    special = llama3_special_tokens(380)
    assert sorted(special.values()) == list(range(380, 380 + 256))
    assert (special["<|begin_of_text|>"], special["<|eot_id|>"], special["<|image|>"]) == (380, 389, 391)
    assert special.keys() == LLAMA3_SPECIAL_TOKENS.keys()


def test_small_file_tokenizes_chats_as_llama_3_does(tmp_path: Path) -> None:
    tokenizer = llama3_tokenizer(str(tiny_tokenizer_file(tmp_path)))
    ranks = tiny_ranks()
    chat = [Message(role="user", content="\u2460\u2460\u2460\u2460"), Message(role="assistant", content="No")]
    header = [len(ranks) + 6, len(ranks) + 7, ranks[b"\n\n"]]
    assert tokenizer.tokenize_messages(chat)[0] == [
        len(ranks),
        *(header[0], ranks[b"user"], *header[1:]),
        *[ranks["\u2460".encode()]] * 4,
        len(ranks) + 9,
        *(header[0], ranks[b"assistant"], *header[1:]),
        *(ranks[b"No"], len(ranks) + 9, len(ranks) + 1),
    ]
    assert tokenizer.vocab_size == tiny_vocab_size()
    assert tokenizer.decode(tokenizer.encode("Grüße \u2460, 42!")) == "Grüße \u2460, 42!"


def test_max_seq_len_is_passed_on(tmp_path: Path) -> None:
    tokenizer = llama3_tokenizer(str(tiny_tokenizer_file(tmp_path)), max_seq_len=9)
    assert len(tokenizer.tokenize_messages([Message(role="user", content="a long word")])[0]) == 9


def test_another_file_under_the_same_path_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    file = tiny_tokenizer_file(tmp_path)
    before = llama3_tokenizer(str(file)).base_vocab_size
    with open(file, "a") as opened:
        opened.write(f"{base64.b64encode(b'zz').decode()} {before}\n")
    assert llama3_tokenizer(str(file)).base_vocab_size == before + 1
    assert not (tmp_path / "cache").exists()
    assert os.environ["TIKTOKEN_CACHE_DIR"] == str(tmp_path / "cache")


def test_cache_setting_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    with pytest.raises(KeyError), uncached_tiktoken():
        raise KeyError
    assert "TIKTOKEN_CACHE_DIR" not in os.environ


def test_files_of_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.path=.*none: no such file; give the tokenizer\.model"):
        llama3_tokenizer(str(tmp_path / "none"))
    with pytest.raises(UserError, match="no such file"):
        llama3_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"is not the tokenizer\.json of a Llama 3"):
        llama3_tokenizer(str(tmp_path / "tokenizer.json"))
    (tmp_path / "sentencepiece.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02\n\x0b")
    with pytest.raises(UserError, match=r"sentencepiece\.model is not a Llama 3 tokenizer"):
        llama3_tokenizer(str(tmp_path / "sentencepiece.model"))
    file = tiny_tokenizer_file(tmp_path)
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:200]))
    with pytest.raises(UserError, match="is cut short"):
        llama3_tokenizer(str(file))


def test_tokenizer_that_fits_is_accepted(tmp_path: Path) -> None:
    check_tokenizer_fits(llama3_tokenizer(str(tiny_tokenizer_file(tmp_path))), tiny_vocab_size())


def _stub(**attributes: object) -> SimpleNamespace:
    return SimpleNamespace(**attributes)


LLAMA3 = _stub(
    base_vocab_size=128_000, vocab_size=128_257, special_tokens=LLAMA3_SPECIAL_TOKENS, stop_tokens=[128_001, 128_009]
)
LLAMA2 = _stub(vocab_size=32_000, bos_id=1, eos_id=2, pad_id=-1, stop_tokens=[2])
QWEN = _stub(encoder=dict.fromkeys(range(151_643)), special_tokens={"a": 151_664}, bos_id=None, stop_tokens=[151_645])
PHI3 = _stub(vocab_size=32_000, special_tokens={"<|endoftext|>": 32_000, "<|end|>": 32_010}, stop_tokens=[32_000])

GPT_OSS = _stub(vocab_size=200_019, special_tokens={"<|return|>": 200_002}, stop_tokens=[200_002, 200_012])


@pytest.mark.parametrize(
    ("tokenizer", "rows"),
    [
        *((LLAMA3, 128_256), (LLAMA3, 128_264), (LLAMA2, 32_000), (QWEN, 151_936), (QWEN, 152_064), (PHI3, 32_064)),
        (GPT_OSS, 201_088),
    ],
)
def test_real_pairs_of_tokenizer_and_llm_fit(tokenizer: SimpleNamespace, rows: int) -> None:
    check_tokenizer_fits(tokenizer, rows)


@pytest.mark.parametrize(
    ("tokenizer", "rows", "message"),
    [
        (LLAMA3, 32_000, r"makes ids up to 128255, but the LLM has 32000 embedding rows"),
        (LLAMA3, 128_255, r"makes ids up to 128255"),
        (PHI3, 32_010, r"makes ids up to 32010"),
        (LLAMA2, 128_256, r"knows 32000 tokens, but the LLM has 128256 embedding rows, so it is another model's"),
        (LLAMA3, 152_064, r"knows 128256 tokens"),
    ],
)
def test_pairs_that_do_not_fit_are_reported_with_both_sizes(
    tokenizer: SimpleNamespace, rows: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_tokenizer_fits(tokenizer, rows)
