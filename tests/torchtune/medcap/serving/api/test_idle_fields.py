"""Which fields of OpenAI's client, and of the engines that speak its interface, are taken."""

import json
import typing

import pytest
from openai.types.chat import (
    ChatCompletionContentPartParam,
    ChatCompletionMessage,
    ChatCompletionMessageParam,
    ChatCompletionStreamOptionsParam,
)
from openai.types.chat.chat_completion_content_part_image_param import ImageURL
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from medcap.serving.api.api_error import ApiError
from medcap.serving.api.chat_body import ChatBody, ChatMessage, ImageUrl, Part, StreamOptions, read_chat_body
from medcap.serving.api.idle_fields import OF_MESSAGE, OF_PART, OF_REQUEST

TURN = {"role": "user", "content": "Is there a mass?"}
ANSWER = {"role": "assistant", "content": "No."}
PART = {"type": "text", "text": "Is there a mass?"}


def read(messages=None, **fields):
    return read_chat_body(json.dumps({"model": "m", "messages": messages or [TURN], **fields}).encode(), 8)


def refusal(**fields):
    with pytest.raises(ApiError) as raised:
        read(**fields)
    return raised.value.param, raised.value.code


def fields_of(kind):
    return set(typing.get_type_hints(kind))


def of_role(*roles):
    """Fields of messages of these roles, and of parts of the types that are taken."""
    kinds = typing.get_args(ChatCompletionMessageParam)
    taken = [kind for kind in kinds if set(typing.get_args(typing.get_type_hints(kind)["role"])) & set(roles)]
    assert taken
    return set().union(*map(fields_of, taken))


def of_type(*types):
    hints = [typing.get_type_hints(kind) for kind in typing.get_args(ChatCompletionContentPartParam)]
    return set().union(*(hint for hint in hints if typing.get_args(hint["type"])[0] in types))


@pytest.mark.parametrize(
    ("theirs", "used", "idle"),
    [
        (fields_of(CompletionCreateParamsBase) | {"stream"}, ChatBody, OF_REQUEST),
        (of_role("system", "developer", "user", "assistant"), ChatMessage, OF_MESSAGE),
        (set(ChatCompletionMessage.model_fields), ChatMessage, OF_MESSAGE),
        (of_type("text", "image_url"), Part, OF_PART),
        (fields_of(ImageURL), ImageUrl, {}),
        (fields_of(ChatCompletionStreamOptionsParam), StreamOptions, {}),
    ],
)
def test_every_field_of_openais_client_is_known(theirs, used, idle):
    assert theirs - set(used.model_fields) - set(idle) == set()
    assert set(used.model_fields).isdisjoint(idle)


ALWAYS = {
    "metadata": {"a": "b"},
    "prompt_cache_key": "a",
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "safety_identifier": "a",
    "service_tier": "priority",
    "user": "somebody",
}
NEUTRAL = [
    *ALWAYS.items(),
    ("n", 1),
    ("logprobs", False),
    ("top_logprobs", 0),
    ("tools", []),
    ("functions", []),
    ("function_call", "none"),
    ("tool_choice", "auto"),
    ("tool_choice", "none"),
    ("parallel_tool_calls", True),
    ("parallel_tool_calls", False),
    ("response_format", {"type": "text"}),
    ("presence_penalty", 0),
    ("frequency_penalty", 0.0),
    ("logit_bias", {}),
    ("logit_bias", {"5": 0}),
    ("modalities", ["text"]),
    ("reasoning_effort", "none"),
    ("store", False),
    ("verbosity", "medium"),
    # vLLM's and SGLang's.
    ("repetition_penalty", 1.0),
    ("min_p", 0),
    ("min_tokens", 0),
    ("length_penalty", 1),
    ("best_of", 1),
    ("use_beam_search", False),
    ("ignore_eos", False),
    ("skip_special_tokens", True),
    ("add_generation_prompt", True),
    ("continue_final_message", False),
    ("chat_template_kwargs", {}),
    ("chat_template_kwargs", {"enable_thinking": False}),
    ("stop_token_ids", []),
    ("bad_words", []),
    ("truncate_prompt_tokens", -1),
    ("guided_json", None),
    ("anything_at_all", None),
]


@pytest.mark.parametrize(("name", "value"), NEUTRAL)
def test_fields_that_ask_for_nothing_are_left_out(name, value):
    assert read(**{name: value}) == read()


@pytest.mark.parametrize("name", sorted(fields_of(CompletionCreateParamsBase) - {"model", "messages"}))
def test_a_field_of_openais_that_is_null_is_not_given(name):
    assert read(**{name: None}) == read()


@pytest.mark.parametrize("top_k", [-1, 0])
def test_all_tokens_may_be_asked_for_as_other_engines_are(top_k):
    assert read(top_k=top_k).top_k == top_k


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("n", True),
        ("logprobs", True),
        ("logprobs", 0),
        ("top_logprobs", 5),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("function_call", {"name": "a"}),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "text", "strict": True}),
        ("presence_penalty", 0.5),
        ("logit_bias", {"5": -100}),
        ("logit_bias", [0]),
        ("prediction", {"type": "content", "content": "a"}),
        ("audio", {"voice": "a"}),
        ("moderation", {}),
        ("web_search_options", {}),
        ("reasoning_effort", "high"),
        ("verbosity", "low"),
        ("store", True),
        ("modalities", ["audio"]),
        ("repetition_penalty", 1.1),
        ("min_p", 0.1),
        ("min_tokens", 5),
        ("ignore_eos", True),
        ("chat_template", "{{ messages }}"),
        ("chat_template_kwargs", {"enable_thinking": True}),
        ("stop_token_ids", [7]),
        ("add_generation_prompt", False),
        ("continue_final_message", True),
        ("skip_special_tokens", False),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(name, value):
    assert refusal(**{name: value}) == (name, "unsupported_value")


def test_an_unknown_field_is_refused_by_name():
    assert refusal(guided_json={}) == ("guided_json", "unknown_field")
    assert refusal(messages=[{**TURN, "nmae": "anna"}]) == ("messages.0.nmae", "unknown_field")
    assert refusal(messages=[{"role": "user", "content": [{**PART, "detial": "low"}]}]) == (
        "messages.0.content.0.detial",
        "unknown_field",
    )


OF_ANSWERS = [
    ("name", "anna"),
    ("refusal", None),
    ("audio", None),
    ("function_call", None),
    ("tool_calls", None),
    ("tool_calls", []),
    ("annotations", []),
    ("annotations", [{"type": "url_citation"}]),
    ("id", "msg_1"),
    ("reasoning_content", "The user asks for a mass."),
    ("reasoning", None),
    ("thinking_blocks", []),
    ("provider_specific_fields", {"refusal": None}),
    ("cache_control", {"type": "ephemeral"}),
    ("prefix", False),
    ("anything_at_all", None),
]


@pytest.mark.parametrize(("name", "value"), OF_ANSWERS)
@pytest.mark.parametrize("turn", [ANSWER, TURN], ids=["assistant", "user"])
def test_fields_of_a_message_that_change_nothing_are_left_out(turn, name, value):
    assert read([TURN, {**turn, name: value}, TURN]) == read([TURN, turn, TURN])


@pytest.mark.parametrize(
    ("name", "value"),
    [("tool_calls", [{"id": "a"}]), ("audio", {"id": "a"}), ("function_call", {"name": "a", "arguments": ""})],
)
def test_what_a_message_cannot_hold_here_is_refused_by_name(name, value):
    assert refusal(messages=[TURN, {**ANSWER, name: value}, TURN]) == (f"messages.1.{name}", "unsupported_value")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cache_control", {"type": "ephemeral"}),
        ("prompt_cache_breakpoint", {"mode": "explicit"}),
        ("id", "a"),
        ("x", None),
    ],
)
def test_fields_of_a_part_that_change_nothing_are_left_out(name, value):
    turn = {"role": "user", "content": [{**PART, name: value}]}
    assert read([turn]) == read([{"role": "user", "content": [PART]}])


def test_an_image_may_have_any_detail_of_openais():
    for detail in [*typing.get_args(typing.get_type_hints(ImageURL)["detail"]), None]:
        url = {"url": "data:", "detail": detail}
        assert read([{"role": "user", "content": [{"type": "image_url", "image_url": url}]}])


def test_engines_may_be_told_to_continue_the_last_message_where_that_is_done():
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    assert read([TURN, ANSWER], **fields) == read([TURN, ANSWER])
