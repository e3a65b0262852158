"""Added words against the plain way: a model whose tables are larger."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torchtune.models.gemma import gemma

from helpers import plain_training
from helpers.packed_samples import IMAGE, PROMPT_PREFIX, batch_of, sample, tiny_images, tiny_model
from medcap.errors import UserError
from medcap.models.component import EMBEDDING, OUTPUT
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.models.words import added_words
from medcap.modules.added_rows import embed_with_rows
from medcap.modules.frozen_linear import quantise_layer

FIRST = tiny_model().decoder.tok_embeddings.num_embeddings
A, B = FIRST, FIRST + 1


def begun(word, one):
    """The sample with a word before all else, which samples about one image share."""
    end = one.images_end + 1 if one.images else 0
    tokens, targets = np.insert(one.tokens, 0, word), np.insert(one.targets, 0, -100)
    return replace(one, tokens=tokens, targets=targets, images_end=end)


# Words before an image, in questions and in answers, beside each other.
SAMPLES = [
    begun(A, sample("a", [B, 20, 21], [30, B, 31])),
    begun(A, sample("a", [B, 20, 23], [B, B])),
    begun(A, sample("a", [20, 21], [A, 34, 35])),
    sample("b", [24, B], [36, 37]),
    sample(None, [26, 27, A], [38]),
]
NUM_TARGETS = sum(int((one.targets != -100).sum()) for one in SAMPLES)
TIED = {"builder": "torchtune.models.llama3_2.llama3_2"}


def plan_of(tied=False):
    return SimpleNamespace(llm=SimpleNamespace(dim=32, tied=tied))


def with_words(llm_weights="bf16", **llm):
    """A tiny model with three words whose rows are random."""
    model = tiny_model(**llm)
    words = added_words(plan_of("builder" in llm), ["<a>", "<b>", "<c>"])
    torch.manual_seed(3)
    for parameter in words.parameters():
        nn.init.normal_(parameter, std=0.3)
    for layer in model.decoder.layers:
        quantise_layer(layer, llm_weights)
    return VisionLanguageModel(model.tower, model.projector, model.decoder, IMAGE, [words]), words


def plain_with_larger_tables(words, **llm):
    """The same as a model without words: their rows are the tables' last ones, which get gradients."""
    plain = tiny_model(vocab_size=FIRST + 3, **llm)
    own = tiny_model(**llm).decoder
    for name, parameter in own.named_parameters():
        rows = words.added_rows(name)
        whole = parameter if rows is None else torch.cat([parameter, rows])
        plain.decoder.get_parameter(name).data.copy_(whole.detach())
    plain.decoder.requires_grad_(True)
    # Building a larger decoder has drawn other numbers for what is built after it.
    other = tiny_model(**llm)
    plain.tower.load_state_dict(other.tower.state_dict())
    plain.projector.load_state_dict(other.projector.state_dict())
    return plain


def plain_loss(model, images):
    whole = [([*one.tokens, one.targets[-1]], [-100, *one.targets]) for one in SAMPLES]
    tokens, labels, _ = plain_training.pad(whole, pad_id=0)
    pixels = torch.stack([images[name] for one in SAMPLES for name in one.images])
    return plain_training.plain_loss(model, tokens, labels, pixels) / NUM_TARGETS


@pytest.mark.parametrize("llm", [{}, TIED], ids=["untied", "tied"])
@pytest.mark.parametrize(("length", "share"), [(64, True), (64, False), (17, True)], ids=["shared", "packed", "cut"])
def test_loss_and_gradients_are_those_of_larger_tables(length, share, llm):
    images = tiny_images()
    model, words = with_words(**llm)
    plain = plain_with_larger_tables(words, **llm)
    expected = plain_loss(plain, images)
    expected.backward()
    loss = model.losses(batch_of(SAMPLES, images, length, share), chunk_size=3)["text"] / NUM_TARGETS
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    for name, rows in (("tok_embeddings.weight", words.embedding), ("output.weight", words.output)):
        if rows is not None:
            dense = plain.decoder.get_parameter(name).grad
            torch.testing.assert_close(rows.grad, dense[FIRST:], rtol=1e-5, atol=1e-5)
            assert rows.grad[:2].abs().sum(1).min() > 0
    for part in ("tower", "projector"):
        for own, other in zip(getattr(model, part).parameters(), getattr(plain, part).parameters(), strict=True):
            if other.grad is not None:
                torch.testing.assert_close(own.grad, other.grad, rtol=1e-4, atol=1e-5)
    assert all(parameter.grad is None for parameter in model.decoder.parameters())


def test_a_prompt_prefix_with_words_is_computed_with_them():
    model, words = with_words()
    plain = plain_with_larger_tables(words)
    prefix = (A, *PROMPT_PREFIX)
    model.cache_prompt_prefix(prefix)
    plain.cache_prompt_prefix(prefix)
    kept, expected = (one._prompt_prefixes[prefix] for one in (model, plain))
    for (keys, values), (other_keys, other_values) in zip(kept, expected, strict=True):
        torch.testing.assert_close(keys, other_keys)
        torch.testing.assert_close(values, other_values)


@pytest.mark.parametrize("llm_weights", ["fp8", "int8", "nf4"])
def test_low_precision_weights_train_words_too(llm_weights):
    model, words = with_words(llm_weights=llm_weights)
    model.losses(batch_of(SAMPLES, tiny_images(), 64))["text"].backward()
    assert all(parameter.grad[:2].abs().sum(1).min() > 0 for parameter in words.parameters())


def test_without_words_the_base_model_is_there_bit_for_bit():
    model, _ = with_words()
    batch = batch_of([sample("a", [20, 21], [30, 31])], tiny_images(), 64)
    base = tiny_model()
    with model.without(["words"]):
        assert torch.equal(model.losses(batch)["text"], base.losses(batch)["text"])
        assert model.unembed(torch.ones(1, 32)).shape == (1, FIRST)
    assert torch.equal(model.unembed(torch.ones(1, 32))[:, :FIRST], base.unembed(torch.ones(1, 32)))
    assert model.unembed(torch.ones(1, 32)).shape == (1, FIRST + 3)


def test_new_rows_are_the_mean_of_the_table_and_others_stay():
    model = tiny_model()
    words = added_words(plan_of(), ["<a>", "<b>"])
    with torch.no_grad():
        words.output.fill_(0.5)
    VisionLanguageModel(model.tower, model.projector, model.decoder, IMAGE, [words])
    mean = model.decoder.tok_embeddings.weight.mean(0)
    torch.testing.assert_close(words.embedding.detach(), torch.stack([mean, mean]))
    assert (words.output == 0.5).all()


def test_a_loss_without_gradients_keeps_none():
    model, words = with_words()
    with torch.no_grad():
        loss = model.losses(batch_of(SAMPLES, tiny_images(), 64))["text"]
    assert not loss.requires_grad
    words.requires_grad_(False)
    model.losses(batch_of(SAMPLES, tiny_images(), 64))["text"].backward()
    assert words.embedding.grad is None and model.projector[0].weight.grad is not None


def test_rows_are_scaled_as_the_family_scales_its_embeddings():
    shape = {"num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "head_dim": 8, "embed_dim": 8, "max_seq_len": 8}
    whole = gemma(vocab_size=12, intermediate_dim=8, **shape).tok_embeddings
    table = gemma(vocab_size=10, intermediate_dim=8, **shape).tok_embeddings
    table.weight.data.copy_(whole.weight.data[:10])
    tokens = torch.tensor([[0, 10, 9, 11]])
    assert torch.equal(embed_with_rows(table, whole.weight[10:], tokens), whole(tokens))
    with pytest.raises(IndexError):
        embed_with_rows(table, whole.weight[10:], torch.tensor([12]))


@pytest.mark.parametrize(
    ("tokens", "image_words", "message"),
    [
        ([], None, "words.tokens is empty: name at least one word"),
        (["<a>", ""], None, "words.tokens: word 2 is empty: remove it"),
        (["<a>", " "], None, "words.tokens: word 2 is empty: remove it"),
        (["<a> "], None, "words.tokens: '<a> ' begins or ends with white space: leave the white space out"),
        (["<a>", "<b>", "<a>"], None, "words.tokens: '<a>' is given twice: remove one"),
        (["<image>2"], None, "words.tokens: '<image>2' holds <image>, which stands for an image"),
        (["<a>"], ["<a>"], "words.image_words=['<a>']: give two words, one before and one after an image"),
        (["<a>"], ["<a>", "<b>"], "words.image_words: '<b>' is none of words.tokens=['<a>']: add it there"),
    ],
)
def test_impossible_words_are_refused(tokens, image_words, message):
    with pytest.raises(UserError) as error:
        added_words(plan_of(), tokens, image_words)
    assert str(error.value).startswith(message)


def test_rows_are_of_the_two_tables_alone():
    words = added_words(plan_of(tied=True), ["<a>"])
    assert words.added_rows(EMBEDDING) is words.added_rows(OUTPUT) is words.embedding
    assert words.added_rows("norm.scale") is None and [*words.state_dict()] == ["embedding"]
