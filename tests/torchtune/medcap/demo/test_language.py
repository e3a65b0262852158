"""Teaching a tiny language model: labels, determinism, and that it learns."""

import pytest
import torch
from torchtune.data import Message

from medcap.datasets.phantoms.records import conversation, text_records
from medcap.demo.language import answer_accuracy, teach_language, tokenize, tokenizer_texts
from medcap.demo.tokenizer import train_tiktoken_file
from medcap.models.tokenizers import llama3_tokenizer

ARCHITECTURE = {
    "_component_": "torchtune.models.llama3_1.llama3_1",
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 1,
    "embed_dim": 32,
    "max_seq_len": 128,
    "intermediate_dim": 64,
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tiktoken_file(tokenizer_texts(text_records(300, seed=1)), 600, path)
    return llama3_tokenizer(str(path))


def test_words_and_roles_are_single_tokens(tokenizer):
    for word in ("user", "assistant", " spiky", " murmograph", "upper", " left", "yes", "nodule"):
        assert len(tokenizer.encode(word, add_bos=False, add_eos=False)) == 1


def test_tokens_are_the_chat_format_and_labels_the_answer(tokenizer):
    record = {"conversations": conversation("A ring.\nIs it bright?", "yes")}
    ((tokens, labels),) = tokenize([record], tokenizer)
    messages = [Message(role="user", content="A ring.\nIs it bright?"), Message(role="assistant", content="yes")]
    answer = tokenizer.encode("yes", add_bos=False, add_eos=False)
    assert tokens == tokenizer.tokenize_messages(messages)[0]
    assert [label for label in labels if label != -100] == [*answer, tokenizer.eot_id]
    assert all(label in (-100, token) for token, label in zip(tokens, labels, strict=True))
    assert labels[-1] == -100 and labels[-2] == tokenizer.eot_id


def test_every_turn_of_the_assistant_is_a_label(tokenizer):
    turns = [*conversation("A ring.", "yes"), *conversation("A cross.", "no")]
    labels = tokenize([{"conversations": turns}], tokenizer)[0][1]
    assert labels.count(tokenizer.eot_id) == 2


@pytest.mark.slow
def test_a_tiny_model_learns_and_is_the_same_every_time(tokenizer):
    records = [
        {"conversations": conversation(word, answer)}
        for word, answer in [("small", "nodule"), ("large", "ring"), ("bright", "cross"), ("dark", "cluster")]
    ]
    before = torch.random.get_rng_state()
    first, second = (
        teach_language(records, tokenizer, ARCHITECTURE, steps=60, batch_size=4, seed=5, progress=False)
        for _ in range(2)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.tok_embeddings.num_embeddings == tokenizer.vocab_size and not first.training
    state = second.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())
    assert answer_accuracy(first, tokenizer, records) == 1.0
    wrong = [{"conversations": conversation("small", "ring")}, records[0]]
    assert answer_accuracy(first, tokenizer, wrong) == 0.5


@pytest.mark.slow
def test_accuracy_agrees_with_greedy_decoding(tokenizer):
    records = text_records(12, seed=2)
    decoder = teach_language(records, tokenizer, ARCHITECTURE, steps=40, batch_size=8, progress=False)
    right = 0
    for record in records:
        ((tokens, labels),) = tokenize([record], tokenizer)
        start = next(position for position, label in enumerate(labels) if label != -100)
        said = tokens[:start]
        with torch.inference_mode():
            while len(said) < len(tokens) - 1:
                said.append(int(decoder(torch.tensor([said]))[0, -1].argmax()))
        right += said == tokens[:-1]
    assert answer_accuracy(decoder, tokenizer, records, batch_size=5) == right / len(records)
