"""The mask decoder: packed batches equal the plain way, values and gradients; its losses are the published formulas."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from helpers.llm_checkpoints import random_decoder, tiny_llm
from helpers.packed_samples import IMAGE, batch_of, gradients, sample, tiny_images, tiny_model
from medcap.data.answer_targets import MaskTarget
from medcap.data.regions.region import BoxShape, Region
from medcap.errors import UserError
from medcap.models.mask_decoders.patch_mask_decoder import PatchMaskDecoder, patch_mask_decoder
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.modules.gradient_scale import scale_gradient
from medcap.modules.mask_losses import mask_bce, mask_dice, mask_focal, mask_iou_error
from medcap.training.loss_normalisation import LossWeights

TERMS = ("text", "mask_bce", "mask_dice", "mask_focal", "mask_iou", "mask_seen", "mask_look")
SIDE = tiny_images()["a"].shape[-1]


def model_with_masks(gradient_scale=1.0):
    plain = tiny_model()
    torch.manual_seed(3)
    decoder = PatchMaskDecoder(tiny_llm()["embed_dim"], 32, 4, SIDE, 8, 1, 2, gradient_scale)
    return VisionLanguageModel(plain.tower, plain.projector, random_decoder(tiny_llm()), IMAGE, [decoder])


def with_masks(one, *seeds):
    """Put random masks on the last image of a sample, each predicted at one of its targets; None is an absent one."""
    first = int((one.targets >= 0).argmax())
    masks = []
    for number, seed in enumerate(seeds):
        shown = np.zeros((2, SIDE, SIDE), np.uint8)
        shown[1, :, 2:] = 255  # two columns are padding
        if seed is not None:
            shown[0] = shown[1] * (np.random.default_rng(seed).random((SIDE, SIDE)) < 0.3)
        region = None if seed is None else Region(BoxShape((0, 0, 1, 1)))
        masks.append(MaskTarget(first + number, region, len(one.images) - 1, shown))
    return replace(one, masks=tuple(masks))


SAMPLES = [
    with_masks(sample("a", [20, 21, 22], [30, 31]), 1, 2),
    sample("a", [20, 23], [32]),
    with_masks(sample("a", [20, 21], [33, 34, 35]), 3, None),
    with_masks(sample("dcb", [24, 25], [36, 37]), 4),
    sample(None, [26, 27, 28], [38]),
    with_masks(sample("c", [24, 25], [36, 37]), 5),
]


def total(model, batch):
    weights = LossWeights(model.loss_terms, model.loss_weights)
    weights.begin([11, 5, 5, 5, 5, 6, 6])
    sums = model.losses(batch)
    return weights.combine(sums), {name: sums[name].detach() for name in TERMS}


@pytest.fixture(scope="module")
def plain():
    """The model, and its loss terms and gradients with every sample in a batch of its own."""
    model, images = model_with_masks(), tiny_images()
    loss, terms = 0, dict.fromkeys(TERMS, 0)
    for one in SAMPLES:
        own, sums = total(model, batch_of([one], images, len(one.tokens)))
        loss, terms = loss + own, {name: terms[name] + sums[name] for name in TERMS}
    return model, terms, gradients(model, loss)


@pytest.mark.parametrize(("length", "share"), [(40, True), (64, True), (64, False)])
def test_packed_and_shared_rows_give_the_loss_and_gradients_of_separate_samples(plain, length, share):
    model, wanted, wanted_gradients = plain
    batch = batch_of(SAMPLES, tiny_images(), length, share)
    counts = dict.fromkeys(("mask_bce", "mask_dice", "mask_focal", "mask_iou"), 5)
    assert batch.counts == {"text": 11, **counts, "mask_seen": 6, "mask_look": 6}
    loss, sums = total(model, batch)
    for name in TERMS:
        torch.testing.assert_close(sums[name], wanted[name])
    found = gradients(model, loss)
    assert found.keys() == wanted_gradients.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted_gradients[name], rtol=1e-4, atol=1e-5, msg=name)


def test_micro_batches_hold_the_masks_of_their_documents(plain):
    model, wanted, _ = plain
    batch = batch_of(SAMPLES, tiny_images(), 64)
    parts = batch.micro_batches(20)
    assert [part.counts["mask_seen"] for part in parts if part.mask_targets is not None] == [1, 1, 4]
    assert any(part.mask_targets is None and part.counts["mask_seen"] == 0 for part in parts)
    for name in TERMS:
        torch.testing.assert_close(sum(model.losses(part)[name].detach() for part in parts), wanted[name])
    moved = batch.in_one_buffer()
    assert torch.equal(moved.mask_targets, batch.mask_targets) and moved.mask_targets.dtype == torch.uint8


def test_a_prompt_prefix_that_is_computed_once_changes_nothing(plain):
    model, wanted, _ = plain
    model.cache_prompt_prefix((1, 2))
    sums = model.losses(batch_of(SAMPLES, tiny_images(), 64, prompt_prefix=(1, 2)))
    for name in TERMS:
        torch.testing.assert_close(sums[name].detach(), wanted[name])


def test_the_gradient_through_the_language_model_can_be_made_smaller():
    batch = batch_of(SAMPLES[:1], tiny_images(), 24)
    found = {}
    for scale in (1.0, 0.25, 0.0):
        model = model_with_masks(scale)
        found[scale] = gradients(model, model.losses(batch)["mask_bce"])
    for name, whole in found[1.0].items():
        least = found[0.0].get(name, torch.zeros_like(whole))
        torch.testing.assert_close(found[0.25].get(name, least), least + 0.25 * (whole - least))
        if name.startswith("projector"):
            assert whole.any() and not least.any()
        if name.startswith("further"):
            torch.testing.assert_close(least, whole)
    assert any(name.startswith("tower") and gradient.any() for name, gradient in found[0.0].items())
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    scaled = scale_gradient(values, 0.5)
    assert torch.equal(scaled, values)
    scaled.sum().backward()
    assert values.grad.tolist() == [0.5, 0.5]


def test_what_is_not_there_teaches_only_that(plain):
    model = model_with_masks()
    sums = model.losses(batch_of([with_masks(sample("a", [20], [30]), None)], tiny_images(), 16))
    assert sums["mask_bce"] == sums["mask_dice"] == sums["mask_focal"] == sums["mask_iou"] == 0
    assert sums["mask_seen"] > 0
    plain_sums = model.losses(batch_of([SAMPLES[1]], tiny_images(), 24))
    assert all(plain_sums[name] == 0 for name in TERMS[1:])


def test_losses_of_a_known_mask():
    logits = torch.tensor([[0.0, math.log(3), -math.log(3), 5.0]])  # 1/2, 3/4, 1/4; the last is padding
    target, counted = torch.tensor([[1.0, 1.0, 0.0, 1.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    assert mask_bce(logits, target, counted).item() == pytest.approx((math.log(2) + 2 * math.log(4 / 3)) / 3)
    assert mask_dice(logits, target, counted).item() == pytest.approx(1 - 2.5 / 3.5, rel=1e-5)
    focal = 0.25 * 0.25 * math.log(2) + 0.25 / 16 * math.log(4 / 3) + 0.75 / 16 * math.log(4 / 3)
    assert mask_focal(logits, target, counted).item() == pytest.approx(focal / 3)
    # 1.25 of 1.5 + 2 - 1.25 is shared.
    assert mask_iou_error(logits, target, counted, torch.tensor([0.5])).item() == pytest.approx(
        (1.25 / 2.25 - 0.5) ** 2
    )


def test_losses_are_medplibs_on_random_masks():
    """Written out as in MedPLIB's code, over masks without padding."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 50, generator=generator, requires_grad=True)
    target = (torch.rand(6, 50, generator=generator) < 0.3).float()
    estimate, counted = torch.rand(6, generator=generator), torch.ones(6, 50)
    p = torch.sigmoid(logits)
    shared = (p * target).sum(1)
    published = {
        mask_bce: functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1),
        mask_dice: 1 - (2 * shared + 1e-6) / (p.sum(1) + target.sum(1) + 1e-6),
        mask_focal: (
            -0.25 * target * (1 - p) ** 2 * torch.log(p + 1e-12) - 0.75 * (1 - target) * p**2 * torch.log(1 - p + 1e-12)
        ).mean(1),
    }
    for loss, wanted in published.items():
        found = loss(logits, target, counted)
        torch.testing.assert_close(found, wanted)
        own, theirs = (torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (found, wanted))
        torch.testing.assert_close(own, theirs)
    soft = (shared + 1e-7) / (p.sum(1) + target.sum(1) - shared + 1e-7)
    torch.testing.assert_close(mask_iou_error(logits, target, counted, estimate), (soft - estimate) ** 2)


def test_a_mask_comes_from_its_own_picture_alone():
    decoder = model_with_masks().components["mask_decoder"]
    hidden, patches = torch.randn(3, tiny_llm()["embed_dim"]), torch.randn(2, 4, 32)
    pictures, which = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8), torch.tensor([1, 0, 1])
    together = decoder(hidden, patches, pictures, which)
    assert together.logits.shape == (3, SIDE, SIDE)
    for number, picture in enumerate(which.tolist()):
        alone = decoder(
            hidden[number : number + 1],
            patches[picture : picture + 1],
            pictures[picture : picture + 1],
            torch.zeros(1, dtype=torch.int64),
        )
        for own, of_all in zip(alone, together, strict=True):
            torch.testing.assert_close(own[0], of_all[number], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "options", "takes", "message"),
    [
        (["<BOX>"], {}, "patches", "a mask is asked for by the word <SEG>, which this model does not have: add words="),
        (["<SEG>"], {}, "pooled", "mask_decoder looks at patch tokens, but the projector takes one vector"),
        (
            ["<SEG>"],
            {"heads": 3},
            "patches",
            "width=128 must be a multiple of 4 and of mask_decoder.heads=3",
        ),
        (["<SEG>"], {"gradient_scale": 2}, "patches", "mask_decoder.gradient_scale=2 must be a number from 0 to 1"),
    ],
)
def test_what_cannot_be_built_is_refused(words, options, takes, message):
    plan = SimpleNamespace(
        vision=SimpleNamespace(
            takes=takes,
            llm_dim=8,
            shape=SimpleNamespace(num_patches=4, patch_dim=32),
            preprocess=SimpleNamespace(image_size=16),
        ),
        further=[SimpleNamespace(name="words", config={"tokens": words})],
    )
    with pytest.raises(UserError, match=message):
        patch_mask_decoder(plan, **options)


def test_low_precision_gives_no_nan_and_nearly_the_same_masks():
    decoder = model_with_masks().components["mask_decoder"]
    torch.nn.init.normal_(decoder.to_pixels[-1].weight, std=2.0)
    torch.nn.init.zeros_(decoder.bias)
    hidden, patches = torch.randn(6, tiny_llm()["embed_dim"]), torch.randn(2, 4, 32)
    pictures, which = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8), torch.arange(6) % 2
    exact = decoder(hidden, patches, pictures, which)
    decoder._final_norm = [decoder._final_norm[0].bfloat16()]
    found = decoder(hidden.bfloat16(), patches.bfloat16(), pictures, which)
    assert all(values.isfinite().all() and values.dtype == torch.float32 for values in found)
    assert ((found.logits > 0) == (exact.logits > 0)).float().mean() > 0.97
    inside = (found.logits > 0).float().mean(dim=(1, 2))
    assert (inside > 0.01).all() and (inside < 0.99).all()


@pytest.mark.parametrize("side", [16, 13])
def test_the_last_map_taken_to_the_queries_gives_the_product_with_the_features_of_every_pixel(side):
    torch.manual_seed(4)
    decoder = PatchMaskDecoder(8, 32, 4, side, 8, 1, 2, 1.0)
    patches, pictures = torch.randn(3, 4, 32), torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8)
    query, which = torch.randn(5, 32, requires_grad=True), torch.tensor([0, 2, 2, 1, 0])
    features = decoder._features(patches, pictures)
    pixels = functional.interpolate(decoder.finest(features), size=(side, side), mode="bilinear", align_corners=False)
    plain = torch.einsum("mc,mchw->mhw", query, pixels[which])
    found = decoder._answer(query, features, which)
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
    learnt = [query, decoder.finest.weight, decoder.finest.bias, decoder.patches.weight]
    expected = torch.autograd.grad(plain.square().sum(), learnt, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), learnt), expected, atol=1e-4, rtol=1e-4)


def test_which_pictures_have_masks_is_known_before_the_loss(monkeypatch):
    model, images = model_with_masks(), tiny_images()
    batch = batch_of(SAMPLES, images, 64)
    pictures, which = batch.mask_images.unique(return_inverse=True)
    assert torch.equal(batch.masked_images, pictures) and torch.equal(batch.masked_which, which)
    assert len(pictures) < len(which)

    def look(*args, **options):
        raise AssertionError("a GPU would stop for the answer")

    monkeypatch.setattr(torch.Tensor, "unique", look)
    assert model.losses(batch)["mask_bce"] > 0
