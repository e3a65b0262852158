"""Text about boxes, the first weights of a language model that copies, and its teaching."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from medcap.data.boxes.notations import find_boxes
from medcap.datasets.phantoms.records import KINDS
from medcap.demo.box_language import SIDE, box_question_records, box_text_records, number_texts
from medcap.demo.box_teaching import ASKED, practise_rows, teach_box_language
from medcap.demo.first_weights import give_induction_heads, give_number_line

ARCHITECTURE = {
    "vocab_size": 768,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 4,
    "embed_dim": 128,
    "intermediate_dim": 64,
    "max_seq_len": 512,
}
NAMED = re.compile(r"(\w+)(?: is)?(?: at)? (\{[<>\d]+\})")


def _decoder():
    from torchtune.models.llama3_1 import llama3_1

    torch.manual_seed(0)
    decoder = llama3_1(**ARCHITECTURE)
    torch.nn.init.normal_(decoder.tok_embeddings.weight)
    return decoder.eval()


def test_an_answer_repeats_the_box_that_its_description_gives_the_thing():
    for record in box_question_records(30, 5, "box"):
        question, answer = (turn["value"] for turn in record["conversations"])
        text, _, asked = question.partition("\n")
        described = dict(NAMED.findall(text))
        [(name, box)] = NAMED.findall(answer)
        assert len(described) == 2
        assert described[name] == box
        assert name in asked


def test_the_box_of_a_question_is_that_of_the_kind_in_the_answer():
    for record in box_question_records(30, 5, "kind"):
        question, answer = (turn["value"] for turn in record["conversations"])
        text, _, asked = question.partition("\n")
        assert dict(NAMED.findall(text))[answer] in asked


def test_boxes_lie_in_the_image_and_are_not_small():
    for record in box_text_records(20, 3):
        for turn in record["conversations"]:
            for box in find_boxes(turn["value"], SIDE, SIDE):
                left, top, right, bottom = box.pixels((SIDE, SIDE))
                assert right - left >= 8
                assert bottom - top >= 8
                assert right <= SIDE
                assert bottom <= SIDE


def test_half_of_the_conversations_are_about_other_things_than_lesions():
    records = box_text_records(60, 3)
    named = [any(kind in record["conversations"][0]["value"] for kind in KINDS) for record in records]
    assert 20 <= sum(named) <= 40


def test_what_is_not_there_has_no_box():
    for record in box_question_records(10, 5, "absent"):
        assert re.fullmatch(r"There is no (nodule|ring|cross|cluster)\.", record["conversations"][1]["value"])


def test_each_head_of_the_first_layer_looks_one_token_further_back():
    decoder = _decoder()
    give_induction_heads(decoder)
    tokens = torch.randint(0, 768, (64, 20), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        layer = decoder.layers[0]
        inward = layer.sa_norm(decoder.tok_embeddings(tokens))
        rotate = layer.attn.pos_embeddings
        query = rotate(layer.attn.q_proj(inward).view(64, 20, 4, 32))[:, 12]  # [64, 4, 32]
        keys = rotate(layer.attn.k_proj(inward).view(64, 20, 4, 32))[:, :13]  # [64, 13, 4, 32]
        found = torch.einsum("bhd,bnhd->hn", query, keys).argmax(-1)
    assert found.tolist() == [11, 10, 9, 8]


def test_near_numbers_begin_alike():
    decoder = _decoder()
    give_number_line(decoder, {number: 100 + number for number in range(SIDE + 1)})
    rows = torch.nn.functional.normalize(decoder.tok_embeddings.weight[100 : 101 + SIDE], dim=1)
    alike = rows[30] @ rows.T
    assert alike[31] > 0.7
    assert alike[31] > alike[33] > alike[45]


@pytest.mark.slow
def test_a_taught_language_model_is_written_with_its_accuracy(tmp_path):
    found = teach_box_language(tmp_path / "llm", ARCHITECTURE, steps=2, batch_size=4, questions=4, progress=False)
    assert tuple(found) == ASKED
    assert json.loads((tmp_path / "llm" / "accuracy.json").read_text()) == found
    assert (tmp_path / "llm" / "original" / "tokenizer.model").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llm"]
    practised = practise_rows(
        tmp_path / "llm", tmp_path / "rows", ARCHITECTURE, steps=2, batch_size=4, questions=4, progress=False
    )
    assert json.loads((tmp_path / "rows" / "accuracy.json").read_text()) == practised
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("llm", "rows"))
    assert before.keys() == after.keys()
    # Two steps of practice move the weights a little: they were not built anew.
    moved = (after["model.embed_tokens.weight"] - before["model.embed_tokens.weight"]).abs().max()
    assert 0 < moved < 0.01


def test_every_number_is_named():
    assert list(number_texts())[::32] == ["{<0><0>}", "{<32><32>}", "{<64><64>}"]
