import threading
from functools import partial

import pytest
import torch
from torchtune.data import Message

from helpers.expert_models import choose_always, fill, plan_of
from helpers.tiny_generation import mixed_requests, plain_answer, plain_score, tiny_generator, write_images
from helpers.waiting import PATIENCE
from medcap.data.batch import make_batch
from medcap.data.packing import Sample, pack_row
from medcap.generation.continuous_batching import LiveGenerator
from medcap.generation.prompt import question_request
from medcap.generation.request import Request, Sampling
from medcap.models.llm_lora import llm_lora
from medcap.models.lora_experts import lora_experts

EXPERTS = [{"run": "words", "rank": 2}, {"run": "boxes", "rank": 3, "targets": ["q_proj", "down_proj"]}]
QUESTIONS = ("Is there a circle?", "What is the left lung, the chest?")
SAMPLING = Sampling(max_new_tokens=7)


def routed_generator(folder, router, **options):
    generator = tiny_generator(folder, batch_size=3, router_output=True, **options)
    experts = lora_experts(plan_of(generator.model.decoder), EXPERTS, router=router)
    fill(experts, router=30.0)
    attach(generator, experts)
    return generator, experts


def attach(generator, component):
    generator.model.further.append(component)
    component.attach(generator.model)


def own_generator(folder, experts, number):
    """A generator whose model has one expert alone, as adapters."""
    generator = tiny_generator(folder, batch_size=3)
    options = {key: value for key, value in EXPERTS[number].items() if key != "run"}
    adapters = llm_lora(plan_of(generator.model.decoder), **options)
    adapters.load_state_dict(experts.experts[number].state_dict())
    attach(generator, adapters)
    return generator


@pytest.mark.parametrize("router", ["token", "sequence"])
def test_batched_answers_with_a_forced_router_are_those_of_the_expert(tmp_path, router):
    requests = mixed_requests(write_images(tmp_path, 2))[1:8]
    generator, experts = routed_generator(tmp_path, router)
    choose_always(experts, 1)
    answers = generator.generate(requests, SAMPLING)
    own = own_generator(tmp_path, experts, 1).generate(requests, SAMPLING)
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in own]
    assert {answer.outputs.experts for answer in answers} == {(0.0, 1.0)}
    assert own[0].outputs.experts is None


def test_batched_answers_with_a_router_of_tokens_are_those_of_single_prompts(tmp_path):
    requests = mixed_requests(write_images(tmp_path, 2))[1:8]
    generator, experts = routed_generator(tmp_path, "token")
    answers = generator.generate(requests, SAMPLING)
    assert [answer.tokens for answer in answers] == [plain_answer(generator, request, 7) for request in requests]
    (scores,) = generator.score(requests[:1], [["Yes", "No lung"]])
    wanted = [plain_score(generator, requests[0], candidate, True)[0] for candidate in ("Yes", "No lung")]
    assert scores.sums == pytest.approx(wanted, abs=1e-4)
    # The shares of an answer are those of one pass over prompt and answer, at the tokens that predict it.
    cut = next(number for number, answer in enumerate(answers) if answer.finish == "length")
    plain_answer(generator, requests[cut], 7)  # its last pass has all tokens but the last
    start = len(generator.tokenizer.prompt(requests[cut].messages).tokens) - 1
    expected = experts.shares(torch.arange(start, start + 7)).mean(dim=0)
    assert answers[cut].outputs.experts == pytest.approx(expected.tolist(), abs=1e-6)
    assert len({answer.outputs.experts for answer in answers}) > 1


def turned(generator, experts, questions):
    """Turn a router of sequences so that it tells two questions apart."""
    model, tokenizer = generator.model, generator.tokenizer
    with torch.no_grad():
        for row, request in enumerate(questions):
            ids = [token for token in tokenizer.prompt(request.messages).tokens if token != tokenizer.image_token_id]
            words = model.decoder.tok_embeddings.weight[ids]
            experts.router["sequence"].weight[row] = torch.nn.functional.normalize(words, dim=-1).mean(dim=0)


def test_each_question_about_an_image_has_its_own_experts(tmp_path):
    (image,) = write_images(tmp_path, 1)
    requests = [question_request(image, text) for text in QUESTIONS]
    generator, experts = routed_generator(tmp_path, "sequence")
    turned(generator, experts, requests)
    answers = generator.generate([*requests, *requests], SAMPLING)
    assert [answer.outputs.experts for answer in answers] == [(1.0, 0.0), (0.0, 1.0)] * 2
    for number, request in enumerate(requests):
        own = own_generator(tmp_path, experts, number)
        assert answers[number].tokens == own.generate([request], SAMPLING)[0].tokens == answers[number + 2].tokens
        ours = generator.score([request], [["yes", "no"]])[0].sums
        assert ours == pytest.approx(own.score([request], [["yes", "no"]])[0].sums, abs=1e-5)


def test_a_later_turn_keeps_the_experts_of_the_first_question_and_training_has_the_same(tmp_path):
    (image,) = write_images(tmp_path, 1)
    first, other = (
        question_request(image, text) for text in ("Is there a circle?", "What is the left lung, the chest?")
    )
    generator, experts = routed_generator(tmp_path, "sequence")
    turned(generator, experts, (other, first))
    said = Message(role="assistant", content="no circle", masked=False)
    asked = Message(role="user", content=QUESTIONS[1])
    later = Request([*first.messages, said, asked])
    assert generator.prompt(first, SAMPLING).route == generator.prompt(later, SAMPLING).route == (0.0, 1.0)
    prefixed = Request(other.messages, answer_prefix="circle circle circle")
    assert generator.prompt(prefixed, SAMPLING).route == (1.0, 0.0)
    tokenizer = generator.tokenizer
    for messages, expected in (([*later.messages, said], 1), ([*other.messages, said], 0)):
        chat = tokenizer.tokenize(messages)
        sample = Sample(
            *(torch.tensor(values, dtype=torch.int32).numpy() for values in (chat.tokens[:-1], chat.labels[1:])),
            images=("0.png",),
            image_lengths=(3,),
            images_end=1 + max(place for place, token in enumerate(chat.tokens) if token == tokenizer.image_token_id),
            name="row",
        )
        row = pack_row([[sample]], len(sample.tokens) + 3, pad_id=0)
        batch = make_batch([row], tokenizer.image_token_id, 3, lambda _: torch.zeros(3, 8, 8, dtype=torch.uint8))
        generator.model.train()
        generator.model.losses(batch)
        assert experts.log_sums()[expected] == batch.num_tokens


def test_live_answers_wait_for_those_with_other_experts(tmp_path):
    texts = [question_request(None, text) for text in QUESTIONS]
    generator, experts = routed_generator(tmp_path, "sequence")
    turned(generator, experts, texts)
    expected = [answer.tokens for answer in generator.generate(texts, SAMPLING)]
    assert expected[0] != expected[1]
    live, results, done = LiveGenerator([generator], max_rows=4, capacity=200), {}, threading.Semaphore(0)

    def end(name, answer):
        results[name] = answer
        done.release()

    try:
        for name in range(4):
            live.submit(live.prepare(texts[name % 2], SAMPLING), lambda _: None, partial(end, name))
        assert all(done.acquire(timeout=PATIENCE) for _ in range(4))
    finally:
        live.close()
    assert [results[name].tokens for name in range(4)] == expected * 2
    assert [results[name].outputs.experts for name in range(2)] == [(1.0, 0.0), (0.0, 1.0)]


def test_answers_without_experts_have_no_shares(tmp_path):
    generator, _ = routed_generator(tmp_path, "token")
    request = question_request(None, "Is there a circle?")
    bare = Request(request.messages, without=("llm_lora",))
    found = generator.generate([request, bare], SAMPLING)
    plain = tiny_generator(tmp_path).generate([request], SAMPLING)[0]
    assert found[1].tokens == plain.tokens and found[1].outputs.experts is None
    assert found[0].outputs.experts is not None and plain.outputs.experts is None
