"""The JSON of a chat completion request -> checked values, or one clear refusal that names the field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError, from_json

from medcap.serving.api.api_error import bad_request
from medcap.serving.api.idle_fields import OF_MESSAGE, OF_PART, OF_REQUEST, drop_idle
from medcap.serving.api.strict_model import StrictModel, refusal

# Brackets and commas of a body. Image data has none, so this bounds the objects that the parser creates for a large
# body.
MAX_STRUCTURE = 200_000
MAX_STOP_TEXTS = 4
MAX_WITHOUT = 8
MAX_STOP_CHARACTERS = 200
SYSTEM = ("system", "developer")


def _as_parts(content: Any) -> Any:
    if not isinstance(content, str | list):
        raise PydanticCustomError("content", "it must be text or a list of parts")
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _as_object(image_url: Any) -> Any:
    if not isinstance(image_url, str | dict | None):
        raise PydanticCustomError("image_url", 'it must be an object like {"url": "data:image/png;base64,..."}')
    return {"url": image_url} if isinstance(image_url, str) else image_url


def _as_list(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else [] if stop is None else stop


class ImageUrl(StrictModel):
    """Where an image is; ``detail`` is accepted and changes nothing, every image has the tower's size."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ViewFields(StrictModel):
    """How an image is looked at, as the rows of a data file say it: ours, beside OpenAI's fields."""

    frames: Any = None
    axis: Any = None
    window: Any = None
    fit: Any = None


class Part(StrictModel):
    """A piece of a message; an image may be given as its URL alone, as older clients do.

    ``view`` is ours; an image of several frames takes the place of as many images.
    """

    type: Literal["text", "image_url", "refusal"]
    text: str | None = None
    image_url: Annotated[ImageUrl | None, BeforeValidator(_as_object)] = None
    view: ViewFields | None = None
    refusal: str | None = None

    @property
    def words(self) -> str:
        """The words; none of an image."""
        return self.text or self.refusal or ""


class ChatMessage(StrictModel):
    """A turn; a refusal is what an assistant said instead of an answer.

    ``regions`` is ours: those that ``<region></region>`` in the user's words stands for.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[Part], BeforeValidator(_as_parts)]
    refusal: str | None = None
    regions: list[Any] | None = None

    @property
    def images(self) -> list[Part]:
        """The parts that are images."""
        return [part for part in self.content if part.type == "image_url"]

    @property
    def words(self) -> str:
        """All words; a line break stands between those of two parts."""
        words = ""
        for part in self.content:
            between = "\n" if words and part.words and words[-1] != "\n" != part.words[0] else ""
            words += between + part.words
        return words or self.refusal or ""


class StreamOptions(StrictModel):
    """How a stream ends; ``include_obfuscation`` asks for padding that is not sent here."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatBody(StrictModel):
    """A chat completion request; fields as OpenAI has them, ``top_k``, and ``without``, components to leave out."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]],
        BeforeValidator(_as_list),
        Field(max_length=MAX_STOP_TEXTS, default_factory=list),
    ]
    without: Annotated[list[str], BeforeValidator(_as_list), Field(max_length=MAX_WITHOUT, default_factory=list)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def turns(self) -> list[tuple[int, ChatMessage]]:
        """The messages with their indices; an empty system text is none."""
        turns = enumerate(self.messages)
        return [(index, turn) for index, turn in turns if turn.role not in SYSTEM or turn.words.strip()]

    @property
    def prefix(self) -> str:
        """What the assistant has said already of the answer: the words of a last message that is the assistant's."""
        last = [turn for _, turn in self.turns][-1:]
        return last[0].words if last and last[0].role == "assistant" else ""

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
        raise bad_request("the body is not valid JSON in UTF-8", code="invalid_json") from None
    if not isinstance(values, dict):
        raise bad_request("the body must be a JSON object", code="invalid_json")
    _drop_idle_fields(values, max_messages)
    try:
        return ChatBody.model_validate(values)
    except ValidationError as error:
        raise refusal(error) from None


def _drop_idle_fields(values: dict[str, Any], max_messages: int) -> None:
    messages = values.get("messages")
    if isinstance(messages, list):
        if len(messages) > max_messages:
            raise bad_request(f"there are {len(messages)} messages; at most {max_messages} are taken", "messages")
        for position, message in enumerate(messages):
            if isinstance(message, dict):
                _drop_of_message(message, f"messages.{position}.")
        _drop_of_prefill(values, messages)
    drop_idle(values, OF_REQUEST, ChatBody.model_fields, "")


def _drop_of_message(message: dict[str, Any], position: str) -> None:
    drop_idle(message, OF_MESSAGE, ChatMessage.model_fields, position)
    content = message.get("content")
    for number, part in enumerate(content if isinstance(content, list) else []):
        if isinstance(part, dict):
            drop_idle(part, OF_PART, Part.model_fields, f"{position}content.{number}.")
            if isinstance(part.get("image_url"), dict):
                drop_idle(part["image_url"], {}, ImageUrl.model_fields, f"{position}content.{number}.image_url.")
    if message.get("role") != "user" and content is None:
        # An answer without words, such as one that a stop text ended at once, is sent back so.
        message["content"] = []


def _drop_of_prefill(values: dict[str, Any], messages: list[Any]) -> None:
    """Remove vLLM's fields for continuing the last message, where that is what is done here."""
    if messages and isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
        for name, value in (("continue_final_message", True), ("add_generation_prompt", False)):
            if values.get(name) is value:
                del values[name]
