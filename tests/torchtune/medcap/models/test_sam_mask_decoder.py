"""SAM and SAM 2 as mask decoder: equal to transformers' own models, packed or plain, in low precision and from disk."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from helpers.llm_checkpoints import random_decoder, tiny_llm
from helpers.packed_samples import IMAGE, batch_of, gradients, sample, tiny_images, tiny_model
from helpers.sam_folders import SIDE, write_sam, write_sam2
from medcap.data.answer_targets import MaskTarget
from medcap.data.regions.region import BoxShape, Region
from medcap.errors import UserError
from medcap.models.mask_decoders.sam_files import open_sam_folder
from medcap.models.mask_decoders.sam_mask_decoder import sam_mask_decoder
from medcap.models.mask_decoders.sam_model import SamModelParts, check_sam, read_sam
from medcap.models.preprocess import Preprocess
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.training.loss_normalisation import LossWeights

KINDS = ("sam", "sam2")
TERMS = ("text", "mask_bce", "mask_dice", "mask_focal", "mask_iou", "mask_seen")
DIM = tiny_llm()["embed_dim"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of a random SAM and a random SAM 2, and transformers' models that wrote them."""
    folder = tmp_path_factory.mktemp("sams")
    return {
        "sam": (folder / "sam", write_sam(folder / "sam")),
        "sam2": (folder / "sam2", write_sam2(folder / "sam2")),
    }


def plan(words=("<SEG>",)):
    further = [SimpleNamespace(name="words", config={"tokens": list(words)})]
    return SimpleNamespace(vision=SimpleNamespace(llm_dim=DIM), further=further)


def decoder_of(folders, kind, **options):
    torch.manual_seed(3)
    decoder = sam_mask_decoder(plan(), str(folders[kind][0]), **options)
    decoder._final_norm = [nn.LayerNorm(DIM)]
    return decoder.eval()


def pictures(count=2):
    return torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def states(count, seed=5):
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


def in_full(masks):
    return functional.interpolate(masks, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_boxes_are_those_of_transformers(folders, kind):
    path, theirs = folders[kind]
    parts = read_sam(open_sam_folder(path, "mask_from_boxes"), single=False).eval()
    boxes = torch.tensor([[2.0, 3.0, 20.0, 22.0], [5.0, 5.0, 30.0, 12.0]])
    with torch.no_grad():
        found = parts.masks(parts.features(pictures()), parts.embed_boxes(boxes))
        pixels = parts.description.preprocess.normalize(pictures())
        wanted = theirs(pixel_values=pixels, input_boxes=boxes[:, None], multimask_output=False)
    assert torch.equal(found.logits, in_full(wanted.pred_masks[:, 0]))
    assert torch.equal(found.estimate, wanted.iou_scores[:, 0, 0])
    assert found.logits.std() > 1e-3
    if kind == "sam2":
        assert torch.equal(found.seen, wanted.object_score_logits[:, 0, 0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_hidden_state_is_a_prompt_of_transformers_mask_decoder(folders, kind):
    decoder, theirs = decoder_of(folders, kind), folders[kind][1]
    hidden, which = states(3), torch.tensor([1, 0, 1])
    found = decoder(hidden, None, pictures(), which)
    query = decoder.query(decoder._final_norm[0](hidden))
    image = theirs.get_image_embeddings(decoder.own_picture.normalize(pictures()))
    finer = {}
    if kind == "sam2":
        *high, image = image
        finer = {"high_resolution_features": [level[which] for level in high]}
        theirs.mask_decoder.train()  # the single mask, whatever its stability
    image = image[which]
    masks, estimate, *more = theirs.mask_decoder(
        image_embeddings=image,
        image_positional_embeddings=theirs.get_image_wide_positional_embeddings().repeat(3, 1, 1, 1),
        sparse_prompt_embeddings=query[:, None, None],
        dense_prompt_embeddings=theirs.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand_as(image),
        multimask_output=False,
        **finer,
    )
    theirs.eval()
    torch.testing.assert_close(found.logits, in_full(masks[:, 0]))
    torch.testing.assert_close(found.estimate, estimate[:, 0, 0])
    assert found.logits.std() > 1e-3 and (found.logits[0] - found.logits[2]).abs().max() > 1e-3
    if kind == "sam2":
        torch.testing.assert_close(found.seen, more[1][:, 0, 0])


def model_with(folders, kind):
    plain = tiny_model()
    decoder = decoder_of(folders, kind)
    model = VisionLanguageModel(plain.tower, plain.projector, random_decoder(tiny_llm()), IMAGE, [decoder])
    for name, parameter in decoder.named_parameters():
        parameter.requires_grad_(name not in decoder.unused(model.components))
    return model.train()


def with_masks(one, *seeds):
    """Put random masks on the last image of a sample, each predicted at one of its targets; None is an absent one."""
    first = int((one.targets >= 0).argmax())
    masks = []
    for number, seed in enumerate(seeds):
        shown = np.zeros((2, SIDE, SIDE), np.uint8)
        shown[1, : SIDE // 2] = 255  # the lower half is padding
        if seed is not None:
            shown[0] = shown[1] * (np.random.default_rng(seed).random((SIDE, SIDE)) < 0.3)
        region = None if seed is None else Region(BoxShape((0, 0, 1, 1)))
        masks.append(MaskTarget(first + number, region, len(one.images) - 1, shown))
    return replace(one, masks=tuple(masks))


SAMPLES = [
    with_masks(sample("a", [20, 21, 22], [30, 31]), 1, 2),
    sample("d", [20, 23], [32]),
    with_masks(sample("a", [20, 21], [33, 34, 35]), 3, None),
    with_masks(sample("dcb", [24, 25], [36, 37]), 4),
    sample(None, [26, 27, 28], [38]),
]
OWN = dict(zip("abcd", pictures(4), strict=True))


def total(model, batch):
    weights = LossWeights(model.loss_terms, model.loss_weights)
    weights.begin([10, 4, 4, 4, 4, 5])
    sums = model.losses(batch)
    return weights.combine(sums), {name: sums[name].detach() for name in TERMS}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_give_the_loss_and_gradients_of_separate_samples(folders, kind):
    model, images = model_with(folders, kind), tiny_images()
    loss, wanted = 0, dict.fromkeys(TERMS, 0)
    for one in SAMPLES:
        own, sums = total(model, batch_of([one], images, len(one.tokens), mask_pictures=OWN))
        loss, wanted = loss + own, {name: wanted[name] + sums[name] for name in TERMS}
    wanted_gradients = gradients(model, loss)
    batch = batch_of(SAMPLES, images, 64, mask_pictures=OWN)
    assert batch.mask_pictures.shape == (2, 3, SIDE, SIDE)
    assert sorted(batch.mask_images.bincount().tolist()) == [1, 4]
    loss, sums = total(model, batch)
    for name in TERMS:
        torch.testing.assert_close(sums[name], wanted[name], rtol=1e-4, atol=1e-5)
    found = gradients(model, loss)
    assert found.keys() == wanted_gradients.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted_gradients[name], rtol=1e-3, atol=1e-4, msg=name)
    trained = {name.removeprefix("further.0.") for name in found if name.startswith("further")}
    assert "query.1.weight" in trained and "sam.mask_decoder.mask_tokens.weight" in trained
    assert not any(name.startswith(("sam.vision_encoder", "sam.prompt_encoder", "sam.shared")) for name in trained)

    parts = batch.micro_batches(20)
    assert sum(len(part.mask_pictures) for part in parts if part.mask_pictures is not None) == 2
    for name in TERMS:
        torch.testing.assert_close(
            sum(model.losses(part)[name].detach() for part in parts), wanted[name], rtol=1e-4, atol=1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_low_precision_gives_no_nan_and_no_blank_mask(folders, kind):
    decoder = decoder_of(folders, kind)
    wanted = decoder(states(6), None, pictures(), torch.arange(6) % 2)
    decoder._kept = None
    decoder._final_norm = [decoder._final_norm[0].bfloat16()]
    found = decoder(states(6).bfloat16(), None, pictures(), torch.arange(6) % 2)
    assert found.logits.dtype == torch.float32
    assert all(torch.isfinite(values).all() for values in found if values is not None)
    inside, wanted_inside = found.logits > 0, wanted.logits > 0
    assert (inside == wanted_inside).float().mean() > 0.95
    assert (inside.any(dim=(1, 2)) == wanted_inside.any(dim=(1, 2))).all() and wanted_inside.any(dim=(1, 2)).any()


@pytest.mark.slow
@torch.no_grad()
def test_features_on_disk_are_those_of_the_encoder(folders, monkeypatch):
    plain = decoder_of(folders, "sam2").train()
    kept = decoder_of(folders, "sam2", features_cache=True).train()
    wanted = plain(states(2), None, pictures(), torch.arange(2)).logits
    assert torch.equal(kept(states(2), None, pictures(), torch.arange(2)).logits, wanted)
    again = decoder_of(folders, "sam2", features_cache=True).train()
    computed, features = [], SamModelParts.features

    def counted(self, some):
        computed.append(len(some))
        return features(self, some)

    monkeypatch.setattr(SamModelParts, "features", counted)
    assert torch.equal(again(states(2), None, pictures(), torch.arange(2)).logits, wanted)
    assert computed == []
    again(states(2), None, torch.stack([pictures()[0], pictures()[1].flip(0)]), torch.arange(2))
    assert computed == [1], "one of the two is new"
    other = decoder_of(folders, "sam2", features_cache=True).train()
    other.sam.vision_encoder.backbone.patch_embed.projection.bias.add_(1)
    computed.clear()
    assert not torch.equal(other(states(2), None, pictures(), torch.arange(2)).logits, wanted)
    assert computed == [2], "other weights have other features"


@pytest.mark.slow
def test_a_checkpoint_needs_no_folder_and_says_what_it_is(folders):
    decoder = decoder_of(folders, "sam")
    config = json.loads(json.dumps(decoder.config()))
    again = sam_mask_decoder(plan(), **{key: value for key, value in config.items() if key != "_component_"})
    again.load_state_dict(decoder.state_dict())
    again._final_norm = decoder._final_norm
    with torch.no_grad():
        found, wanted = (one.eval()(states(1), None, pictures(1), torch.tensor([0])) for one in (again, decoder))
    assert torch.equal(found.logits, wanted.logits)
    assert type(decoder).summary(config) == "SAM for pictures of 32 pixels"


@pytest.mark.slow
@pytest.mark.parametrize("size", [(40, 24), (24, 40), (33, 21), (32, 32), (90, 7)])
def test_its_picture_is_that_of_transformers_processor(folders, size):
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    processor = SamImageProcessorPil.from_pretrained(folders["sam"][0])
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    theirs = processor(Image.fromarray(pixels), return_tensors="pt")
    preprocess = open_sam_folder(folders["sam"][0], "mask_from_boxes").description.preprocess
    ours = preprocess.normalize(preprocess.transform()(Image.fromarray(pixels))[None])
    height, width = (int(length) for length in theirs["reshaped_input_sizes"][0])
    (across, _), (down, _) = preprocess.frame(size).axes()
    assert (across * SIDE, down * SIDE) == pytest.approx((width, height))
    torch.testing.assert_close(ours[..., :height, :width], theirs["pixel_values"][..., :height, :width])
    # transformers pads with zeros after it has normalised, which no 8-bit colour gives exactly.
    torch.testing.assert_close(ours, theirs["pixel_values"].float(), rtol=0, atol=0.01)


def test_sam2_is_shown_squashed_pictures(folders):
    found = open_sam_folder(folders["sam2"][0], "mask_from_boxes").description.preprocess
    assert found == Preprocess(SIDE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", "squash")


@pytest.fixture
def broken(folders, tmp_path):
    """A copy of the SAM folder that a test may damage."""
    shutil.copytree(folders["sam"][0], tmp_path / "copy")
    return tmp_path / "copy"


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def change_json(folder, name, **changes):
    values = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(values | changes))


@pytest.mark.slow
def test_a_tensor_that_the_folder_lacks_is_named(broken):
    change_tensors(broken, lambda tensors: tensors.pop("mask_decoder.iou_token.weight"))
    message = r"model.safetensors: tensor mask_decoder.iou_token.weight \[1, 16\] of the SAM model is missing$"
    with pytest.raises(UserError, match=message), torch.device("meta"):
        sam_mask_decoder(plan(), str(broken))
    with pytest.raises(UserError, match=message):
        check_sam(open_sam_folder(broken, "mask_from_boxes"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "there is no such folder"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing: download it"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "preprocessor_config.json is missing, which"),
        (lambda folder: change_json(folder, "config.json", model_type="sam3"), "model_type 'sam3' is no.*not read"),
        (lambda folder: change_json(folder, "config.json", vision_config=None), "vision_config is missing or damaged"),
        (
            lambda folder: change_json(folder, "preprocessor_config.json", size={"longest_edge": 64}),
            "pictures of .32, 64. pixels, but the model takes 32 x 32",
        ),
        (
            lambda folder: change_tensors(
                folder, lambda tensors: tensors.update({"vision_encoder.layers.0.Adapter.fc.bias": torch.zeros(1)})
            ),
            "is an adapter, as SAM-Med2D has them.*cannot be read",
        ),
        (
            lambda folder: (folder / "config.json").rename(folder / "sam-med2d_b.pth"),
            "sam-med2d_b.pth is one file.*SAM-Med2D's adapter layers have no place.*cannot be read",
        ),
    ],
)
def test_a_wrong_folder_is_refused_in_one_line(broken, damage, message):
    damage(broken)
    with pytest.raises(UserError, match=message) as error:
        open_sam_folder(broken, "mask_decoder.path")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_encoder": 1}, "mask_decoder.train_encoder=1 must be true or false"),
        ({"train_encoder": True, "features_cache": True}, "features_cache=true keeps what a frozen encoder gives"),
        ({"gradient_scale": -1}, "gradient_scale=-1 must be a number from 0 to 1"),
    ],
)
def test_impossible_options_are_refused(folders, options, message):
    with pytest.raises(UserError, match=message):
        sam_mask_decoder(plan(), str(folders["sam"][0]), **options)
    with pytest.raises(UserError, match="a mask is asked for by the word <SEG>"):
        sam_mask_decoder(plan(["<BOX>"]), str(folders["sam"][0]))
