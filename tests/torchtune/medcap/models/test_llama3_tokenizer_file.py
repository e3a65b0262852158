import functools
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torchtune.data import Message
from torchtune.models.llama3 import Llama3Tokenizer
from torchtune.models.llama3._tokenizer import CL100K_PATTERN

from helpers.judge_checkpoints import write_chat_tokenizer
from helpers.run_folders import write_run
from helpers.tokenizers import tiny_tokenizer_file
from medcap.errors import UserError
from medcap.export.formats import export_run
from medcap.generation.run import open_run
from medcap.importing.sources import import_model
from medcap.models.llama3_tokenizer_file import find_tokenizer_file, tokenizer_model
from medcap.models.tokenizers import llama3_tokenizer


def test_the_file_is_the_original_one(tmp_path):
    write_chat_tokenizer(tmp_path)
    assert tokenizer_model(tmp_path / "tokenizer.json") == tiny_tokenizer_file(tmp_path / "original").read_text()


@pytest.mark.slow
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
    with pytest.raises(UserError, match=r"is a tokenizer that tokenizer.model cannot hold: give the original"):
        tokenizer_model(tmp_path / "tokenizer.json")


@pytest.fixture
def mirror(tmp_path):
    """A model's folder as most copies on the hub are: tokenizer.json alone; and the original beside it, elsewhere."""
    (tmp_path / "mirror").mkdir()
    write_chat_tokenizer(tmp_path / "mirror")
    return tmp_path / "mirror", tiny_tokenizer_file(tmp_path / "original")


@settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.sampled_from("Is there a left lung?\n\n \t①é日本🫁12345'sDon'tCHEST\r<|eot_id|>"), max_size=60))
def test_the_tokens_are_those_of_the_original(mirror, text):
    folder, original = mirror
    found, wanted = _tokenizers(str(folder / "original/tokenizer.model"), str(original))
    assert found.encode(text) == wanted.encode(text)
    chat = [Message(role="user", content=text), Message(role="assistant", content="No")]
    assert found.tokenize_messages(chat) == wanted.tokenize_messages(chat)
    assert found.special_tokens == wanted.special_tokens


@functools.cache
def _tokenizers(*paths):
    return [llama3_tokenizer(path) for path in paths]


@pytest.mark.parametrize("named", ["", "tokenizer.json", "tokenizer.model", "original/tokenizer.model"])
def test_the_file_is_found_by_every_name_of_it(mirror, named):
    folder, original = mirror
    assert find_tokenizer_file(folder / named) == folder / "tokenizer.json"
    assert llama3_tokenizer(str(folder / named)).base_vocab_size == llama3_tokenizer(str(original)).base_vocab_size


def test_the_original_comes_first(mirror):
    folder, original = mirror
    for name in ("tokenizer.model", "original/tokenizer.model"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(original, folder / name)
        assert find_tokenizer_file(folder) == folder / name
        assert find_tokenizer_file(folder / name) == folder / name
    # A name that is a mistake is not replaced.
    assert find_tokenizer_file(folder / "original/tokenizer.mod") == folder / "original/tokenizer.mod"


def test_words_that_are_split_by_another_rule_are_refused(mirror):
    file = mirror[0] / "tokenizer.json"
    content = json.loads(file.read_text())
    for pattern in (CL100K_PATTERN, r"\p{L}+|\p{N}"):
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        steps = {"type": "Sequence", "pretokenizers": [split, content["pre_tokenizer"]]}
        file.write_text(json.dumps(content | {"pre_tokenizer": steps}))
        if pattern == CL100K_PATTERN:
            llama3_tokenizer(str(file))
    with pytest.raises(UserError, match="splits words by another rule than Llama 3's"):
        llama3_tokenizer(str(file))


@pytest.mark.slow
def test_a_run_on_a_mirror_is_exported_with_its_tokenizer(tmp_path):
    run = write_run(tmp_path, "siglip")
    cfg = OmegaConf.load(run / "config.yaml")
    original = Path(cfg.tokenizer.path)
    text = original.read_text()
    export_run(run, tmp_path / "first")
    shutil.copyfile(tmp_path / "first/tokenizer.json", original.parent.parent / "tokenizer.json")
    original.unlink()
    export_run(run, tmp_path / "second")
    assert (tmp_path / "second/original/tokenizer.model").read_text() == text
