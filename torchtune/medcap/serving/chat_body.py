"""The JSON of a chat completion request -> checked values, or one clear refusal that names the field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import from_json

from medcap.serving.api_error import bad_request
from medcap.serving.strict_model import StrictModel, refusal

# Brackets and commas of a body. Image data has none, so this bounds what the parser makes of a large body.
MAX_STRUCTURE = 200_000
MAX_STOP_TEXTS = 4
MAX_STOP_CHARACTERS = 200

# OpenAI's fields for what is not done here -> the values that ask for nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
# Fields that never change an answer.
_WITHOUT_EFFECT = ("metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user")
_NEUTRAL_OF_MESSAGE: dict[str, tuple[Any, ...]] = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "name": (),
    "refusal": (),
    "tool_calls": ([],),
}


class ImageUrl(StrictModel):
    """Where an image is; ``detail`` is accepted and changes nothing, every image has the tower's size."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class Part(StrictModel):
    """A piece of a message."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _as_list(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else [] if stop is None else stop


class ChatMessage(StrictModel):
    """A turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[Part], BeforeValidator(_as_parts)]


class StreamOptions(StrictModel):
    """How a stream ends; ``include_obfuscation`` asks for padding that is not sent here."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatBody(StrictModel):
    """A chat completion request; fields as OpenAI has them, and ``top_k``."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]],
        BeforeValidator(_as_list),
        Field(max_length=MAX_STOP_TEXTS, default_factory=list),
    ]
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def wanted_tokens(self) -> int | None:
        """Most tokens of the answer; the newer of OpenAI's two names goes first."""
        return self.max_completion_tokens or self.max_tokens


def read_chat_body(data: bytes | bytearray, max_messages: int) -> ChatBody:
    """Parse and check a request.

    Args:
        data: the whole body.
        max_messages: most turns.

    Returns:
        The request; its images and words are not looked at yet.

    Raises:
        ApiError: 400 that names the field.
    """
    if sum(map(data.count, (b"[", b"{", b","))) > MAX_STRUCTURE:
        raise bad_request("the body holds too many values", code="too_many_values")
    try:
        values = from_json(data, allow_inf_nan=False)
    except ValueError:
        raise bad_request("the body is not valid JSON", code="invalid_json") from None
    if not isinstance(values, dict):
        raise bad_request("the body must be a JSON object", code="invalid_json")
    _refuse_unsupported(values, _NEUTRAL)
    for name in _WITHOUT_EFFECT:
        values.pop(name, None)
    messages = values.get("messages")
    if isinstance(messages, list):
        if len(messages) > max_messages:
            raise bad_request(f"there are {len(messages)} messages; at most {max_messages} are taken", "messages")
        for place, message in enumerate(messages):
            if isinstance(message, dict):
                _refuse_unsupported(message, _NEUTRAL_OF_MESSAGE, f"messages.{place}.")
    try:
        return ChatBody.model_validate(values)
    except ValidationError as error:
        raise refusal(error) from None


def _refuse_unsupported(values: dict[str, Any], neutral: Mapping[str, Sequence[Any]], place: str = "") -> None:
    for name in neutral.keys() & values.keys():
        value = values.pop(name)
        if value is not None and value not in neutral[name]:
            raise bad_request(
                f"'{place}{name}' is not supported by this server: leave it out", place + name, "unsupported_value"
            )
