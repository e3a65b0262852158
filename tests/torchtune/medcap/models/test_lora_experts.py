import pytest
import torch

from helpers.expert_models import (
    EXPERTS,
    choose_always,
    own_model,
    plain_experts,
    plan_of,
    routed_model,
    straight_through,
)
from helpers.packed_samples import (
    NUM_TARGETS,
    PROMPT_PREFIX,
    SAMPLES,
    batch_of,
    gradients,
    plain_loss,
    tiny_images,
    tiny_model,
)
from helpers.pretend_cuda import counts, pretend_cuda
from medcap.errors import UserError
from medcap.models.lora_experts import choose_experts, lora_experts
from medcap.modules.frozen_functions import rotation_table
from medcap.training.distributed.memory import saved_bytes
from medcap.training.loss_normalisation import LossWeights


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("router", ["token", "sequence"])
def test_the_expert_that_is_chosen_computes_what_its_own_run_computes(router, number):
    model, experts = routed_model(router)
    choose_always(experts, number)
    batch = batch_of(SAMPLES, tiny_images(), 64, share=router == "token")
    own = own_model(experts, number)
    found, expected = model.losses(batch)["text"], own.losses(batch)["text"]
    # [Contract] bit for bit: the other expert adds products with exact zeros.
    assert torch.equal(found, expected)
    ours, theirs = gradients(model, found), gradients(own, expected)
    for name in theirs:
        if name.startswith(("projector", "tower")):
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("length", "share"), [(64, True), (64, False), (17, True)], ids=["shared", "packed", "cut"])
def test_a_router_of_tokens_gives_the_loss_and_the_gradients_of_the_plain_formula(length, share):
    images = tiny_images()
    model, experts = routed_model(train_experts=True)
    plain = plain_experts(experts)
    expected = plain_loss(plain, images)
    learnt = dict(experts.named_parameters())
    wanted = dict(zip(learnt, torch.autograd.grad(expected, learnt.values()), strict=True))
    found = model.losses(batch_of(SAMPLES, images, length, share))["text"] / NUM_TARGETS
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    ours = dict(zip(learnt, torch.autograd.grad(found, learnt.values()), strict=True))
    for name, gradient in wanted.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert all(wanted[f"router.{layer}.weight"].abs().sum() > 0 for layer in (0, 1))


@pytest.mark.slow
def test_layers_that_are_computed_again_and_compiled_ones_give_the_same_gradients():
    images = tiny_images()
    found = []
    for change in ("none", "checkpointed", "compiled"):
        model, experts = routed_model()
        model.checkpointed_layers = 2 if change == "checkpointed" else 0
        if change == "compiled":
            model.compile_layers(backend="eager")
        terms = model.losses(batch_of(SAMPLES, images, 64))
        (terms["text"] + terms["router_balance"]).backward()
        found.append({name: parameter.grad.clone() for name, parameter in experts.router.named_parameters()})
    for name, gradient in found[0].items():
        for other in found[1:]:
            torch.testing.assert_close(other[name], gradient, rtol=1e-5, atol=1e-6)


def question_of(sample):
    """The words before the answer, images left out."""
    end = int((sample.targets != -100).argmax())
    return [token for token in sample.tokens[: end + 1].tolist() if token != 7]


def test_a_router_of_sequences_reads_the_words_of_the_question_alone():
    images = tiny_images()
    model, experts = routed_model("sequence")
    table = model.decoder.tok_embeddings.weight
    router = experts.router["sequence"].weight
    with torch.no_grad():  # the directions of two questions
        for row, sample in enumerate((SAMPLES[0], SAMPLES[3])):
            router[row] = torch.nn.functional.normalize(table[question_of(sample)], dim=-1).mean(dim=0)
    routes, total = [], torch.zeros(())
    for sample in SAMPLES:
        words = torch.nn.functional.normalize(table[question_of(sample)], dim=-1)
        weights = straight_through((words @ router.T).mean(dim=0))
        routes.append(tuple(weights.tolist()))
        assert experts.route(table[question_of(sample)]) == routes[-1]
        (chosen,) = weights.nonzero().tolist()
        total = total + own_model(experts, chosen[0]).losses(batch_of([sample], images, 64))["text"]
    assert set(routes) == {(1.0, 0.0), (0.0, 1.0)}, "the samples go to both experts"
    for length in (64, 17):
        found = model.losses(batch_of(SAMPLES, images, length, share=False))["text"]
        torch.testing.assert_close(found, total, rtol=1e-5, atol=1e-5)
    flat = batch_of(SAMPLES, images, 64, share=False)
    padded = torch.stack([model.losses(part)["text"] for part in flat.micro_batches(12)]).sum()
    torch.testing.assert_close(padded, total, rtol=1e-5, atol=1e-5)


def test_a_router_of_sequences_has_the_gradient_of_the_plain_formula():
    images = tiny_images()
    model, experts = routed_model("sequence", top_k=2)
    router = experts.router["sequence"]
    loss = model.losses(batch_of(SAMPLES, images, 64, share=False))["text"]
    loss.backward()
    found, before = router.weight.grad.clone(), router.weight.detach().clone()
    step, direction = 1e-2, torch.randn(before.shape, generator=torch.Generator().manual_seed(0))
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            router.weight.copy_(before + sign * step * direction)
            values.append(model.losses(batch_of(SAMPLES, images, 64, share=False))["text"].double())
    # With all experts taking part the loss is smooth, and its slope is the gradient's.
    assert float((values[0] - values[1]) / (2 * step)) == pytest.approx(float((found * direction).sum()), rel=2e-2)


def test_questions_with_their_own_experts_share_no_prefix():
    model, _ = routed_model("sequence")
    with pytest.raises(ValueError, match="cannot share a prefix"):
        model.losses(batch_of(SAMPLES, tiny_images(), 64))
    with pretend_cuda() as device, pytest.raises(RuntimeError, match="cannot share a prefix"):
        model.to(device).losses(batch_of(SAMPLES, tiny_images(), 64).to(device))


@pytest.mark.parametrize("router", ["token", "sequence"])
def test_a_router_on_a_gpu_chooses_as_on_the_cpu_without_a_wait(router):
    model, experts = routed_model(router)
    # Two rows: the second one's documents have numbers from 0 again, and each row its padding.
    batch = batch_of(SAMPLES, tiny_images(), 24, share=False)
    assert len(batch.tokens) > 1 and (batch.document < 0).any()
    expected = {name: term.item() for name, term in model.losses(batch).items()}
    experts.log_sums()  # they are summed where they are made
    with pretend_cuda() as device:
        model.to(device)
        model.losses(batch.to(device))  # constants are made once
        moved = batch.to(device)
        counts.clear()
        found = model.losses(moved)
        assert "waits" not in counts and "copies to device" not in counts
        assert {name: term.item() for name, term in found.items()} == pytest.approx(expected, rel=1e-5)


def test_the_choice_has_the_gradient_of_the_softmax_over_all():
    logits = torch.tensor([[0.0, 1.0, 1.0], [2.0, 0.0, 1.0]], requires_grad=True)
    weights, probabilities = choose_experts(logits, 1)
    assert weights.tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], "the first among equals"
    factors = torch.tensor([[1.0, 2.0, 4.0], [3.0, 5.0, 7.0]])
    found = torch.autograd.grad((weights * factors).sum(), logits, retain_graph=True)[0]
    torch.testing.assert_close(found, torch.autograd.grad((probabilities * factors).sum(), logits)[0])
    two, _ = choose_experts(torch.tensor([[0.0, 1.0, 1.0]]), 2)
    torch.testing.assert_close(two, torch.tensor([[0.0, 0.5, 0.5]]))


def test_the_balance_is_one_for_equal_shares_and_weighs_nothing_by_default():
    images = tiny_images()
    model, experts = routed_model()
    batch = batch_of(SAMPLES, images, 64)
    weights = LossWeights(model.loss_terms, None, model.loss_weights, model.loss_counts)
    weights.begin(weights.counts(batch))
    terms = model.losses(batch)
    assert weights.counts(batch) == [NUM_TARGETS, NUM_TARGETS]
    assert weights.combine(terms) is terms["text"]
    choose_always(experts, 1)
    # All tokens to one of two experts, with certainty: 2 * 1 * 1.
    assert model.losses(batch)["router_balance"].item() == pytest.approx(2 * NUM_TARGETS)
    fresh, untrained = routed_model()
    with torch.no_grad():
        for parameter in untrained.router.parameters():
            parameter.zero_()
    assert fresh.losses(batch)["router_balance"].item() == pytest.approx(NUM_TARGETS)


def test_the_log_tells_the_share_of_the_tokens():
    model, experts = routed_model()
    batch = batch_of(SAMPLES, tiny_images(), 64)
    choose_always(experts, 1)
    model.train()
    model.losses(batch)
    model.losses(batch)
    sums = experts.log_sums().tolist()
    assert sums == pytest.approx([0.0, 2 * int(batch.num_tokens)])
    assert experts.log_values(sums) == {"expert_share_0": 0.0, "expert_share_1": 1.0}
    assert experts.log_sums().tolist() == [0.0, 0.0] and experts.log_values([0.0, 0.0])["expert_share_0"] == 0
    model.eval()
    model.losses(batch)
    assert experts.log_sums().tolist() == [0.0, 0.0], "only what is learnt from counts"


def test_without_them_the_base_model_is_there_bit_for_bit():
    batch = batch_of(SAMPLES, tiny_images(), 64)
    model, _ = routed_model()
    with model.without(["llm_lora"]):
        terms = model.losses(batch)
    assert torch.equal(terms["text"], tiny_model().losses(batch)["text"]) and terms["router_balance"] == 0


def test_only_the_router_learns_unless_the_experts_are_named():
    for train_experts in (False, True):
        model, experts = routed_model(train_experts=train_experts)
        names = {name for name, _ in experts.named_parameters()} - set(experts.unused(model.components))
        assert any(name.startswith("experts.") for name in names) == train_experts
        assert "router.0.weight" in names


def test_frozen_experts_drop_nothing_and_trained_ones_what_their_run_said():
    images = tiny_images()
    for train_experts in (False, True):
        model = tiny_model()
        experts = lora_experts(
            plan_of(model.decoder), [{**one, "dropout": 0.5} for one in EXPERTS], train_experts=train_experts
        )
        model = type(model)(model.tower, model.projector, model.decoder, 7, [experts])
        for name, parameter in experts.named_parameters():
            if "lora_b" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        model.train()
        batch = batch_of(SAMPLES, images, 64)
        assert (model.losses(batch)["text"] == model.losses(batch)["text"]) == (not train_experts)


def test_what_is_kept_of_a_prompt_prefix_follows_a_router_of_tokens():
    images = tiny_images()
    model, _ = routed_model()
    expected = model.losses(batch_of(SAMPLES, images, 64))["text"]
    model.cache_prompt_prefix(PROMPT_PREFIX)
    found = model.losses(batch_of(SAMPLES, images, 64, prompt_prefix=PROMPT_PREFIX))["text"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"router": "tokens"}, "llm_lora.router=tokens: choose from token, sequence"),
        ({"top_k": 3}, "llm_lora.top_k=3: it must be from 1 to 2, the number of experts"),
        ({"top_k": 0}, "llm_lora.top_k=0: it must be from 1 to 2, the number of experts"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError) as error:
        lora_experts(plan_of(tiny_model().decoder), EXPERTS, **options)
    assert str(error.value) == message


def test_an_expert_that_does_not_fit_is_named():
    experts = [EXPERTS[0], {"run": "runs/other", "targets": ["qkv_proj"]}]
    with pytest.raises(UserError, match=r"runs/other does not fit this language model: llm_lora.targets"):
        lora_experts(plan_of(tiny_model().decoder), experts)


def test_what_training_keeps_for_them_is_within_the_estimate():
    model, experts = routed_model(train_experts=True)
    layer = model.decoder.layers[0]
    positions = torch.arange(24)[None]
    table = rotation_table(layer.attn.pos_embeddings, positions)

    def run():
        states = torch.randn(1, 24, 32, requires_grad=True) * 1
        return layer(states, input_pos=positions, table=table, training_pass=True)

    kept = saved_bytes(run, model)
    experts.enabled = False
    beside, estimate = kept - saved_bytes(run, model), experts.layer_activations(24, torch.float32)
    assert 0.7 * estimate < beside < 1.3 * estimate
