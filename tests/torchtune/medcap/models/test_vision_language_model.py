import pytest
import torch

from helpers.packed_samples import (
    IMAGE,
    MIXED_SAMPLES,
    NUM_TARGETS,
    PROMPT_PREFIX,
    SAMPLES,
    K,
    batch_of,
    gradients,
    plain_loss,
    sample,
    tiny_images,
    tiny_model,
)
from helpers.tiny_generation import tiny_decoder
from medcap.data.batch import make_batch
from medcap.data.packing import Sample, pack_row
from medcap.models import vision_language_model
from medcap.models.packed_attention import attention_options
from medcap.models.vision_language_model import VisionLanguageModel


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def images():
    return tiny_images()


def assert_equal_steps(loss, found, expected, wanted):
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-5, atol=5e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(
    ("row_length", "share"),
    [(64, True), (64, False), (24, True), (17, True), (12, False)],
    ids=["shared", "packed", "two rows", "split over documents", "one sample a row"],
)
def test_packed_rows_equal_separate_samples_in_loss_and_gradients(model, images, row_length, share):
    model.decoder.requires_grad_(False)
    expected = plain_loss(model, images)
    wanted = gradients(model, expected)
    batch = batch_of(SAMPLES, images, row_length, share)
    loss = model.losses(batch)["text"] / NUM_TARGETS
    assert_equal_steps(loss, gradients(model, loss), expected, wanted)


@pytest.mark.parametrize(("row_length", "share"), [(128, True), (64, True), (40, False), (29, True)])
@pytest.mark.parametrize("layout", ["ragged", "padded", "parts"])
def test_images_of_different_lengths_equal_separate_samples(model, images, row_length, share, layout, monkeypatch):
    expected = plain_loss(model, images, MIXED_SAMPLES)
    wanted = gradients(model, expected)
    model.compiled = layout == "padded"  # the layout; nothing is compiled here
    monkeypatch.setattr(vision_language_model, "CPU_PASS_TOKENS", 30 if layout == "parts" else 10**6)
    batch = batch_of(MIXED_SAMPLES, images, row_length, share)
    parts = model.micro_batches(batch)
    assert len(parts) == (3 if layout == "parts" else 1)
    assert sum(part.num_images for part in parts) == batch.num_images == (12 if share else 15)
    loss = torch.stack([model.losses(part)["text"] for part in parts]).sum() / NUM_TARGETS
    assert_equal_steps(loss, gradients(model, loss), expected, wanted)


@pytest.mark.parametrize("row_length", [64, 17])
def test_a_prompt_prefix_computed_once_changes_nothing(model, images, row_length):
    expected = plain_loss(model, images)
    wanted = gradients(model, expected)
    model.cache_prompt_prefix(PROMPT_PREFIX)
    batch = batch_of(SAMPLES, images, row_length, prompt_prefix=PROMPT_PREFIX)
    assert not {1, 2} & set(batch.tokens.unique().tolist())
    loss = model.losses(batch)["text"] / NUM_TARGETS
    assert_equal_steps(loss, gradients(model, loss), expected, wanted)


def test_a_sample_that_does_not_continue_the_prompt_prefix_does_not_see_it(model, images):
    foreign = sample("a", [20], [21, 22])
    foreign.tokens[:2] = [3, 4]
    alone = model.losses(batch_of([foreign], images, 16))["text"]
    model.cache_prompt_prefix(PROMPT_PREFIX)
    both = [
        model.losses(batch_of(some, images, 64, prompt_prefix=PROMPT_PREFIX))["text"]
        for some in ([SAMPLES[3], foreign], SAMPLES[3:4])
    ]
    torch.testing.assert_close(both[0] - both[1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prompt_prefix", [(), PROMPT_PREFIX])
def test_rows_for_a_compiler_give_what_rows_without_padding_give(model, images, prompt_prefix):
    expected = plain_loss(model, images)
    wanted = gradients(model, expected)
    model.cache_prompt_prefix(prompt_prefix)
    model.compiled = True  # the layout; nothing is compiled here
    loss = model.losses(batch_of(SAMPLES, images, 24, prompt_prefix=prompt_prefix))["text"] / NUM_TARGETS
    assert_equal_steps(loss, gradients(model, loss), expected, wanted)


@pytest.mark.parametrize(("prompt_prefix", "row_length"), [((), 12), (PROMPT_PREFIX, 8)])
def test_rows_of_one_document_without_a_mask_give_the_same(model, images, prompt_prefix, row_length):
    expected = plain_loss(model, images)
    wanted = gradients(model, expected)
    model.cache_prompt_prefix(prompt_prefix)
    model.compiled = True  # the layout; nothing is compiled here
    batch = batch_of(SAMPLES, images, row_length, share=False, prompt_prefix=prompt_prefix)
    assert batch.causal and len(batch.tokens) == len(SAMPLES)
    assert attention_options(batch, batch.target_positions, torch.float32, ragged=False) == {"mask": None}
    loss = model.losses(batch)["text"] / NUM_TARGETS
    assert_equal_steps(loss, gradients(model, loss), expected, wanted)


@pytest.mark.slow
def test_compiled_layers_give_the_same_and_are_compiled_once(model, images):
    torch._dynamo.reset()
    wanted = gradients(model, plain_loss(model, images))
    model.compile_layers(backend="aot_eager")
    torch._dynamo.utils.counters.clear()
    model.cache_prompt_prefix(PROMPT_PREFIX)
    graphs = []
    for samples in (SAMPLES[:3], SAMPLES[3:], SAMPLES[1:4], SAMPLES):
        batch = batch_of(samples, images, 64, prompt_prefix=PROMPT_PREFIX)
        found = gradients(model, model.losses(batch)["text"] / NUM_TARGETS)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs == [1] * 4
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("prompt_prefix", [(), PROMPT_PREFIX])
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(model, images, prompt_prefix, monkeypatch):
    monkeypatch.setattr(vision_language_model, "CPU_PASS_TOKENS", 9)
    wanted = gradients(model, plain_loss(model, images))
    model.cache_prompt_prefix(prompt_prefix)
    batch = batch_of(SAMPLES, images, 64, prompt_prefix=prompt_prefix)
    parts = model.micro_batches(batch)
    assert len(parts) == 3
    assert [part.num_images for part in parts] == [1, 1, 0]
    assert sum(part.counts["text"] for part in parts) == batch.counts["text"] == NUM_TARGETS
    assert sum(part.num_tokens for part in parts) == batch.num_tokens
    model.zero_grad()
    for part in parts:
        loss = model.losses(part)["text"] / NUM_TARGETS
        if loss.requires_grad:
            loss.backward()
    for name, gradient in wanted.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-5, atol=5e-6)


def test_processes_that_share_layers_make_one_pass_each(model, images, monkeypatch):
    monkeypatch.setattr(vision_language_model, "CPU_PASS_TOKENS", 9)
    model.always_backward = True
    batch = batch_of(SAMPLES, images, 64)
    assert model.micro_batches(batch) == [batch]


def test_a_decoder_of_another_kind_trains_too(model, images):
    whole = VisionLanguageModel(model.tower, model.projector, tiny_decoder("gemma2"), IMAGE)
    assert not whole.frozen_layers
    expected = plain_loss(whole, images)
    wanted = gradients(whole, expected)
    loss = whole.losses(batch_of(SAMPLES, images, 24))["text"] / NUM_TARGETS
    assert_equal_steps(loss, gradients(whole, loss), expected, wanted)
    with pytest.raises(ValueError, match="cannot continue a prompt prefix"):
        whole.cache_prompt_prefix(PROMPT_PREFIX)


def test_sharing_encodes_an_image_once(images):
    assert batch_of(SAMPLES, images, 64).num_images == 2
    assert batch_of(SAMPLES, images, 64, share=False).num_images == 4


@pytest.mark.parametrize("count", [1, 2])
def test_checkpointed_layers_give_the_same_gradients(model, images, count):
    batch = batch_of(SAMPLES, images, 64)
    wanted = gradients(model, model.losses(batch)["text"])
    model.checkpointed_layers = count
    found = gradients(model, model.losses(batch)["text"])
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient)


def test_without_an_image_it_is_the_plain_decoder(model):
    tokens = torch.tensor([[1, 2, 20, 21, 22], [1, 2, 30, 31, 32]])
    positions = torch.arange(5).expand(2, 5)
    logits = model.unembed(model.hidden(model.embed(tokens, None, None), None, positions))
    torch.testing.assert_close(logits, model.decoder(tokens), rtol=0, atol=0)


def test_one_step_changes_what_trains_and_nothing_else(model, images):
    from medcap.training.trainable import set_trainable

    trainable = set_trainable(model, ["vision", "projector"])
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(trainable.values(), lr=1e-2)
    model.losses(batch_of(SAMPLES, images, 64))["text"].backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        if name in trainable:
            assert not torch.equal(parameter, before[name]), name
        else:
            assert parameter.grad is None, name
            assert torch.equal(parameter, before[name]), name
    assert any(name.startswith("tower.") for name in trainable)
    assert not any(name.startswith("decoder.") for name in trainable)


@pytest.mark.parametrize(("parts", "prefixes"), [(["projector"], {"projector"}), (["vision"], {"tower"})])
def test_trainable_parts_are_chosen(model, parts, prefixes):
    from medcap.training.trainable import set_trainable

    assert {name.partition(".")[0] for name in set_trainable(model, parts)} == prefixes


def test_an_unknown_trainable_part_is_an_error(model):
    from medcap.errors import UserError
    from medcap.training.trainable import set_trainable

    with pytest.raises(UserError, match="choose from vision, projector"):
        set_trainable(model, ["llm"])


def test_a_placeholder_without_its_rows_is_an_error(images):
    cut = Sample(SAMPLES[0].tokens[3:], SAMPLES[0].targets[3:], ("a",), (K,), K - 1, "row 9")
    with pytest.raises(ValueError, match="3 placeholders for 1 images"):
        make_batch([pack_row([[cut]], 20, 0)], IMAGE, K, images.__getitem__)


def test_an_image_id_outside_the_vocabulary_is_never_looked_up(model):
    model.image_token_id = 10**6
    embedded = model.embed(torch.tensor([[1, 10**6]]), torch.ones(1, 32), torch.tensor([1]))
    assert embedded[0, 1].tolist() == [1.0] * 32
