"""Every family against transformers' own forward pass: packed, cached, with adapters."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

from helpers.expert_models import choose_always
from helpers.packed_samples import IMAGE, NUM_TARGETS, PROMPT_PREFIX, SAMPLES, K, batch_of, gradients, tiny_images
from helpers.tiny_generation import (
    FakeProjector,
    FakeTower,
    mixed_requests,
    plain_answer,
    plain_score,
    write_images,
)
from helpers.tokenizers import tiny_tokenizer_file, tiny_vocab_size
from helpers.transformers_families import FAMILIES, plain_logits, write_family
from medcap.checkpoints.frozen_llm import plan_llm
from medcap.checkpoints.llm_fingerprint import llm_fingerprint
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.images.reader import ImageReader
from medcap.errors import UserError
from medcap.generation.generator import Generator
from medcap.generation.request import Sampling
from medcap.models.llm_lora import llm_lora
from medcap.models.lora_experts import lora_experts
from medcap.models.projectors.base import build_projector
from medcap.models.tokenizers import llama3_tokenizer
from medcap.models.towers.registry import build_tower
from medcap.models.towers.tiny_tower import tiny_spec
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.models.words import added_words

pytestmark = pytest.mark.slow
BUILDER = "medcap.models.transformers_decoder"


class Family:
    """A family's folder, transformers' model of it and ours."""

    def __init__(self, folder, name):
        self.folder = folder / "llm"
        self.name = name
        self.reference = write_family(self.folder, name)
        self.plan = plan_llm(BUILDER, self.folder)
        self.decoder = self.plan.load("cpu", torch.float32)
        torch.manual_seed(0)
        spec, preprocess = tiny_spec({"image_size": 16, "width": 32, "depth": 1, "heads": 2})
        tower = build_tower(spec, preprocess)
        projector = build_projector({"_component_": "medcap.models.mlp", "num_image_tokens": K}, tower.shape, 32)
        self.model = VisionLanguageModel(tower, projector, self.decoder, IMAGE)

    def plain_loss(self, images):
        """Every sample alone through transformers' forward pass; mean over targets."""
        total = torch.zeros(())
        for one in SAMPLES:
            tokens = torch.from_numpy(one.tokens).long()[None]
            embeddings = self.reference.get_input_embeddings()(tokens.masked_fill(tokens == IMAGE, 0))
            if one.images:
                rows = self.model.encode_images(torch.stack([images[name] for name in one.images]))
                at = (tokens.flatten() == IMAGE).nonzero().flatten()
                embeddings = embeddings.flatten(0, 1).index_copy(0, at, rows)[None]
            logits = plain_logits(self.reference, embeddings)
            total = total + cross_entropy(logits[0], torch.from_numpy(one.targets).long(), reduction="sum")
        return total / NUM_TARGETS


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    return Family(tmp_path_factory.mktemp(request.param), request.param)


def test_logits_are_those_of_transformers(family):
    tokens = torch.randint(0, 300, (2, 23), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = family.reference(tokens).logits
        torch.testing.assert_close(family.decoder(tokens), expected, rtol=1e-4, atol=1e-4)


def test_packed_rows_equal_separate_samples_in_loss_and_gradients(family):
    images = tiny_images()
    expected = family.plain_loss(images)
    wanted = gradients(family.model, expected)
    family.model.cache_prompt_prefix(PROMPT_PREFIX)
    for row_length, share, prompt_prefix, checkpointed in (
        (64, True, (), 0),
        (24, False, (), 1),
        (17, True, PROMPT_PREFIX, 0),
    ):
        family.model.checkpointed_layers = checkpointed
        batch = batch_of(SAMPLES, images, row_length, share, prompt_prefix)
        loss = family.model.losses(batch)["text"] / NUM_TARGETS
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        found = gradients(family.model, loss)
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=5e-5)
    assert not [name for name, part in family.decoder.named_parameters() if part.grad is not None]


def test_batched_answers_and_scores_are_those_of_single_prompts(family, tmp_path):
    tokenizer = ChatTokenizer(
        llama3_tokenizer(str(tiny_tokenizer_file(tmp_path / "tokenizer"))), FakeProjector.num_image_tokens
    )
    torch.manual_seed(11)
    model = VisionLanguageModel(FakeTower(), FakeProjector(), family.decoder, tokenizer.image_token_id)
    generator = Generator(
        model, tokenizer, model.tower.preprocess, ImageReader([tmp_path]), progress=False, batch_size=3
    )
    requests = mixed_requests(write_images(tmp_path, 1))[1:5]
    answers = generator.generate(requests, Sampling(max_new_tokens=7))
    assert [answer.tokens for answer in answers] == [plain_answer(generator, request, 7) for request in requests]
    # Through two layers with a window, what ends all prompts is all that an answer sees.
    assert len({tuple(answer.tokens) for answer in answers}) > (2 if family.name not in ("mistral", "phi3") else 0)
    (scores,) = generator.score(requests[:1], [["Yes", "No lung"]])
    wanted = [plain_score(generator, requests[0], candidate, True)[0] for candidate in ("Yes", "No lung")]
    assert scores.sums == pytest.approx(wanted, abs=1e-4)


def test_adapters_and_added_words_give_the_gradients_of_dense_weights(family):
    """Against transformers' own forward pass with B A added to the weights, and rows appended to the tables."""
    if family.name not in ("qwen3", "gemma3", "phi", "granite"):
        pytest.skip("the others have nothing further that concerns them")
    tokenizer_words = ["<SEG>", "<region>"]
    plan = SimpleNamespace(llm=family.plan)
    last = {"phi": "dense"}.get(family.name, "o_proj")
    torch.manual_seed(3)
    adapters = llm_lora(plan, rank=2, targets=["q_proj", last])
    words = added_words(plan, tokenizer_words)
    for parameter in adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    decoder = family.plan.load("cpu", torch.float32)
    model = VisionLanguageModel(family.model.tower, family.model.projector, decoder, IMAGE, [adapters, words])
    for parameter in words.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    first = decoder.tok_embeddings.num_embeddings
    tokens = torch.tensor([[5, 9, first, 31, 8, first + 1, 40, 41]])
    targets = torch.tensor([9, 31, first + 1, 8, first])
    at = torch.arange(5)
    positions = torch.arange(tokens.shape[1])[None]
    model.train()
    hidden = model.hidden(model.embed(tokens, None, None), None, positions)[0, at]
    found = cross_entropy(model.unembed(hidden), targets)

    dense = copy.deepcopy(family.reference)
    scale = adapters.scale
    for name, update in adapters.updates.items():
        linear = dense.get_submodule(name)
        weight = linear.weight + scale * update.lora_b.weight @ update.lora_a.weight
        del linear.weight
        linear.weight = weight
    table, head = dense.get_input_embeddings(), dense.get_output_embeddings()
    factor = getattr(table, "embed_scale", torch.tensor(1.0))
    rows = torch.cat([table.weight, words.embedding])
    output = torch.cat([head.weight, words.embedding if words.output is None else words.output])
    del head.weight
    head.weight = output
    if head.bias is not None:
        bias = torch.cat([head.bias, torch.zeros(2)])
        del head.bias
        head.bias = bias
    expected = cross_entropy(plain_logits(dense, rows[tokens] * factor)[0, at], targets)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    learnt = [*adapters.parameters(), *words.parameters()]
    for ours, plain in zip(*(torch.autograd.grad(loss, learnt) for loss in (found, expected)), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_experts_of_its_layers_are_those_of_their_own_runs(family):
    if family.name not in ("qwen3", "phi"):
        pytest.skip("one with parallel branches and one without are enough")
    plan, model = SimpleNamespace(llm=family.plan), family.model
    torch.manual_seed(3)
    experts = lora_experts(plan, [{"run": "a", "rank": 2}, {"run": "b", "rank": 3, "targets": ["q_proj"]}])
    for name, parameter in experts.named_parameters():
        torch.nn.init.normal_(parameter, std=0.0 if "router" in name else 0.1)

    def with_adapters(component):
        decoder = family.plan.load("cpu", torch.float32)
        return VisionLanguageModel(model.tower, model.projector, decoder, IMAGE, [component])

    batch = batch_of(SAMPLES, tiny_images(), 64)
    ours = with_adapters(experts)
    routers, found = [*experts.router.parameters()], []
    for checkpointed in (0, 2):
        ours.checkpointed_layers = checkpointed
        found.append(torch.autograd.grad(ours.losses(batch)["text"], routers))
    for gradient, again in zip(*found, strict=True):
        torch.testing.assert_close(again, gradient, rtol=1e-5, atol=1e-7)
        assert gradient.abs().sum() > 0
    for number in range(2):
        if number:  # without a preference the first expert is taken
            choose_always(experts, number)
        own = with_adapters(experts.experts[number])
        torch.testing.assert_close(ours.losses(batch)["text"], own.losses(batch)["text"], rtol=1e-5, atol=1e-5)


def test_targets_are_the_names_of_the_family(family):
    plan = SimpleNamespace(llm=family.plan)
    with pytest.raises(UserError, match=r"llm_lora.targets=\['w1'\]: choose all-linear, or from .*_proj"):
        llm_lora(plan, targets="w1")
    maps = {name.rpartition(".")[2] for name in plan.llm.linear_shapes()}
    assert maps == {
        "phi": {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"},
        "phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
        "glm4": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"},
        "gpt_oss": {"q_proj", "k_proj", "v_proj", "o_proj"},
        "qwen3_moe": {"q_proj", "k_proj", "v_proj", "o_proj"},
    }.get(family.name, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
    adapters = llm_lora(plan, rank=2)
    kept = adapters.layer_activations(10, torch.float32)
    assert kept == 4 * 10 * (sum([32] if len(maps) == 4 and "qkv_proj" not in maps else [32, 32, 48]) + 2 * len(maps))


def test_the_fingerprint_is_that_of_the_files(family):
    assert family.plan.fingerprint(torch.float32) == llm_fingerprint(family.decoder)


def test_a_llama_through_both_doors_has_the_same_logits_and_the_same_gradients_of_its_input(tmp_path):
    write_family(tmp_path, "llama", rope_theta=500_000.0)
    torchtunes = {
        "_component_": "torchtune.models.llama3.llama3",
        "vocab_size": tiny_vocab_size(),
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "embed_dim": 32,
        "intermediate_dim": 48,
        "max_seq_len": 256,
        "norm_eps": 1e-6,
    }
    tokens = torch.arange(1, 13)[None]
    found = []
    for llm in (torchtunes, BUILDER):
        torch.manual_seed(0)
        spec, preprocess = tiny_spec({"image_size": 16, "width": 32, "depth": 1, "heads": 2})
        tower = build_tower(spec, preprocess)
        projector = build_projector({"_component_": "medcap.models.mlp", "num_image_tokens": K}, tower.shape, 32)
        model = VisionLanguageModel(tower, projector, plan_llm(llm, tmp_path).load("cpu", torch.float32), IMAGE)
        embeddings = model.embed(tokens, None, None).detach().requires_grad_()
        logits = model.unembed(model.hidden(embeddings, None, torch.arange(12)[None]))
        logits.logsumexp(-1).sum().backward()
        found.append((logits.detach(), embeddings.grad))
    for one, other in zip(*found, strict=True):
        assert (one - other).abs().max() < 1e-4
