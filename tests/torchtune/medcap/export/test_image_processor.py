import json

import pytest
from transformers import AutoImageProcessor

from helpers.run_folders import picture
from medcap.export.image_processor import image_processor_config
from medcap.models.preprocess import HALF, Preprocess


@pytest.mark.parametrize("size", [(48, 32), (33, 90), (24, 24)])
@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(24),
        Preprocess(24, HALF, HALF, resize_mode="squash"),
        Preprocess(24, interpolation="bilinear", resize_mode="squash"),
    ],
)
def test_pixels_are_the_towers_own(tmp_path, preprocess, size):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(image_processor_config(preprocess)))
    image = picture(*size)
    ours = preprocess.normalize(preprocess.transform()(image)[None])
    exact, default = (
        AutoImageProcessor.from_pretrained(tmp_path, **options)(image, return_tensors="pt")["pixel_values"]
        for options in ({"backend": "pil"}, {})
    )
    assert (exact - ours).abs().max() < 1e-6
    # torchvision rounds some pixels to the next of 256 steps.
    assert (default - ours).abs().max() < 1.01 / 255 / min(preprocess.std)
    assert ((default - ours).abs() > 1e-6).float().mean() < 0.05
