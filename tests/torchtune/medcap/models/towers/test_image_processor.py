import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from medcap.errors import UserError
from medcap.models.towers.image_processor import read_preprocess

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 84, 3), dtype=np.uint8)


def read(folder, family, settings):
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return read_preprocess(folder, f"{family}_vision_model", 32)[0]


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("clip", {}),
        ("clip", {"do_normalize": False}),
        ("clip", {"do_rescale": False}),
        ("clip", {"do_rescale": False, "do_normalize": False}),
        ("clip", {"rescale_factor": 1 / 127.5}),
        ("clip", {"rescale_factor": 1}),
        ("clip", {"image_mean": 0, "image_std": 1}),
        ("clip", {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}),
        ("clip", {"size": {"height": 32, "width": 32}, "do_center_crop": False}),
        ("clip", {"size": {"height": 32, "width": 32}}),
        ("clip", {"do_convert_rgb": False, "do_pad": False, "crop_pct": None}),
        ("siglip", {}),
        ("siglip", {"do_normalize": False, "rescale_factor": 1 / 127.5}),
        ("siglip", {"image_mean": [0.0, 0.5, 0.25]}),
        ("siglip", {"resample": 2, "do_rescale": None}),
        ("siglip", {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}}),
    ],
)
def test_the_input_is_that_of_transformers(tmp_path, family, settings):
    usual = (
        {"size": {"shortest_edge": 32}, "crop_size": 32} if family == "clip" else {"size": {"height": 32, "width": 32}}
    )
    settings = usual | settings
    kind = {"clip": transformers.CLIPImageProcessorPil, "siglip": transformers.SiglipImageProcessorPil}[family]
    processor = kind(**{key: value for key, value in settings.items() if value is not None})
    expected = processor(Image.fromarray(PIXELS), return_tensors="pt")["pixel_values"][0]
    preprocess = read(tmp_path, family, settings)
    found = preprocess.normalize(preprocess.transform()(Image.fromarray(PIXELS)))
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-4)


def test_ordinary_settings_change_no_digit(tmp_path):
    settings = {"rescale_factor": 0.00392156862745098, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    preprocess = read(tmp_path, "siglip", settings)
    assert preprocess.mean == (0.1, 0.2, 0.3) and preprocess.std == (0.4, 0.5, 0.6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"do_resize": False}, "do_resize=False is not done here"),
        ({"do_pad": True}, "do_pad=True is not done here"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order=True is not done here"),
        ({"do_a_new_step": True}, "do_a_new_step=True is not done here"),
        ({"do_normalize": 0}, "do_normalize=0 must be true or false"),
        ({"crop_pct": 0.875}, "crop_pct=0.875 is not done here"),
        ({"size_divisor": 32}, "size_divisor=32 is not done here"),
        ({"rescale_factor": 0}, "rescale_factor=0 must be a number above 0"),
        ({"rescale_factor": "1/255"}, "rescale_factor='1/255' must be a number above 0"),
        ({"do_center_crop": False, "size": {"shortest_edge": 32}}, "gives images that are not square"),
        ({"size": {"shortest_edge": 32, "longest_edge": 32}}, "differs from the model's 32"),
        ({"size": 0}, "differs from the model's 32"),
        ({"size": {}}, "differs from the model's 32"),
        ({"crop_size": 0, "do_center_crop": True}, "differs from the model's 32"),
        ({"resample": 0}, "resample=0 is neither 2"),
        ({"image_mean": []}, r"image_mean=\[\] must be three numbers, or one"),
        ({"image_mean": "0.5"}, "image_mean='0.5' must be three numbers, or one"),
        ({"image_mean": False}, "image_mean=False must be three numbers, or one"),
        ({"image_std": 0}, "std=.* must be above 0"),
    ],
)
def test_what_cannot_be_followed_is_refused(tmp_path, settings, words):
    with pytest.raises(UserError, match=f"preprocessor_config.json: .*{words}"):
        read(tmp_path, "siglip", settings)
