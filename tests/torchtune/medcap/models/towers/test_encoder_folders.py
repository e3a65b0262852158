"""Each packaged encoder from a folder that its own library wrote: pixels, tokens and gradients."""

import pytest
import torch

from helpers.encoder_folders import ENCODERS, picture
from medcap.checkpoints.vision import plan_vision

MLP = {"_component_": "medcap.models.mlp"}
# transformers resizes for DINOv3 after it has divided by 255: nothing is rounded to 8 bits, of which one is 0.0175.
ROUNDED = {"dinov3": 0.0175, "dinov3_convnext": 0.0175}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_pixels_tokens_and_gradients_are_those_of_the_library(tmp_path, name):
    encoder = ENCODERS[name]
    process, encode = encoder.write(tmp_path)
    plan = plan_vision(str(tmp_path), None, MLP, 16)
    tower, projector = plan.build()
    preprocess = tower.preprocess
    assert preprocess.image_size == encoder.size and plan.num_image_tokens == encoder.tokens
    found = preprocess.normalize(preprocess.transform()(picture())[None])[0]
    torch.testing.assert_close(found, process(picture()), rtol=0, atol=ROUNDED.get(name, 1e-5))
    images = torch.randn(2, 3, encoder.size, encoder.size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = encode(images)
        torch.testing.assert_close(tower.eval().encode_patches(images), expected, rtol=1e-4, atol=1e-4)
    assert expected.shape[:2] == (2, encoder.tokens)
    tokens = projector(tower.train().encode_patches(images))
    (tokens * torch.randn_like(tokens)).sum().backward()
    without = {key for key, parameter in tower.named_parameters() if parameter.grad is None}
    assert without == tower.unused_parameters("patches")
