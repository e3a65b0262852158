"""Every family against transformers' own forward pass: packed, cached, with adapters."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from helpers.packed_samples import IMAGE, NUM_TARGETS, PROMPT_PREFIX, SAMPLES, K, batch_of, gradients, tiny_images
from helpers.tiny_generation import (
    FakeProjector,
    FakeTower,
    mixed_requests,
    plain_answer,
    plain_score,
    write_images,
)
from helpers.tokenizers import tiny_tokenizer_file
from helpers.transformers_families import FAMILIES, load_family, plain_logits, write_family
from medcap.checkpoints.frozen_llm import llm_fingerprint, plan_llm
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.images.reader import ImageReader
from medcap.generation.generator import Generator
from medcap.generation.request import Sampling
from medcap.models.projectors.base import build_projector
from medcap.models.tokenizers import llama3_tokenizer
from medcap.models.towers.registry import build_tower
from medcap.models.towers.tiny_tower import tiny_spec
from medcap.models.vision_language_model import VisionLanguageModel

pytestmark = pytest.mark.slow
BUILDER = "medcap.models.transformers_decoder"


class Family:
    """A family's folder, transformers' model of it and ours."""

    def __init__(self, folder, name):
        self.folder = folder / "llm"
        self.name = name
        self.reference = write_family(self.folder, name)
        self.decoder = load_family(self.folder)
        torch.manual_seed(0)
        spec, preprocess = tiny_spec({"image_size": 16, "width": 32, "depth": 1, "heads": 2})
        tower = build_tower(spec, preprocess)
        projector = build_projector({"_component_": "medcap.models.mlp", "num_image_tokens": K}, tower.shape, 32)
        self.model = VisionLanguageModel(tower, projector, self.decoder, IMAGE)

    def plain_loss(self, images):
        """Every sample alone through transformers' forward pass; mean over targets."""
        total = torch.zeros(())
        for one in SAMPLES:
            tokens = torch.from_numpy(one.tokens).long()[None]
            embeddings = self.reference.get_input_embeddings()(tokens.masked_fill(tokens == IMAGE, 0))
            if one.images:
                rows = self.model.encode_images(torch.stack([images[name] for name in one.images]))
                at = (tokens.flatten() == IMAGE).nonzero().flatten()
                embeddings = embeddings.flatten(0, 1).index_copy(0, at, rows.flatten(0, 1))[None]
            logits = plain_logits(self.reference, embeddings)
            total = total + cross_entropy(logits[0], torch.from_numpy(one.targets).long(), reduction="sum")
        return total / NUM_TARGETS


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    return Family(tmp_path_factory.mktemp(request.param), request.param)


def test_logits_are_those_of_transformers(family):
    tokens = torch.randint(0, 300, (2, 23), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = family.reference(tokens).logits
        torch.testing.assert_close(family.decoder(tokens), expected, rtol=1e-4, atol=1e-4)


def test_packed_rows_equal_separate_samples_in_loss_and_gradients(family):
    images = tiny_images()
    expected = family.plain_loss(images)
    wanted = gradients(family.model, expected)
    family.model.cache_prompt_prefix(PROMPT_PREFIX)
    for row_length, share, prompt_prefix, checkpointed in (
        (64, True, (), 0),
        (24, False, (), 1),
        (17, True, PROMPT_PREFIX, 0),
    ):
        family.model.checkpointed_layers = checkpointed
        batch = batch_of(SAMPLES, images, row_length, share, prompt_prefix)
        loss = family.model.losses(batch)["text"] / NUM_TARGETS
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        found = gradients(family.model, loss)
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=5e-5)
    assert not [name for name, part in family.decoder.named_parameters() if part.grad is not None]


def test_batched_answers_and_scores_are_those_of_single_prompts(family, tmp_path):
    tokenizer = ChatTokenizer(
        llama3_tokenizer(str(tiny_tokenizer_file(tmp_path / "tokenizer"))), FakeProjector.num_image_tokens
    )
    torch.manual_seed(11)
    model = VisionLanguageModel(FakeTower(), FakeProjector(), family.decoder, tokenizer.image_token_id)
    generator = Generator(
        model, tokenizer, model.tower.preprocess, ImageReader([tmp_path]), progress=False, batch_size=3
    )
    requests = mixed_requests(write_images(tmp_path, 1))[1:5]
    answers = generator.generate(requests, Sampling(max_new_tokens=7))
    assert [answer.tokens for answer in answers] == [plain_answer(generator, request, 7) for request in requests]
    # Through two layers with a window, what ends all prompts is all that an answer sees.
    assert len({tuple(answer.tokens) for answer in answers}) > (2 if family.name not in ("mistral", "phi3") else 0)
    (scores,) = generator.score(requests[:1], [["Yes", "No lung"]])
    wanted = [plain_score(generator, requests[0], candidate, True)[0] for candidate in ("Yes", "No lung")]
    assert scores.sums == pytest.approx(wanted, abs=1e-4)


def test_the_fingerprint_is_that_of_the_files(family):
    plan = plan_llm(BUILDER, family.folder)
    assert plan.fingerprint(torch.float32) == llm_fingerprint(family.decoder)
