"""The small tokenizer: a tiktoken file that says what the trained model says."""

import base64
import random

import pytest
import tiktoken
from torchtune.models.llama3._tokenizer import CL100K_PATTERN

from medcap.datasets.phantoms.records import text_records
from medcap.demo.tokenizer import train_bpe, train_tiktoken_file
from medcap.errors import UserError
from medcap.models.tokenizers import llama3_tokenizer


def _texts() -> list[str]:
    return [turn["value"] for record in text_records(400, seed=1) for turn in record["conversations"]] + ["user"] * 50


def _ranks(path) -> dict[bytes, int]:
    lines = path.read_text().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in map(str.split, lines)}


def test_ranks_are_dense_and_begin_with_all_single_bytes(tmp_path):
    size = train_tiktoken_file(_texts(), 400, tmp_path / "a" / "tokenizer.model")
    ranks = _ranks(tmp_path / "a" / "tokenizer.model")
    assert size == len(ranks) == 400
    assert list(ranks.values()) == list(range(400))
    assert {token for token, rank in ranks.items() if rank < 256} == {bytes([byte]) for byte in range(256)}


@pytest.mark.parametrize("vocab_size", [256, 300, 400, 2000])
def test_tiktoken_gives_the_ids_of_the_trained_model(tmp_path, vocab_size):
    # Runs of one letter and overlapping pieces are where two merge orders could differ.
    texts = [*_texts(), "aaaa aaaaaa abab ababab bcbcbc abcabc", "    \n\n   \t\t", "Röntgen ① äöü 雪 🫁 1234567"]
    bpe = train_bpe(texts, vocab_size)
    train_tiktoken_file(texts, vocab_size, tmp_path / "tokenizer.model")
    encoding = tiktoken.Encoding(
        "test", pat_str=CL100K_PATTERN, mergeable_ranks=_ranks(tmp_path / "tokenizer.model"), special_tokens={}
    )
    letters = random.Random(0)
    noise = ["".join(letters.choices("abc nodule ring,.\n\t0123①é", k=40)) for _ in range(300)]
    for text in [*texts, *noise]:
        ids = encoding.encode(text)
        assert ids == bpe.encode(text).ids
        assert encoding.decode(ids) == text


def test_a_llama3_tokenizer_reads_the_file(tmp_path):
    path = tmp_path / "tokenizer.model"
    size = train_tiktoken_file(_texts(), 1000, path)
    tokenizer = llama3_tokenizer(str(path))
    assert size < 1000 and tokenizer.base_vocab_size == size and tokenizer.vocab_size == size + 256
    assert tokenizer.bos_id == size and tokenizer.eot_id == size + 9
    assert len(tokenizer.encode(" korvogram", add_bos=False, add_eos=False)) == 1


def test_the_same_texts_give_the_same_file(tmp_path):
    for name in ("a", "b"):
        train_tiktoken_file(_texts(), 350, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_vocabulary_below_the_single_bytes_is_refused(tmp_path):
    with pytest.raises(UserError, match="at least 256"):
        train_tiktoken_file(["a"], 255, tmp_path / "tokenizer.model")
