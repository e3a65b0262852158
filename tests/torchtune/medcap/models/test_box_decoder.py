"""The box head: packed batches equal the plain way, values and gradients; a frozen model gets gradients through it."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torchvision.ops import generalized_box_iou_loss

from helpers.llm_checkpoints import random_decoder, tiny_llm
from helpers.packed_samples import IMAGE, batch_of, gradients, sample, tiny_images, tiny_model
from helpers.pretend_cuda import counts, pretend_cuda
from medcap.data.answer_targets import BoxTarget
from medcap.data.batch import dummy_batch
from medcap.errors import UserError
from medcap.models.box_decoder import BoxDecoder, _covered, _overlap_loss, box_decoder
from medcap.models.object_query import Sought
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.training.loss_normalisation import LossWeights

# Overlapping, one within the other, apart along one side and along both, touching, the same, and without an area.
PAIRS = [
    ((0.1, 0.1, 0.5, 0.6), (0.3, 0.2, 0.8, 0.9)),
    ((0.3, 0.3, 0.4, 0.4), (0.1, 0.2, 0.8, 0.9)),
    ((0.1, 0.1, 0.3, 0.6), (0.5, 0.2, 0.8, 0.9)),
    ((0.1, 0.1, 0.2, 0.2), (0.5, 0.6, 0.8, 0.9)),
    ((0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.5)),
    ((0.2, 0.2, 0.6, 0.7), (0.2, 0.2, 0.6, 0.7)),
    ((0.2, 0.2, 0.2, 0.7), (0.1, 0.1, 0.6, 0.7)),
]
TERMS = ("text", "box_l1", "box_giou", "box_seen", "box_look")


def model_with_head():
    plain = tiny_model()
    torch.manual_seed(3)
    head = BoxDecoder(tiny_llm()["embed_dim"], 32, 4, width=8, layers=2, heads=2)
    return VisionLanguageModel(plain.tower, plain.projector, random_decoder(tiny_llm()), IMAGE, [head])


def with_boxes(one, *edges):
    """Put boxes on the last image of a sample, each predicted at one of its targets."""
    first = int((one.targets >= 0).argmax())
    boxes = [BoxTarget(first + number, box, len(one.images) - 1) for number, box in enumerate(edges)]
    return replace(one, boxes=tuple(boxes))


SAMPLES = [
    with_boxes(sample("a", [20, 21, 22], [30, 31]), (0.1, 0.2, 0.5, 0.9), (0.3, 0.3, 0.6, 0.6)),
    sample("a", [20, 23], [32]),
    with_boxes(sample("a", [20, 21], [33, 34, 35]), (0.0, 0.5, 0.25, 1.0), None),
    with_boxes(sample("dcb", [24, 25], [36, 37]), (0.5, 0.5, 0.75, 1.0)),
    sample(None, [26, 27, 28], [38]),
    with_boxes(sample("c", [24, 25], [36, 37]), (0.2, 0.4, 0.7, 0.8)),
]


def total(model, batch):
    weights = LossWeights(model.loss_terms, model.loss_weights)
    weights.begin([11, 5, 5, 6, 6])
    sums = model.losses(batch)
    return weights.combine(sums), {name: sums[name].detach() for name in TERMS}


@pytest.fixture(scope="module")
def plain():
    """The model, and its loss terms and gradients with every sample in a batch of its own."""
    model, images = model_with_head(), tiny_images()
    loss, terms = 0, dict.fromkeys(TERMS, 0)
    for one in SAMPLES:
        own, sums = total(model, batch_of([one], images, len(one.tokens)))
        loss, terms = loss + own, {name: terms[name] + sums[name] for name in TERMS}
    return model, terms, gradients(model, loss)


@pytest.mark.parametrize(("length", "share"), [(24, True), (64, True), (64, False)])
def test_packed_and_shared_rows_give_the_loss_and_gradients_of_separate_samples(plain, length, share):
    model, wanted, wanted_gradients = plain
    batch = batch_of(SAMPLES, tiny_images(), 64 if length == 64 else 40, share)
    assert batch.counts == {"text": 11, "box_l1": 5, "box_giou": 5, "box_seen": 6, "box_look": 6}
    loss, sums = total(model, batch)
    for name in TERMS:
        torch.testing.assert_close(sums[name], wanted[name])
    found = gradients(model, loss)
    assert found.keys() == wanted_gradients.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted_gradients[name], rtol=1e-4, atol=1e-5, msg=name)


def test_micro_batches_hold_the_boxes_of_their_documents(plain):
    model, wanted, _ = plain
    parts = batch_of(SAMPLES, tiny_images(), 64).micro_batches(20)
    assert len(parts) > 2
    assert sum(part.counts.get("box_l1", 0) for part in parts) == 5
    assert any(part.box_targets is None for part in parts)
    for name in TERMS:
        torch.testing.assert_close(sum(model.losses(part)[name].detach() for part in parts), wanted[name])


def test_a_prompt_prefix_that_is_computed_once_changes_nothing(plain):
    model, wanted, _ = plain
    model.cache_prompt_prefix((1, 2))
    sums = model.losses(batch_of(SAMPLES, tiny_images(), 64, prompt_prefix=(1, 2)))
    for name in TERMS:
        torch.testing.assert_close(sums[name].detach(), wanted[name])


def test_the_box_term_reaches_tower_and_projector_through_the_frozen_layers():
    model = model_with_head()
    for part in (model.tower, model.projector):
        part.requires_grad_(True)
    # Without the head's own way to the tower, only that through the language model is left.
    head = model.components["box_decoder"]
    batch, images = batch_of(SAMPLES[:1], tiny_images(), 24), None
    images, patches = model.encode_with_patches(batch.images)
    hidden, _ = model.hidden_at_targets(batch, images)
    found = gradients(model, head.losses(batch, hidden, patches.detach())["box_l1"])
    assert all(found[f"{part}.{name}"].abs().sum() > 0 for part, name in [("tower", "blocks.0.up.weight")])
    assert any(name.startswith("projector.") and gradient.abs().sum() > 0 for name, gradient in found.items())
    assert not any(name.startswith("decoder.") for name in found)


def test_a_batch_without_boxes_gives_the_head_no_gradient():
    model = model_with_head()
    assert model.losses(dummy_batch())["box_l1"] == 0
    sums = model.losses(batch_of([SAMPLES[1], SAMPLES[4]], tiny_images(), 24))
    assert sums["box_l1"] == sums["box_giou"] == sums["box_seen"] == 0
    found = gradients(model, LossWeights(TERMS).combine(sums | {"text": sums["text"] + sums["box_l1"]}))
    assert found and not any(name.startswith("further") for name in found)


def test_the_loss_of_a_known_box_is_detrs(monkeypatch):
    model = model_with_head()
    head = model.components["box_decoder"]

    scores = torch.tensor([[2.0, 2 + math.log(3), 2.0, 2.0], [2.0] * 4])
    sought = Sought(None, scores, None, None, torch.tensor([0.0, math.log(3)]))
    monkeypatch.setattr(head, "seek", lambda hidden, patches: sought)
    monkeypatch.setattr(head, "_box", lambda found: torch.tensor([[0.0, 0.0, 0.5, 0.5]] * 2))
    batch = batch_of([with_boxes(sample("a", [20], [30, 31]), (0.25, 0.0, 0.75, 0.5), None)], tiny_images(), 16)
    sums = head.losses(batch, torch.zeros(2, 64), torch.zeros(1, 4, 32))
    assert sums["box_l1"].item() == pytest.approx(0.25)  # the centre moves by a quarter
    assert sums["box_giou"].item() == pytest.approx(1 - 1 / 3)  # a third is shared, and no gap lies between them
    # The second is not there: it has no place, and three quarters of certainty are wrong.
    assert sums["box_seen"].item() == pytest.approx(math.log(2) + math.log(4))
    # Of four patches the box covers half of the upper two: both count as covered, and the lower ones as not.
    wanted = (3 * math.log(2) + math.log(4 / 3)) / 2 + 4 * math.log(2)
    assert sums["box_look"].item() == pytest.approx(wanted)
    assert model.loss_weights == {"box_l1": 5.0, "box_giou": 2.0, "box_seen": 1.0, "box_look": 2.0}


def test_a_box_covers_of_each_patch_what_a_count_of_points_says():
    boxes = torch.tensor([[0.1, 0.2, 0.55, 0.9], [0.0, 0.0, 1.0, 1.0], [0.3, 0.3, 0.31, 0.31]])
    places = (torch.arange(400) + 0.5) / 400
    for box, covered in zip(boxes, _covered(boxes, 4), strict=True):
        across, down = ((places > box[start]) & (places < box[start + 2]) for start in (0, 1))
        points = (down[:, None] & across[None]).float().reshape(4, 100, 4, 100).mean(dim=(1, 3))
        torch.testing.assert_close(covered, points.flatten(), rtol=0, atol=1e-3)


def test_a_box_has_positive_sides_and_comes_from_its_own_image():
    model = model_with_head()
    head = model.components["box_decoder"]
    hidden, patches = torch.randn(5, tiny_llm()["embed_dim"]), torch.randn(5, 4, 32)
    together, seen = head(hidden, patches)
    assert seen.shape == (5,)
    assert together.shape == (5, 4) and (together[:, 2:] > together[:, :2]).all()
    for number in range(5):
        edges, there = head(hidden[number : number + 1], patches[number : number + 1])
        torch.testing.assert_close(edges[0], together[number])
        torch.testing.assert_close(there[0], seen[number])


@pytest.mark.parametrize(
    ("words", "options", "takes", "patches", "message"),
    [
        (["<SEG>"], {}, "patches", 4, "asked for by the word <BOX>, which this model does not have: add words="),
        (["<BOX>"], {}, "pooled", 4, "the projector takes one vector of an image"),
        (["<BOX>"], {}, "patches", 6, "gives 6 patch tokens, which are not a square"),
        (["<BOX>"], {"width": 10}, "patches", 4, r"box_decoder.width=10 must be a multiple of 4"),
        (["<BOX>"], {"layers": 0}, "patches", 4, r"box_decoder.layers=0 must be a positive whole number"),
    ],
)
def test_what_cannot_be_built_is_refused(words, options, takes, patches, message):
    plan = SimpleNamespace(
        vision=SimpleNamespace(takes=takes, llm_dim=8, shape=SimpleNamespace(num_patches=patches, patch_dim=32)),
        further=[SimpleNamespace(name="words", config={"tokens": words})],
    )
    with pytest.raises(UserError, match=message):
        box_decoder(plan, **options)


def test_the_overlap_is_torchvisions_with_its_gradient_and_without_a_wait():
    found, wanted = torch.tensor(PAIRS).unbind(1)
    sides = [found.clone().requires_grad_(), wanted.clone().requires_grad_()]
    theirs = [found.clone().requires_grad_(), wanted.clone().requires_grad_()]
    ours, expected = _overlap_loss(*sides), generalized_box_iou_loss(*theirs)
    # The second has 0.01 of the 0.49 that it lies in; the sixth is in its place.
    assert ours[[1, 5]].tolist() == pytest.approx([1 - 0.01 / 0.49, 0.0], abs=1e-5)
    torch.testing.assert_close(ours, expected)
    weights = torch.arange(1.0, 8.0)
    (ours * weights).sum().backward()
    (expected * weights).sum().backward()
    for own, other in zip(sides, theirs, strict=True):
        torch.testing.assert_close(own.grad, other.grad)
    with pretend_cuda() as device:
        there = found.to(device).requires_grad_(), wanted.to(device)
        counts.clear()
        moved = _overlap_loss(*there)
        moved.sum().backward()
        assert "waits" not in counts and counts["kernels"] <= 100
        torch.testing.assert_close(moved.cpu(), expected)
