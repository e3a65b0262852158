"""Answers and scores with added words, compared with a plain model whose tables are larger."""

from dataclasses import replace

import pytest
import torch
from torchtune.modules import TiedLinear

from helpers.tiny_generation import NUM_IMAGE_TOKENS, FakeProjector, FakeTower, tiny_decoder, write_images
from helpers.tokenizers import tiny_tokenizer_file, tiny_vocab_size
from medcap.data.added_tokens import AddedTokens
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.images.reader import ImageReader
from medcap.generation.continuous_batching import LiveGenerator
from medcap.generation.generator import Generator
from medcap.generation.prompt import caption_request, question_request
from medcap.generation.request import Sampling
from medcap.generation.text_stream import TextStream
from medcap.models.tokenizers import llama3_tokenizer
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.models.words import AddedWords

WORDS = ("<im_start>", "<im_end>", "<SEG>")
SAMPLING = Sampling(max_new_tokens=10)
SPARE = 3  # rows of the table that no id of the tokenizer has


def generator_with_words(folder, family):
    """A generator over a model that often says words."""
    decoder = tiny_decoder(family, extra_rows=SPARE)
    first = decoder.tok_embeddings.num_embeddings
    added = AddedTokens(WORDS, first, WORDS[:2])
    tokenizer = ChatTokenizer(llama3_tokenizer(str(tiny_tokenizer_file(folder / "tokenizer"))), NUM_IMAGE_TOKENS, added)
    torch.manual_seed(11)
    words = AddedWords(WORDS, WORDS[:2], 32, isinstance(decoder.output, TiedLinear))
    for parameter in words.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    parts = (FakeTower(), FakeProjector(), decoder, tokenizer.image_token_id, [words])
    model = VisionLanguageModel(*parts)
    return Generator(model, tokenizer, model.tower.preprocess, ImageReader([folder]), progress=False)


def larger(generator, family):
    """The same model without words, whose tables end with their rows."""
    model = generator.model
    decoder = tiny_decoder(family, extra_rows=SPARE + len(WORDS))
    for name, parameter in model.decoder.named_parameters():
        rows = model.added_rows(name)
        decoder.get_parameter(name).data.copy_((parameter if rows is None else torch.cat([parameter, rows])).detach())
    return VisionLanguageModel(model.tower, model.projector, decoder, model.image_token_id).eval()


def plain_logits(generator, plain, tokens, images):
    """``[S, V]`` of one sequence, minus infinity at what may not be said."""
    pixels = [generator.preprocess.transform()(generator.reader.open(generator.reader.resolve(str(i)))) for i in images]
    ids = torch.tensor([tokens])
    places = (ids.flatten() == plain.image_token_id).nonzero().flatten()
    rows = plain.encode_images(torch.stack(pixels)) if pixels else None
    length = len(tokens)
    causal = torch.ones(1, length, length, dtype=torch.bool).tril()
    hidden = plain.hidden(plain.embed(ids, rows, places if pixels else None), causal, torch.arange(length)[None])
    logits = plain.unembed(hidden)[0]
    logits[:, [*range(tiny_vocab_size(), tiny_vocab_size() + SPARE), plain.image_token_id]] = -torch.inf
    return logits


@torch.no_grad()
def plain_answer(generator, plain, request):
    prompt = generator.tokenizer.prompt(request.messages)
    answer = []
    while len(answer) < SAMPLING.max_new_tokens:
        token = int(plain_logits(generator, plain, prompt.tokens + answer, prompt.images)[-1].argmax())
        if token in generator.tokenizer.stop_tokens:
            break
        answer.append(token)
    return answer


@pytest.fixture(scope="module", params=["llama3", "gemma", "qwen2"])
def sides(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("words")
    generator = generator_with_words(folder, request.param)
    generator.model.eval()
    images = write_images(folder, 2)
    requests = [caption_request(image) for image in images]
    requests += [question_request(image, f"Is there a <SEG>{word}?") for image in images for word in ("", " lung")]
    requests.append(question_request(None, "What is <SEG><SEG>?"))
    return generator, larger(generator, request.param), requests


def test_answers_are_those_of_larger_tables(sides):
    generator, plain, requests = sides
    expected = [plain_answer(generator, plain, request) for request in requests]
    first = generator.model.decoder.tok_embeddings.num_embeddings
    assert any(token >= first for answer in expected for token in answer)
    found = generator.generate(requests, SAMPLING)
    assert [answer.tokens for answer in found] == expected
    for answer in found:
        said = [WORDS[token - first] for token in answer.tokens if token >= first]
        assert [word for word in said if word in answer.text] == said
        stream = TextStream(generator.tokenizer)
        assert "".join(map(stream.push, answer.tokens)) + stream.finish() == answer.text


def test_the_live_engine_gives_the_same_answers(sides):
    generator, _, requests = sides
    bare = replace(requests[-1], without=("words",))
    expected = [answer.tokens for answer in generator.generate([requests[-1], bare], SAMPLING)]
    live = LiveGenerator([generator], max_rows=2, capacity=64)
    ended = []
    for request in (requests[-1], bare):
        live.submit(live.prepare(request, SAMPLING), lambda token: None, ended.append)
    live.close()
    assert [answer.tokens for answer in ended] == expected


@torch.no_grad()
def test_scores_are_those_of_larger_tables(sides):
    generator, plain, requests = sides
    candidates = ["Yes <SEG>.", "<SEG><im_end>", "No"]
    found = generator.score(requests, [candidates] * len(requests))
    for request, scores in zip(requests, found, strict=True):
        prompt = generator.tokenizer.prompt(request.messages)
        for text, total, count in zip(candidates, scores.sums, scores.num_tokens, strict=True):
            answer = generator.tokenizer.answer(text)
            logits = plain_logits(generator, plain, prompt.tokens + answer, prompt.images).log_softmax(-1)
            start = len(prompt.tokens)
            wanted = sum(float(logits[start + at - 1, token]) for at, token in enumerate(answer))
            assert total == pytest.approx(wanted, abs=1e-4) and count == len(answer)


def test_a_request_without_words_reads_and_says_plain_text(sides):
    generator, _, requests = sides
    tokenizer, model = generator.tokenizer, generator.model
    bare = [replace(request, without=("words",)) for request in requests]
    plain = VisionLanguageModel(model.tower, model.projector, model.decoder, model.image_token_id)
    base = Generator(plain, tokenizer.without_added, generator.preprocess, generator.reader, progress=False)
    first = model.decoder.tok_embeddings.num_embeddings
    assert max(base.tokenizer.prompt(requests[-1].messages).tokens) < first
    mixed = generator.generate([*requests, *bare], SAMPLING)[len(requests) :]
    assert [answer.tokens for answer in mixed] == [answer.tokens for answer in base.generate(requests, SAMPLING)]
    candidates = [["<SEG>", "Yes"]] * len(requests)
    for one, other in zip(generator.score(bare, candidates), base.score(requests, candidates), strict=True):
        assert one.sums == pytest.approx(other.sums, abs=1e-5)


def test_a_tokenizer_of_other_words_is_refused(sides):
    generator, _, _ = sides
    with pytest.raises(ValueError, match="the tokenizer adds 0 words, but the model has rows of 3"):
        Generator(generator.model, generator.tokenizer.without_added, generator.preprocess, generator.reader)
