"""An endpoint for tests, and what it replies to prompts."""

from helpers.waiting import PATIENCE
from medcap.language_models.endpoint import Endpoint


def endpoint(base_url, **options):
    options = {"retries": 2, "timeout": PATIENCE, "progress": False, **options}
    return Endpoint("judge-model", base_url, **options)


def ask(model, prompts):
    replies = {}
    model.ask(prompts, lambda position, reply: replies.update({position: reply}))
    assert sorted(replies) == list(range(len(prompts)))
    return [replies[position] for position in range(len(prompts))]


def numbered(count):
    return [f"prompt {position}" for position in range(count)]
