import json

import pytest
from torchtune.models.llama3 import Llama3Tokenizer

from helpers.judge_checkpoints import write_chat_tokenizer
from helpers.run_folders import write_run
from helpers.tokenizers import tiny_tokenizer_file
from medcap.errors import UserError
from medcap.export.formats import export_run
from medcap.generation.run import open_run
from medcap.importing.llama3_tokenizer_file import tokenizer_model
from medcap.importing.sources import import_model


def test_the_file_is_the_original_one(tmp_path):
    write_chat_tokenizer(tmp_path)
    assert tokenizer_model(tmp_path / "tokenizer.json") == tiny_tokenizer_file(tmp_path / "original").read_text()


def test_a_folder_without_the_original_is_imported_all_the_same(tmp_path):
    run = write_run(tmp_path, "siglip")
    export_run(run, tmp_path / "out")
    original = (tmp_path / "out/original/tokenizer.model").read_bytes()
    (tmp_path / "out/original/tokenizer.model").unlink()
    assert import_model(tmp_path / "out", tmp_path / "back") == []
    assert (tmp_path / "back/llm/original/tokenizer.model").read_bytes() == original
    assert isinstance(open_run(tmp_path / "back", ["device=cpu"]).tokenizer.tokenizer, Llama3Tokenizer)


def test_other_tokenizers_are_none_of_llama_3(tmp_path):
    assert tokenizer_model(tmp_path / "tokenizer.json") is None
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "vocab": []}}))
    assert tokenizer_model(tmp_path / "tokenizer.json") is None


def test_merges_in_another_order_are_refused(tmp_path):
    write_chat_tokenizer(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"]["merges"].reverse()
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"is a tokenizer that tokenizer.model cannot hold: give the original one as"):
        tokenizer_model(tmp_path / "tokenizer.json")
