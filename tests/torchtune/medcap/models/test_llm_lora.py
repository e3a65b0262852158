from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from helpers.packed_samples import (
    IMAGE,
    NUM_TARGETS,
    PROMPT_PREFIX,
    SAMPLES,
    batch_of,
    plain_loss,
    tiny_images,
    tiny_model,
)
from medcap.errors import UserError
from medcap.models import vision_language_model
from medcap.models.llm_lora import TARGETS, llm_lora
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.modules.frozen_functions import rotation_table
from medcap.modules.frozen_linear import quantise_layer
from medcap.training.distributed.memory import saved_bytes


def plan_of(decoder):
    shapes = {
        f"layers.{name}": (part.out_features, part.in_features)
        for name, part in decoder.layers.named_modules()
        if isinstance(part, nn.Linear)
    }
    return SimpleNamespace(llm=SimpleNamespace(linear_shapes=lambda: shapes))


def adapted(seed=0, updates=0.2, llm_weights="bf16", **options):
    """A tiny model with adapters whose updates are not zero."""
    model = tiny_model()
    torch.manual_seed(seed)
    adapters = llm_lora(plan_of(model.decoder), rank=3, **options)
    with torch.no_grad():
        for name, parameter in adapters.named_parameters():
            if "lora_b" in name:
                nn.init.normal_(parameter, std=updates)
    for layer in model.decoder.layers:
        quantise_layer(layer, llm_weights)
    return VisionLanguageModel(model.tower, model.projector, model.decoder, IMAGE, [adapters]), adapters


def merged(model, adapters):
    """The same model as a plain one, its updates added to the weights, which get gradients."""
    plain = tiny_model()
    for name, parameter in plain.decoder.named_parameters():
        added = adapters.added_weight(name)
        parameter.data += 0 if added is None else added
    plain.decoder.requires_grad_(True)
    return plain


@pytest.mark.parametrize("updates", [0.0, 0.2])
def test_the_base_model_is_there_bit_for_bit_without_them(updates):
    images = tiny_images()
    model, _ = adapted(updates=updates)
    batch = batch_of(SAMPLES, images, 64)
    base = tiny_model().losses(batch)["text"]
    with model.without(["llm_lora"]):
        assert torch.equal(model.losses(batch)["text"], base)
    # [Contract] a new adapter changes nothing, one that has learnt does.
    assert (updates == 0) == torch.allclose(model.losses(batch)["text"], base, rtol=1e-3)


@pytest.mark.parametrize("prompt_prefix", [(), PROMPT_PREFIX], ids=["whole", "continued"])
@pytest.mark.parametrize(("length", "share"), [(64, True), (64, False), (17, True)], ids=["shared", "packed", "cut"])
@pytest.mark.parametrize("options", [{}, {"targets": ["q_proj", "v_proj"]}, {"rank_stabilised": True, "alpha": 4}])
def test_gradients_are_those_of_the_merged_weights(length, share, options, prompt_prefix):
    images = tiny_images()
    model, adapters = adapted(**options)
    plain = merged(model, adapters)
    expected = plain_loss(plain, images)
    names = [name for name, _ in plain.decoder.named_parameters()]
    found = torch.autograd.grad(expected, [plain.decoder.get_parameter(name) for name in names], allow_unused=True)
    dense = dict(zip(names, found, strict=True))

    model.cache_prompt_prefix(prompt_prefix)
    loss = model.losses(batch_of(SAMPLES, images, length, share, prompt_prefix=prompt_prefix))["text"] / NUM_TARGETS
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    for name, parameter in adapters.named_parameters():
        linear, _, which = name.removesuffix(".weight").rpartition(".")
        update = adapters.get_submodule(linear)
        whole = adapters.scale * dense[f"{linear}.weight"]  # [out, in]
        wanted = update.lora_b.weight.T @ whole if which == "lora_a" else whole @ update.lora_a.weight.T
        if not prompt_prefix:  # what was computed before learns nothing from this step
            torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-5)
    assert all(parameter.grad is None for parameter in model.decoder.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("llm_weights", ["fp8", "int8", "nf4"])
def test_low_precision_weights_train_adapters_too(llm_weights):
    images = tiny_images()
    model, adapters = adapted(llm_weights=llm_weights)
    model.losses(batch_of(SAMPLES, images, 64))["text"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in adapters.parameters())
    with model.without(["llm_lora"]):
        loss = model.losses(batch_of(SAMPLES, images, 64))["text"]
    other, _ = adapted(updates=0.0, llm_weights=llm_weights)
    torch.testing.assert_close(loss, other.losses(batch_of(SAMPLES, images, 64))["text"])


@pytest.mark.slow
def test_layers_that_are_computed_again_give_the_same_gradients():
    images = tiny_images()
    found = []
    for checkpointed in (0, 2):
        model, adapters = adapted()
        model.checkpointed_layers = checkpointed
        model.losses(batch_of(SAMPLES, images, 64))["text"].backward()
        found.append({name: parameter.grad.clone() for name, parameter in adapters.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-6, atol=1e-7)


def test_dropout_is_of_training_alone():
    images = tiny_images()
    model, _ = adapted(dropout=0.5)
    batch = batch_of(SAMPLES, images, 64)
    model.train()
    assert model.losses(batch)["text"] != model.losses(batch)["text"]
    model.eval()
    assert model.losses(batch)["text"] == model.losses(batch)["text"]


def test_names_and_shapes_are_those_of_torchtunes_adapter_files():
    _, adapters = adapted(targets=["q_proj", "down_proj"])
    shapes = {name: tuple(tensor.shape) for name, tensor in adapters.state_dict().items() if "layers.0." in name}
    assert shapes == {
        "layers.0.attn.q_proj.lora_a.weight": (3, 32),
        "layers.0.attn.q_proj.lora_b.weight": (32, 3),
        "layers.0.mlp.w2.lora_a.weight": (3, 64),
        "layers.0.mlp.w2.lora_b.weight": (32, 3),
    }


def test_all_linear_maps_and_each_by_name():
    decoder = tiny_model().decoder
    everything = set(llm_lora(plan_of(decoder), rank=1).state_dict())
    by_name = [set(llm_lora(plan_of(decoder), rank=1, targets=name).state_dict()) for name in TARGETS]
    assert everything == set().union(*by_name) and sum(map(len, by_name)) == len(everything)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "llm_lora.rank=0: it must be at least 1"),
        ({"alpha": 0}, "llm_lora.alpha=0.0: it must be above 0"),
        ({"dropout": 1.0}, "llm_lora.dropout=1.0: it must be at least 0 and below 1"),
        ({"targets": "q_prj"}, "llm_lora.targets=['q_prj']: choose all-linear, or from q_proj"),
        ({"targets": []}, "llm_lora.targets=[]: choose all-linear"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError) as error:
        llm_lora(plan_of(tiny_model().decoder), **options)
    assert str(error.value).startswith(message)


def test_a_target_that_the_layers_lack_is_refused():
    plan = SimpleNamespace(llm=SimpleNamespace(linear_shapes=lambda: {"layers.0.attn.q_proj": (4, 4)}))
    with pytest.raises(UserError, match=r"the layers of this language model have no up_proj"):
        llm_lora(plan, targets=["q_proj", "up_proj"])


def test_what_a_model_cannot_do_without_is_named():
    model, _ = adapted()
    with (
        pytest.raises(UserError, match=r"without=projector: .* it can do without llm_lora"),
        model.without(["projector"]),
    ):
        pass
    with pytest.raises(UserError, match="it has none to leave out"), tiny_model().without(["llm_lora"]):
        pass


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], ["o_proj", "down_proj"], ["up_proj"]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_training_keeps_for_them_is_the_formula(targets, dtype):
    model, adapters = adapted(targets=targets)
    model.decoder.to(dtype)
    model.decoder.layers[0].attn.pos_embeddings.rope_init()  # fp32 in use, too
    layer = model.decoder.layers[0]
    positions = torch.arange(24)[None]
    table = rotation_table(layer.attn.pos_embeddings, positions)

    def run():
        states = torch.randn(1, 24, 32, dtype=dtype, requires_grad=True) * 1
        return layer(states, input_pos=positions, table=table, training_pass=True)

    kept = saved_bytes(run, model)
    adapters.enabled = False
    beside = kept - saved_bytes(run, model)
    if dtype == torch.bfloat16:  # copies of the matrices in this precision, which the estimate counts with the weights
        beside -= sum(tensor.numel() * 2 for name, tensor in adapters.state_dict().items() if "layers.0." in name)
    assert beside == adapters.layer_activations(24, dtype)


@pytest.mark.parametrize(("dropout", "keeps"), [(0.5, True), (0.0, False)])
def test_layers_that_are_computed_again_draw_the_same_dropout(monkeypatch, dropout, keeps):
    images, found, kept = tiny_images(), [], []

    def note(*args, preserve_rng_state, **options):
        kept.append(preserve_rng_state)
        return checkpoint(*args, preserve_rng_state=preserve_rng_state, **options)

    monkeypatch.setattr(vision_language_model, "checkpoint", note)
    for checkpointed in (0, 2):
        model, adapters = adapted(dropout=dropout)
        model.checkpointed_layers = checkpointed
        model.train()
        torch.manual_seed(5)
        model.losses(batch_of(SAMPLES, images, 64))["text"].backward()
        found.append({name: parameter.grad.clone() for name, parameter in adapters.named_parameters()})
    assert kept == [keeps] * 2
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-6, atol=1e-7)
