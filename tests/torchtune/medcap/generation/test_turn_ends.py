"""Generation stops where training taught an answer to end, for every family of decoders."""

import pytest
import torch
from torchtune.models.llama3 import llama3

from helpers.decoder_tokenizers import FAMILIES, family_tokenizer
from helpers.tiny_generation import DIM, NUM_IMAGE_TOKENS, FakeProjector, FakeTower
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.images.reader import ImageReader
from medcap.generation.generator import Generator
from medcap.generation.prompt import question_request
from medcap.generation.request import Request, Sampling
from medcap.models.vision_language_model import VisionLanguageModel


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", ["", "A chest X-ray: "])
def test_an_answer_ends_at_the_last_token_that_is_taught(tmp_path, monkeypatch, family, prefix):
    tokenizer = ChatTokenizer(family_tokenizer(family, tmp_path), NUM_IMAGE_TOKENS)
    rows = max(tokenizer.vocab_size, *tokenizer.stop_tokens) + 1
    decoder = llama3(
        vocab_size=rows, num_layers=1, num_heads=4, num_kv_heads=2, embed_dim=DIM, max_seq_len=128, intermediate_dim=48
    )
    model = VisionLanguageModel(FakeTower(), FakeProjector(), decoder, tokenizer.image_token_id)
    generator = Generator(model, tokenizer, model.tower.preprocess, ImageReader([tmp_path]), progress=False)
    taught = tokenizer.answer("clear lungs.")
    script = iter([*taught, *tokenizer.answer("and more") * 9])
    compute = model.unembed

    def say(hidden):
        logits = torch.zeros_like(compute(hidden))
        logits[..., next(script)] = 1.0
        return logits

    monkeypatch.setattr(model, "unembed", say)
    asked = question_request(None, "What is shown?")
    request = Request(asked.messages, "id", answer_prefix=prefix)
    (answer,) = generator.generate([request], Sampling(max_new_tokens=60))
    assert (answer.text, answer.finish) == ("clear lungs.", "stop")
    assert answer.tokens == taught[:-1]
