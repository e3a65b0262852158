"""Fields of requests that do nothing here: left out where they ask for nothing, else refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from medcap.serving.api.api_error import bad_request

AsksForNothing = Callable[[Any], bool]


def _anything(value: Any) -> bool:
    return True


def _only(*values: Any) -> AsksForNothing:
    # True is 1 in Python, and is not in JSON.
    return lambda value: any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in values)


def _all_values(*values: Any) -> AsksForNothing:
    is_known = _only(*values)
    return lambda given: isinstance(given, dict) and all(map(is_known, given.values()))


_nothing = _only()

# Of OpenAI's request. A field that never changes an answer takes anything.
_OPENAI: dict[str, AsksForNothing] = {
    "audio": _nothing,
    "frequency_penalty": _only(0),
    "function_call": _only("none", "auto"),
    "functions": _only([]),
    "logit_bias": _all_values(0),
    "logprobs": _only(False),
    "metadata": _anything,
    "modalities": _only(["text"]),
    "moderation": _nothing,
    "n": _only(1),
    "parallel_tool_calls": _only(True, False),
    "prediction": _nothing,
    "presence_penalty": _only(0),
    "prompt_cache_key": _anything,
    "prompt_cache_options": _anything,
    "prompt_cache_retention": _anything,
    "reasoning_effort": _only("none"),
    "response_format": _only({"type": "text"}),
    "safety_identifier": _anything,
    "service_tier": _anything,
    "store": _only(False),
    "tool_choice": _only("none", "auto"),
    "tools": _only([]),
    "top_logprobs": _only(0),
    "user": _anything,
    "verbosity": _only("medium"),
    "web_search_options": _nothing,
}
# Of vLLM, SGLang and what speaks to them, at their defaults.
_ENGINES: dict[str, AsksForNothing] = {
    "add_generation_prompt": _only(True),
    "add_special_tokens": _only(False),
    "allowed_token_ids": _nothing,
    "bad_words": _only([]),
    "best_of": _only(1),
    "cache_salt": _anything,
    "chat_template": _nothing,
    # Of templates that let a model think first, which none here does.
    "chat_template_kwargs": _all_values(False, None),
    "continue_final_message": _only(False),
    "documents": _only([]),
    "early_stopping": _only(False),
    "echo": _only(False),
    "enable_thinking": _only(False),
    "ignore_eos": _only(False),
    "include_reasoning": _only(True, False),
    "include_stop_str_in_output": _only(False),
    "length_penalty": _only(1),
    "logits_processors": _only([]),
    "min_p": _only(0),
    "min_tokens": _only(0),
    "mm_processor_kwargs": _only({}),
    "priority": _anything,
    "prompt_logprobs": _nothing,
    "repetition_penalty": _only(1),
    "request_id": _anything,
    "return_token_ids": _only(False),
    "return_tokens_as_token_ids": _only(False),
    "skip_special_tokens": _only(True),
    "spaces_between_special_tokens": _only(True, False),
    "stop_token_ids": _only([]),
    "thinking": _only({"type": "disabled"}),
    "truncate_prompt_tokens": _only(-1),
    "use_beam_search": _only(False),
}
OF_REQUEST = {**_OPENAI, **_ENGINES}
# Also what clients add to an answer that they send back. "name" and reasoning are not in the prompts of training.
OF_MESSAGE: dict[str, AsksForNothing] = {
    "annotations": _anything,
    "audio": _nothing,
    "cache_control": _anything,
    "function_call": _nothing,
    "id": _anything,
    "name": _anything,
    "prefix": _only(True, False),
    "provider_specific_fields": _anything,
    "reasoning": _anything,
    "reasoning_content": _anything,
    "reasoning_details": _anything,
    "thinking_blocks": _anything,
    "tool_calls": _only([]),
}
OF_PART: dict[str, AsksForNothing] = {
    "annotations": _anything,
    "cache_control": _anything,
    "id": _anything,
    "prompt_cache_breakpoint": _anything,
}


def drop_idle(values: dict[str, Any], idle: Mapping[str, AsksForNothing], used: Mapping[str, Any], path: str) -> None:
    """Take fields out of an object that do nothing.

    Args:
        values: the object; it is changed.
        idle: the fields that are known to do nothing here, each with a check of its value.
        used: the names of all others that are known.
        path: the object's own path with a point after it, for the refusal.

    Raises:
        ApiError: 400 if such a field asks for something.
    """
    for name in [name for name in values if name not in used]:
        value = values[name]
        # Null is how a field is not given, whatever it would be.
        if value is None or (name in idle and idle[name](value)):
            del values[name]
        elif name in idle:
            raise bad_request(
                f"'{path}{name}' is not supported by this server: leave it out", path + name, "unsupported_value"
            )
