import pickle

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from torchvision.transforms import functional

from helpers.vision_checkpoints import NATIVE_VISION, write_hugging_face_folder, write_open_clip_folder
from medcap.errors import UserError
from medcap.models.preprocess import CLIP_MEAN, CLIP_STD, HALF, Preprocess
from medcap.models.towers.registry import build_tower, resolve_tower

SIZES = [(400, 200), (131, 257), (224, 224), (100, 90), (224, 500)]


def picture(size: tuple[int, int]) -> Image.Image:
    rows, columns = np.mgrid[: size[1], : size[0]]
    noise = np.random.default_rng(0).integers(0, 60, (size[1], size[0]))
    pixels = np.stack([rows % 256, columns % 256, (rows * columns + noise) % 256], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("size", SIZES)
def test_biomedclip_preprocessing_is_open_clips_bit_for_bit(size):
    ours = resolve_tower("biomedclip", weights=False).preprocess
    theirs = image_transform(224, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)
    assert torch.equal(ours.normalize(ours.transform()(picture(size))), theirs(picture(size)))


@pytest.mark.parametrize("size", SIZES)
def test_siglip_preprocessing_squashes_to_the_square(size):
    ours = resolve_tower("siglip", weights=False).preprocess
    theirs = image_transform(384, is_train=False, mean=HALF, std=HALF, resize_mode="squash")
    assert torch.equal(ours.normalize(ours.transform()(picture(size))), theirs(picture(size)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_are_those_of_torchvisions_resize_and_crop(size, interpolation):
    transform = Preprocess(96, interpolation=interpolation).transform()
    resized = functional.resize(picture(size), [96], functional.InterpolationMode(interpolation))
    assert torch.equal(transform(picture(size)), functional.pil_to_tensor(functional.center_crop(resized, [96, 96])))


@pytest.mark.parametrize("size", [(30_000, 3), (2, 9_001)])
def test_a_strip_is_never_resized_as_a_whole(size, monkeypatch):
    resize, areas = Image.Image.resize, []

    def counted(self, wanted, *options):
        areas.append(wanted[0] * wanted[1])
        return resize(self, wanted, *options)

    rows, columns = np.mgrid[: size[1], : size[0]]
    image = Image.fromarray((255 * (rows + columns) / sum(size)).astype(np.uint8))
    monkeypatch.setattr(Image.Image, "resize", counted)
    pixels = Preprocess(32).transform()(image)
    assert max(areas) <= 51 * 32 * 32
    # The middle of the ramp.
    assert pixels.shape == (3, 32, 32) and abs(pixels.float().mean() - 127) < 2


def test_a_batch_is_normalised_in_float32_whatever_the_default_dtype():
    settings = Preprocess(16, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    pixels = torch.cat([values, values.flip(2), values.flip(3)], dim=1).repeat(2, 1, 1, 1)  # [2, 3, 16, 16]
    expected = functional.normalize(pixels / 255, list(settings.mean), list(settings.std))
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = settings.normalize(pixels)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


def test_pixels_that_are_normalised_already_are_refused():
    with pytest.raises(TypeError, match="float32"):
        Preprocess(8).normalize(torch.zeros(1, 3, 8, 8))


def test_preprocessing_survives_json_and_pickle():
    settings = Preprocess(32, HALF, HALF, "bilinear", "squash")
    assert Preprocess.from_dict(settings.to_dict()) == settings
    again = pickle.loads(pickle.dumps(settings.transform()))
    assert torch.equal(again(picture((40, 50))), settings.transform()(picture((40, 50))))


@pytest.mark.parametrize("mode", ["P", "LA", "I;16"])
def test_preprocessing_refuses_an_image_that_is_neither_rgb_nor_grey(mode):
    with pytest.raises(ValueError, match=f"mode {mode}"):
        Preprocess(32).transform()(Image.new(mode, (40, 40)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
def test_a_grey_picture_gives_the_pixels_of_its_rgb_version(size, resize_mode):
    transform = Preprocess(96, resize_mode=resize_mode).transform()
    grey = picture(size).getchannel(2)
    assert torch.equal(transform(grey), transform(grey.convert("RGB")))


@pytest.mark.parametrize(
    "values",
    [
        {"image_size": 0},
        {"image_size": [224, 336]},
        {"image_size": 32, "interpolation": "lanczos"},
        {"image_size": 32, "resize_mode": "longest"},
        {"image_size": 32, "std": [0.5, 0.5, 0.0]},
        {"image_size": 32, "crop": True},
        {},
    ],
)
def test_preprocessing_refuses_impossible_settings(values):
    with pytest.raises(UserError, match="preprocess"):
        Preprocess.from_dict(values)


KINDS = ["open_clip_timm", "open_clip_native", "clip", "clip_half", "siglip", "tiny", "test_vit2", "test_convnext"]


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """One tower of every kind."""
    folder = tmp_path_factory.mktemp("towers")
    write_open_clip_folder(folder / "open_clip_timm")
    write_open_clip_folder(folder / "open_clip_native", NATIVE_VISION)
    write_hugging_face_folder(folder / "clip", "clip")
    write_hugging_face_folder(folder / "clip_half", "clip", part="vision")
    write_hugging_face_folder(folder / "siglip", "siglip")
    found = {path.name: resolve_tower(str(path)) for path in folder.iterdir()}
    found["tiny"] = resolve_tower({"name": "tiny", "image_size": 32, "width": 32, "depth": 1, "heads": 2})
    for name in ("test_vit2", "test_convnext"):
        found[name] = resolve_tower({"name": f"timm:{name}", "pretrained": False})
    return {name: build_tower(source.spec, source.preprocess).eval() for name, source in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("takes", ["patches", "pooled"])
@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_parameters_named_unused_get_no_gradient(towers, kind, takes):
    tower = towers[kind]
    tower.zero_grad(set_to_none=True)
    images = torch.randn(2, 3, tower.preprocess.image_size, tower.preprocess.image_size)
    output = tower.encode_patches(images) if takes == "patches" else tower.encode_pooled(images)
    (output * torch.randn_like(output)).sum().backward()
    without = {name for name, parameter in tower.named_parameters() if parameter.grad is None}
    assert without == tower.unused_parameters(takes)
    shape = tower.shape
    expected = (2, shape.num_patches, shape.patch_dim) if takes == "patches" else (2, shape.pooled_dim)
    assert output.shape == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_tower_in_low_precision_takes_float32_images(towers, kind):
    tower = towers[kind].on_meta().to(torch.bfloat16)
    images = torch.zeros(1, 3, tower.preprocess.image_size, tower.preprocess.image_size, device="meta")
    assert tower.encode_patches(images).dtype == torch.bfloat16
    assert tower.encode_pooled(images).dtype == torch.bfloat16


@pytest.mark.parametrize("size", [(40, 21), (21, 40), (30, 30)])
@pytest.mark.parametrize("fit", ["pad", "pad_mean"])
def test_a_padded_picture_is_llavas_expand2square(size, fit):
    preprocess = Preprocess(16)
    image, side = picture(size), max(size)
    colour = (0, 0, 0) if fit == "pad" else (122, 116, 104)  # int(255 * mean), as LLaVA's process_images has it
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - size[0]) // 2, (side - size[1]) // 2))
    assert torch.equal(preprocess.transform()(image, fit), preprocess.transform()(square))
    assert torch.equal(Preprocess(16, resize_mode="squash").transform()(image, fit), preprocess.transform()(square))


def test_another_fit_than_the_towers_own():
    shortest, squash = Preprocess(16).transform(), Preprocess(16, resize_mode="squash").transform()
    image = picture((40, 21))
    assert torch.equal(shortest(image, "squash"), squash(image))
    assert torch.equal(squash(image, "crop"), shortest(image))
    assert torch.equal(shortest(image, "crop"), shortest(image))
    grey = image.convert("L")
    assert torch.equal(shortest(grey, "pad"), shortest(grey.convert("RGB"), "pad"))
    assert shortest(grey, "pad_mean")[:, 0, 0].tolist() == [122, 116, 104]


def test_a_long_picture_is_made_smaller_before_it_is_padded(monkeypatch):
    monkeypatch.setattr("medcap.models.preprocess.MAX_PADDED", 64)
    pixels = Preprocess(16).transform()(Image.new("RGB", (6400, 1600), (200, 200, 200)), "pad")
    assert pixels[0, :, 8].tolist()[0] == 0
    assert pixels[0, 8].min() >= 200
