"""Boxes and masks in answers: those of a plain pass, whatever else is answered, and in the text of every door."""

import re
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchtune.data import Message

from helpers.tiny_generation import (
    mixed_requests,
    write_images,
)
from helpers.word_generation import MASK, WORD, generator_with_boxes, generator_with_masks, poison
from medcap.data.boxes.style import BoxStyle
from medcap.data.outputs import Outputs
from medcap.data.regions.draw import draw_region
from medcap.data.regions.shown import original_mask
from medcap.generation.continuous_batching import LiveGenerator
from medcap.generation.request import Sampling
from medcap.generation.text_stream import TextStream
from medcap.modules.frozen_linear import quantise_layer

SAMPLING = Sampling(max_new_tokens=8)


@pytest.fixture(scope="module")
def side(tmp_path_factory):
    """A generator, requests about images of 12 x 10 pixels and about none, and their answers."""
    folder = tmp_path_factory.mktemp("boxes")
    generator = generator_with_boxes(folder)
    requests = mixed_requests(write_images(folder, 3))
    return generator, requests, generator.generate(requests, SAMPLING)


@torch.no_grad()
def plain_pass(generator, request, tokens, word):
    """Hidden states that predict a word among an answer's tokens, from one pass over the whole conversation.

    Also the picture and its patch tokens.
    """
    model = generator.model.eval()
    prompt = generator.tokenizer.prompt(request.messages)
    ids = torch.tensor([prompt.tokens + tokens])
    picture = generator.reader.open(generator.reader.resolve(str(prompt.images[0])))
    pixels = generator.preprocess.transform()(picture)[None]
    rows, patches = model.encode_with_patches(pixels)
    places = (ids.flatten() == model.image_token_id).nonzero().flatten()
    causal = torch.ones(1, ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    hidden = model.hidden(model.embed(ids, rows, places), causal, torch.arange(ids.shape[1])[None])[0]
    said = [place - 1 for place in range(len(prompt.tokens), ids.shape[1]) if ids[0, place] == word]
    return hidden[said], pixels, patches


@torch.no_grad()
def plain_boxes(generator, request, tokens):
    """The box of every box word among an answer's tokens."""
    hidden, _, patches = plain_pass(generator, request, tokens, generator.tokenizer.added.box_id)
    head = generator.model.components["box_decoder"]
    found = [head(state[None], patches)[0][0].tolist() for state in hidden]
    # 12 x 10 pixels become 9 x 8, of which the tower is shown the left 8 x 8.
    scales = torch.tensor([8 / 9, 1, 8 / 9, 1])
    return (torch.tensor(found) * scales).clamp(0, 1)


def shown(request):
    return any(part["type"] == "image" for message in request.messages for part in message.content)


def test_boxes_are_those_of_a_plain_pass_on_the_original_image(side):
    generator, requests, answers = side
    compared = 0
    for request, answer in zip(requests, answers, strict=True):
        if answer.outputs.boxes and shown(request):
            wanted = plain_boxes(generator, request, answer.tokens)
            found = torch.tensor([box.edges for box in answer.outputs.boxes])
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
            compared += len(found)
    assert compared >= 5


def test_the_text_holds_the_boxes_in_the_notation_of_the_run(side):
    generator, requests, answers = side
    for answer in answers:
        assert WORD not in answer.text
        thousandths = [[min(999, int(1000 * edge + 1e-6)) for edge in box.edges] for box in answer.outputs.boxes or ()]
        found = re.findall(r"\[(\d+), (\d+), (\d+), (\d+)\]", answer.text)
        assert [[*map(int, numbers)] for numbers in found] == thousandths
    index = next(index for index, answer in enumerate(answers) if answer.outputs.boxes)
    own = generator_with_boxes(generator.reader.roots[0], box_style=BoxStyle(written="coloninst"))
    answer = own.generate([requests[index]], SAMPLING)[0]
    pixels = "".join(f"<{round(edge)}>" for edge in answer.outputs.boxes[0].pixels((12, 10)))
    assert f"{{{pixels}}}" in answer.text


def test_what_the_head_does_not_see_has_no_box_and_its_text_says_so(side):
    generator, requests, answers = side
    index = next(index for index, answer in enumerate(answers) if answer.outputs.boxes)
    unsure = generator_with_boxes(generator.reader.roots[0], certainty=-9.0)
    answer = unsure.generate([requests[index]], SAMPLING)[0]
    assert answer.tokens == answers[index].tokens
    assert answer.outputs.boxes == ()
    assert answer.text == re.sub(r"\[\d+, \d+, \d+, \d+\]", "not visible", answers[index].text)


def test_an_answer_without_an_image_has_no_box_and_its_text_no_word(side):
    _, requests, answers = side
    blind = [answer for request, answer in zip(requests, answers, strict=True) if not shown(request)]
    assert any(answer.outputs == Outputs(()) for answer in blind)
    assert all(WORD not in answer.text and "[" not in answer.text for answer in blind)


def test_an_answer_without_the_word_leaves_its_boxes_to_its_text(side):
    generator, requests, _ = side
    answer = generator.generate([replace(requests[0], without=("words",))], SAMPLING)[0]
    assert answer.outputs.boxes is None


@pytest.mark.slow
@pytest.mark.parametrize("static", [False, True])
def test_a_box_does_not_depend_on_the_others_of_its_batch(side, static, monkeypatch):
    generator, requests, answers = side  # of batches of 16 rows
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)
    other = generator_with_boxes(generator.reader.roots[0], batch_size=3, compile=static)
    for answer, alone in zip(other.generate(requests[:9], SAMPLING), answers[:9], strict=True):
        assert (answer.text, answer.tokens) == (alone.text, alone.tokens)
        found, wanted = (torch.tensor([box.edges for box in one.outputs.boxes or ()]) for one in (answer, alone))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_requests_that_come_at_any_time_get_the_same_boxes_and_their_stream_the_same_text(side):
    generator, requests, answers = side
    request, wanted = next(pair for pair in zip(requests, answers, strict=True) if pair[1].outputs.boxes)
    name = next(part["content"] for part in request.messages[-1].content if part["type"] == "image")
    picture = generator.reader.open(generator.reader.resolve(str(name)))
    shown_part = {"type": "image", "content": generator.prepare(picture, "0")}
    parts = [part if part["type"] == "text" else shown_part for part in request.messages[-1].content]
    asked = replace(request, messages=[*request.messages[:-1], Message(role="user", content=parts, masked=True)])
    live, ended = LiveGenerator([generator], max_rows=2, capacity=128), threading.Event()
    stream, pieces, results = TextStream(generator.tokenizer), [], []

    def end(result):
        results.append(result)
        ended.set()

    live.submit(live.prepare(asked, SAMPLING), lambda token: pieces.append(stream.push(token)), end)
    assert ended.wait(60)
    live.close()
    (found,) = results
    assert found.text == wanted.text
    assert found.outputs.boxes[0].edges == pytest.approx(wanted.outputs.boxes[0].edges, abs=1e-6)
    assert "".join(pieces) + stream.finish() == wanted.text


@pytest.fixture(scope="module")
def outlined(tmp_path_factory):
    """A generator with masks, requests about images of 12 x 10 pixels and about none, and their answers."""
    folder = tmp_path_factory.mktemp("masks")
    generator = generator_with_masks(folder)
    requests = mixed_requests(write_images(folder, 3))
    return generator, requests, generator.generate(requests, SAMPLING)


@torch.no_grad()
def plain_logits(generator, request, tokens):
    """The mask logits of every mask word among an answer's tokens."""
    hidden, pixels, patches = plain_pass(generator, request, tokens, generator.tokenizer.added.mask_id)
    which = torch.zeros(len(hidden), dtype=torch.int64)
    return generator.model.components["mask_decoder"](hidden, patches, pixels, which).logits


def test_masks_are_those_of_a_plain_pass_on_the_original_image(outlined):
    generator, requests, answers = outlined
    compared = 0
    for request, answer in zip(requests, answers, strict=True):
        if answer.outputs.masks and shown(request):
            frame = generator.preprocess.frame((12, 10))
            for logits, mask in zip(plain_logits(generator, request, answer.tokens), answer.outputs.masks, strict=True):
                wanted = original_mask(logits, frame)
                assert mask is None or mask.shape.size == (10, 12)
                found = np.zeros((10, 12), bool) if mask is None else draw_region(mask, (12, 10))
                # A logit of zero may fall to either side.
                assert (found != wanted).sum() <= 1
                compared += int(found.any() and not found.all())
    assert compared >= 3


def test_the_text_keeps_the_word_of_a_mask_and_says_where_there_is_none(outlined):
    generator, requests, answers = outlined
    index = next(
        index for index, answer in enumerate(answers) if answer.outputs.masks and None not in answer.outputs.masks
    )
    assert answers[index].text.count(MASK) == len(answers[index].outputs.masks)
    unsure = generator_with_masks(generator.reader.roots[0], certainty=-9.0)
    answer = unsure.generate([requests[index]], SAMPLING)[0]
    assert answer.tokens == answers[index].tokens
    assert answer.outputs.masks == (None,) * len(answers[index].outputs.masks)
    assert answer.text == answers[index].text.replace(MASK, "not visible")
    blind = [answer for request, answer in zip(requests, answers, strict=True) if not shown(request)]
    assert any(answer.outputs == Outputs(masks=()) for answer in blind)


@pytest.mark.parametrize("precision", ["bf16", "fp8", "nf4"])
def test_masks_of_low_precision_are_not_blank_where_those_of_float32_are_not(outlined, precision):
    generator, requests, answers = outlined
    low = generator_with_masks(generator.reader.roots[0])
    low.model.decoder.to(torch.bfloat16)
    for layer in low.model.decoder.layers:
        quantise_layer(layer, precision)
    compared = 0
    for request, answer in zip(requests, answers, strict=True):
        if not answer.outputs.masks or not shown(request):
            continue
        pairs = zip(*(plain_logits(one, request, answer.tokens) for one in (low, generator)), strict=True)
        for found, wanted in pairs:
            assert found.dtype == torch.float32 and torch.isfinite(found).all()
            if (wanted > 0).any():
                overlap = ((found > 0) & (wanted > 0)).sum() / ((found > 0) | (wanted > 0)).sum()
                assert overlap > 0.5
                compared += 1
    assert compared >= 5
    given = low.generate(requests, SAMPLING)
    assert not any(answer.error for answer in given)
    masks = [mask for answer in given for mask in answer.outputs.masks or ()]
    assert len(masks) >= 5 and sum(mask is None for mask in masks) <= len(masks) / 10


@pytest.mark.parametrize(("kind", "label"), [("box_decoder", "box head"), ("mask_decoder", "mask decoder")])
def test_what_is_not_finite_is_a_failure_of_its_answer_alone(kind, label, tmp_path):
    make = generator_with_boxes if kind == "box_decoder" else generator_with_masks
    generator, requests = make(tmp_path), mixed_requests(write_images(tmp_path, 3))
    wanted = generator.generate(requests, SAMPLING)
    (_, _, patches) = plain_pass(generator, requests[1], [], 0)
    poison(generator.model.components[kind], patches[0])
    field = kind.replace("_decoder", "es" if kind == "box_decoder" else "s")
    failed = 0
    for request, answer, before in zip(requests, generator.generate(requests, SAMPLING), wanted, strict=True):
        name = next((str(part["content"]) for part in request.messages[-1].content if part["type"] == "image"), "")
        if name == "1.png" and getattr(before.outputs, field) is not None:
            assert (answer.finish, answer.error, answer.text) == ("error", f"the {label}'s output is not finite", "")
            failed += 1
        else:
            assert (answer.text, answer.error) == (before.text, "") and answer.outputs == before.outputs
    assert 1 <= failed < len(requests)


def test_a_mask_does_not_depend_on_the_others_of_its_batch(outlined):
    generator, requests, answers = outlined
    other = generator_with_masks(generator.reader.roots[0], batch_size=3)
    for answer, alone in zip(other.generate(requests[:6], SAMPLING), answers[:6], strict=True):
        assert (answer.text, answer.outputs) == (alone.text, alone.outputs)
