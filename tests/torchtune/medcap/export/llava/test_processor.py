import pytest
from torchtune.models.llama3 import Llama3Tokenizer

from helpers.tokenizers import tiny_ranks, tiny_tokenizer_file, tiny_vocab_size
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.errors import UserError
from medcap.export.llava.processor import check_tokenizer
from medcap.models.tokenizers import llama3_special_tokens, llama3_tokenizer


def test_the_image_token_is_one_that_llama_3_reserves(tmp_path):
    file = str(tiny_tokenizer_file(tmp_path))
    tokenizer = ChatTokenizer(llama3_tokenizer(file), 4)
    assert check_tokenizer(tokenizer, tiny_vocab_size()) == len(tiny_ranks()) + 11
    with pytest.raises(UserError, match="could stand for images, is in use or has no embedding row"):
        check_tokenizer(tokenizer, len(tiny_ranks()))
    taken = llama3_special_tokens(len(tiny_ranks())) | {"<|mine|>": len(tiny_ranks()) + 11}
    with pytest.raises(UserError, match="could stand for images, is in use or has no embedding row"):
        check_tokenizer(ChatTokenizer(Llama3Tokenizer(file, taken), 4), tiny_vocab_size())
