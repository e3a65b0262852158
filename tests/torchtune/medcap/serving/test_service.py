import asyncio

import openai
import pytest

from helpers.serving import asking, noise_png, running, slow_down, tiny_service
from helpers.tiny_generation import tiny_generator
from helpers.waiting import wait_for
from medcap.errors import UserError
from medcap.serving.limits import Limits
from medcap.serving.service import Service, load_service, model_names

WORDS = "Is there a circle?"


@pytest.mark.slow
def test_of_a_thousand_requests_as_many_wait_as_may_and_all_others_get_an_error(folder, monkeypatch):
    slow_down(monkeypatch, 0.01)
    service = tiny_service(folder, max_rows=8, max_queue=40, max_new_tokens=8)
    most = []
    admitted = Service.check_room
    monkeypatch.setattr(Service, "check_room", lambda self: (most.append(self.num_admitted), admitted(self))[1])
    body = asking(WORDS, noise_png(1))
    with running(service) as client:
        alone = client.chat(body).json["choices"][0]["message"]["content"]

        replies = client.chat_at_once(body, 1000)
        answers = [reply.json for reply in replies if reply.status == 200]
        refusals = [reply.json for reply in replies if reply.status == 429]
        assert len(answers) + len(refusals) == 1000
        assert len(answers) >= 48 and len(refusals) > 0
        assert max(most) <= service.capacity == 48
        assert {reply["choices"][0]["message"]["content"] for reply in answers} == {alone}
        assert {reply["error"]["type"] for reply in refusals} == {"rate_limit_error"}
        # A client may have its reply before the server has counted it.
        wait_for(lambda: service.num_admitted == service.body_bytes == 0)
        assert client.chat(body).json["choices"][0]["message"]["content"] == alone


@pytest.mark.slow
def test_refused_clients_come_back_by_themselves(folder, monkeypatch):
    slow_down(monkeypatch, 0.01)
    with running(tiny_service(folder, max_rows=1, max_queue=0, max_new_tokens=4)) as client:

        async def ask_all():
            async with openai.AsyncOpenAI(base_url=client.base_url, api_key="none", max_retries=9) as api:
                return await asyncio.gather(*(api.chat.completions.create(**asking(WORDS)) for _ in range(4)))

        assert len({completion.choices[0].message.content for completion in asyncio.run(ask_all())}) == 1


def test_models_are_named_by_their_folders_as_far_as_it_takes():
    assert model_names(["results/mine"]) == ["mine"]
    assert model_names(["a/run", "b/run", "c/other"]) == ["a/run", "b/run", "c/other"]
    assert model_names(["x/a/run", "y/a/run"]) == ["x/a/run", "y/a/run"]
    with pytest.raises(UserError, match="named twice"):
        model_names(["a/run", "a/../a/run"])


@pytest.mark.parametrize("names", [["one"], ["one", "one"], ["one", ""]])
def test_given_names_must_fit(names):
    with pytest.raises(UserError, match="--name"):
        load_service(["a", "b"], Limits(), names=names)


def test_every_run_answers_once_before_clients_come(tmp_path):
    service = tiny_service(tmp_path, "first", "second")
    service.warm_up()
    assert [run.generator.model.tower.num_seen for run in service.runs.values()] == [1, 1]
    service.close()


def test_a_run_that_cannot_answer_is_not_served(tmp_path):
    service = tiny_service(tmp_path)
    service.runs["tiny"].generator.model.decoder.tok_embeddings.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="tiny cannot answer: the model's output is not finite"):
        service.warm_up()
    service.close()


def test_after_closing_it_reports_ill_and_answers_nothing(tmp_path):
    service = tiny_service(tmp_path)
    assert service.is_healthy
    service.close()
    assert not service.is_healthy


def test_rows_must_have_room_for_every_conversation(tmp_path):
    with pytest.raises(ValueError, match="max_seq_len=100"):
        Service({"tiny": tiny_generator(tmp_path)}, Limits(max_seq_len=100))
