"""Region encoders: the mean of what a region covers, MedPLIB's own mean, and packed batches like the plain way."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from helpers.llm_checkpoints import random_decoder, tiny_llm
from helpers.packed_samples import IMAGE, batch_of, gradients, sample, tiny_images, tiny_model
from medcap.data.boxes.frame import Frame
from medcap.data.packing import sharing
from medcap.data.question_regions import QuestionRegion
from medcap.data.regions.patch_weights import RegionForm, patch_weights
from medcap.data.regions.region import BoxShape, Region
from medcap.errors import UserError
from medcap.models.region_encoders.mask_pooling import MaskPooling, mask_pooling
from medcap.models.region_encoders.region_resampler import RegionResampler, region_resampler
from medcap.models.vision_language_model import VisionLanguageModel

REGION = 8
DIM = tiny_llm()["embed_dim"]
KINDS = {
    "mask_pooling": lambda: MaskPooling(32, DIM, RegionForm(1, 2)),
    "region_resampler": lambda: RegionResampler(32, DIM, RegionForm(3, 2), 8, 2),
}


def model_with_regions(kind):
    plain = tiny_model()
    torch.manual_seed(3)
    further = [KINDS[kind]()]
    return VisionLanguageModel(plain.tower, plain.projector, random_decoder(tiny_llm()), IMAGE, further, REGION)


def asking(images, question, answer, length, *weights):
    """A sample whose question names regions of its last image; 0 in the question stands for each of them."""
    tokens = [part for token in question for part in ([REGION] * length if token == 0 else [token])]
    one = sample(images, tokens, answer)
    firsts = np.flatnonzero(one.tokens == REGION)[::length].tolist()
    region = Region(BoxShape((0, 0, 1, 1)))
    found = [
        QuestionRegion(first, region, len(one.images) - 1, np.array(own, np.float32))
        for first, own in zip(firsts, weights, strict=True)
    ]
    return replace(one, regions=tuple(found))


def samples(kind):
    k = {"mask_pooling": 1, "region_resampler": 3}[kind]
    return [
        asking("a", [20, 0, 22], [30, 31], k, [1, 0, 0, 0]),
        asking("a", [20, 0, 22], [32], k, [0, 0.5, 0, 0.5]),
        sample("a", [20, 21], [33, 34, 35]),
        asking("dcb", [24, 0, 0], [36, 37], k, [0.25, 0.25, 0.25, 0.25], [0, 0, 1, 0]),
        sample(None, [26, 27, 28], [38]),
        asking("c", [0, 25], [36, 37], k, [0.75, 0.25, 0, 0]),
    ]


@pytest.fixture(scope="module", params=KINDS)
def plain(request):
    """The model, the samples, and loss and gradients with every sample in a batch of its own."""
    model, images = model_with_regions(request.param), tiny_images()
    own = samples(request.param)
    loss = sum(model.losses(batch_of([one], images, len(one.tokens)))["text"] for one in own)
    return model, own, loss.detach(), gradients(model, loss)


@pytest.mark.parametrize(("length", "share"), [(48, True), (72, True), (72, False)])
def test_packed_and_shared_rows_give_the_loss_and_gradients_of_separate_samples(plain, length, share):
    model, own, wanted, wanted_gradients = plain
    batch = batch_of(own, tiny_images(), length, share)
    assert batch.region_weights.shape == (5, 4)
    loss = model.losses(batch)["text"]
    torch.testing.assert_close(loss.detach(), wanted)
    found = gradients(model, loss)
    assert found.keys() == wanted_gradients.keys() and any(name.startswith("further.0") for name in found)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted_gradients[name], rtol=1e-4, atol=1e-5, msg=name)


def test_micro_batches_and_a_prompt_prefix_change_nothing(plain):
    model, own, wanted, _ = plain
    batch = batch_of(own, tiny_images(), 72)
    parts = batch.micro_batches(24)
    assert sum(0 if part.region_weights is None else len(part.region_weights) for part in parts) == 5
    assert len(parts) > 2
    torch.testing.assert_close(sum(model.losses(part)["text"].detach() for part in parts), wanted)
    moved = batch.in_one_buffer()
    assert torch.equal(moved.region_weights, batch.region_weights)
    model.cache_prompt_prefix((1, 2))
    continued = batch_of(own, tiny_images(), 72, prompt_prefix=(1, 2))
    torch.testing.assert_close(model.losses(continued)["text"].detach(), wanted)


def test_another_region_gives_another_loss(plain):
    model, own, _, _ = plain
    changed = [replace(own[0].regions[0], weights=own[1].regions[0].weights)]
    losses = [
        model.losses(batch_of([one], tiny_images(), 24))["text"].item()
        for one in (own[0], replace(own[0], regions=tuple(changed)))
    ]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_questions_about_different_regions_share_the_image_and_not_the_region():
    first, second, *_ = samples("mask_pooling")
    assert sharing(first) == sharing(second) != (0, 0)
    assert batch_of([first, second], tiny_images(), 40).num_images == 1
    early = replace(first, regions=(replace(first.regions[0], position=1),))
    assert sharing(early) == (0, 0)


@pytest.mark.parametrize("size", [(20, 20), (37, 19), (11, 46)])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_pooling_is_the_mean_over_the_points_of_the_region(size, fit):
    """Brute force: the patch of each of many points of the square that lie inside the region on the image."""
    width, height = size
    stream = np.random.default_rng(5)
    mask = stream.random((height, width)) < 0.4
    frame, grid, dense = Frame(size, fit, 12), 3, 1200
    (across, left), (down, top) = frame.axes()
    places = (np.arange(dense) + 0.5) / dense
    columns = np.floor((places - left) / across * width).astype(int)
    rows = np.floor((places - top) / down * height).astype(int)
    shown = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    inside = shown & mask[np.ix_(rows.clip(0, height - 1), columns.clip(0, width - 1))]
    counts = inside.reshape(grid, dense // grid, grid, dense // grid).sum(axis=(1, 3)).flatten()
    weights = patch_weights(mask, frame, 12, RegionForm(1, grid))
    np.testing.assert_allclose(weights, counts / counts.sum(), atol=2e-3)
    encoder, patches = MaskPooling(4, 8, RegionForm(1, grid)), torch.randn(1, 9, 4)
    points = np.repeat(np.arange(9), counts // 50)
    wanted = encoder.project(patches[0, points]).mean(dim=0)
    torch.testing.assert_close(encoder(patches, torch.from_numpy(weights)[None])[0, 0], wanted, rtol=0.02, atol=0.02)


def medplibs_feature(feature_map, mask, most, chosen):
    """MedPLIB's region feature, written out from its description: a grid mask, points, bilinear values, the mean."""
    points = torch.nonzero(mask) / torch.tensor(mask.shape)
    points = points[chosen[:most]] if len(points) > most else points
    grid = 2 * points.flip(1)[None, None].float() - 1  # x before y, -1 to 1
    sampled = functional.grid_sample(feature_map[None], grid, align_corners=True)  # [1, d, 1, points]
    return sampled[0, :, 0].mean(dim=1)


def test_the_published_variant_is_medplibs():
    grid, side = 6, 84
    encoder, patches = MaskPooling(5, 7, RegionForm(1, grid, published=True)), torch.randn(1, grid * grid, 5)
    stream = np.random.default_rng(2)
    for size in ((84, 84), (60, 84), (84, 33)):
        mask = np.zeros((size[1], size[0]), bool)
        x, y = stream.integers(0, size[0] // 2), stream.integers(0, size[1] // 2)
        mask[y : y + size[1] // 2, x : x + size[0] // 2] = True
        frame = Frame(size, "pad", side)
        padded = np.zeros((side, side), bool)
        top, left = (side - size[1]) // 2, (side - size[0]) // 2
        padded[top : top + size[1], left : left + size[0]] = mask
        nearest = torch.from_numpy(padded[:: side // grid, :: side // grid])
        projected = encoder.project(patches)[0].T.unflatten(1, (grid, grid))  # [d, g, g]
        wanted = medplibs_feature(projected, nearest, 512, None)
        weights = torch.from_numpy(patch_weights(mask, frame, side, encoder.form))
        torch.testing.assert_close(encoder(patches, weights[None])[0, 0], wanted, rtol=1e-5, atol=1e-5)
    nothing = np.zeros((84, 84), bool)
    nothing[1:3, 1:3] = True  # between the corners of the patches
    weights = torch.from_numpy(patch_weights(nothing, Frame((84, 84), "pad", side), side, encoder.form))
    assert not encoder(patches, weights[None]).any()


def test_points_are_chosen_by_the_seed_and_the_region():
    mask = np.ones((16, 16), bool)
    frame = Frame((16, 16), "squash", 16)
    chosen = [patch_weights(mask, frame, 16, RegionForm(1, 8, 10, seed)) for seed in (0, 0, 1)]
    assert [int((one > 0).sum()) for one in chosen] == [10, 10, 10]
    assert np.array_equal(chosen[0], chosen[1]) and not np.array_equal(chosen[0], chosen[2])
    np.testing.assert_allclose(chosen[0][chosen[0] > 0], 0.1, rtol=1e-6)
    few = np.zeros((16, 16), bool)
    few[0, 0] = few[15, 15] = True
    assert np.flatnonzero(patch_weights(few, frame, 16, RegionForm(1, 8, 10))).tolist() == [0, 63]


def test_a_resampler_sees_nothing_outside_the_region():
    torch.manual_seed(0)
    encoder = RegionResampler(5, 8, RegionForm(3, 2), 8, 2)
    patches, weights = torch.randn(1, 4, 5), torch.tensor([[0.75, 0.0, 0.25, 0.0]])
    found = encoder(patches, weights)
    assert found.shape == (1, 3, 8) and not torch.allclose(found[0, 0], found[0, 1])
    other = patches.clone()
    other[0, 1] += 9
    torch.testing.assert_close(encoder(other, weights), found)
    other[0, 2, 0] += 1
    assert not torch.allclose(encoder(other, weights), found)
    found.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in encoder.parameters())


WORDS = ["<region>", "</region>"]


@pytest.mark.parametrize(
    ("build", "words", "options", "takes", "message"),
    [
        (mask_pooling, ["<region>"], {}, "patches", "but this model lacks </region>: add words=\\[<region>, </region>"),
        (mask_pooling, WORDS, {}, "pooled", "region_encoder looks at patch tokens, but the projector takes one vector"),
        (mask_pooling, WORDS, {"points": 0}, "patches", "region_encoder.points=0 must be a whole number of at least 1"),
        (region_resampler, WORDS, {"num_tokens": "4"}, "patches", "region_encoder.num_tokens='4' must be a whole"),
        (region_resampler, WORDS, {"heads": 3}, "patches", "width=128 must be a multiple of 4 and of region_encoder.h"),
    ],
)
def test_what_cannot_be_built_is_refused(build, words, options, takes, message):
    plan = SimpleNamespace(
        vision=SimpleNamespace(takes=takes, llm_dim=8, shape=SimpleNamespace(num_patches=4, patch_dim=32)),
        further=[SimpleNamespace(name="words", config={"tokens": words})],
    )
    with pytest.raises(UserError, match=message):
        build(plan, **options)


def test_the_card_names_function_and_tokens():
    plan = SimpleNamespace(
        vision=SimpleNamespace(takes="patches", llm_dim=8, shape=SimpleNamespace(num_patches=4, patch_dim=32)),
        further=[SimpleNamespace(name="words", config={"tokens": WORDS})],
    )
    for built, text in (
        (mask_pooling(plan, points=512), "mask_pooling, 1 token a region"),
        (region_resampler(plan), "region_resampler, 4 tokens a region"),
    ):
        assert type(built).summary(built.config()) == text
    assert mask_pooling(plan, 3, 1, True).form == RegionForm(1, 2, 3, 1, True)
