import json

import pytest
from torchtune.models.llama3 import Llama3Tokenizer
from transformers import AutoImageProcessor

from helpers.run_folders import picture
from helpers.tokenizers import tiny_ranks, tiny_tokenizer_file, tiny_vocab_size
from medcap.data.tokenization import ChatTokenizer
from medcap.errors import UserError
from medcap.export.llava_processor import check_tokenizer, image_processor_config
from medcap.models.tokenizers import llama3_special_tokens, llama3_tokenizer
from medcap.models.towers.base import HALF, Preprocess


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


def test_the_image_token_is_one_that_llama_3_reserves(tmp_path):
    file = str(tiny_tokenizer_file(tmp_path))
    tokenizer = ChatTokenizer(llama3_tokenizer(file), 4)
    assert check_tokenizer(tokenizer, tiny_vocab_size()) == len(tiny_ranks()) + 11
    with pytest.raises(UserError, match="could stand for images, is in use or has no embedding row"):
        check_tokenizer(tokenizer, len(tiny_ranks()))
    taken = llama3_special_tokens(len(tiny_ranks())) | {"<|mine|>": len(tiny_ranks()) + 11}
    with pytest.raises(UserError, match="could stand for images, is in use or has no embedding row"):
        check_tokenizer(ChatTokenizer(Llama3Tokenizer(file, taken), 4), tiny_vocab_size())
