"""The page that a browser is shown, and what it asks besides the chat interface."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from PIL import Image
from pydantic import Field, ValidationError, field_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from medcap.data.boxes.box import Box
from medcap.data.images.reader import ImageReader
from medcap.data.images.suffixes import is_image_file
from medcap.errors import UserError
from medcap.generation.typed_boxes import place_boxes
from medcap.serving.api.api_error import ApiError, bad_request, one_line
from medcap.serving.api.conversation_reader import decode_picture
from medcap.serving.api.strict_model import StrictModel, refusal
from medcap.serving.body import body_of
from medcap.serving.completion import while_connected
from medcap.serving.routes import Keys, find_run
from medcap.serving.service import ServedRun, Service
from medcap.serving.web.slices import slices
from medcap.serving.web.votes import VoteLog

MAX_EXAMPLES = 24
# Nothing that a person could look at is larger.
MAX_PREVIEW = 1536
_THUMBNAIL = 120
_MEDIA_TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript"}
# Everything from here, and pictures that the page makes itself.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
    " connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)

ModelName = Annotated[str, Field(max_length=300)]
Share = Annotated[float, Field(ge=0, le=1)]
Checked = TypeVar("Checked", bound=StrictModel)


class VotedImage(StrictModel):
    """An image that was asked about."""

    name: str = Field(max_length=300)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    view: str = Field("", max_length=1_000)


class Vote(StrictModel):
    """What somebody thought of one answer, or of several side by side.

    ``vote`` "up" and "down" are about the answer of ``model``; "best" says that ``model`` was better than the others,
    or that they were "equal", or "none" was good.
    """

    vote: Literal["up", "down", "best"]
    model: ModelName
    question: str = Field(max_length=100_000)
    images: list[VotedImage] = Field(max_length=100)
    turn: int = Field(ge=1)
    answers: dict[ModelName, Annotated[str, Field(max_length=100_000)]] = Field(max_length=100)
    settings: dict[str, str | float | int | None] = Field(max_length=20)


class BoxedText(StrictModel):
    """An answer of a run, and the size in pixels of the image that it is about."""

    model: ModelName
    text: str = Field(max_length=100_000)
    width: int = Field(ge=1, le=1_000_000)
    height: int = Field(ge=1, le=1_000_000)


class DrawnBox(StrictModel):
    """A box in shares of an image, and the size of that in pixels."""

    box: tuple[Share, Share, Share, Share]
    width: int = Field(ge=1, le=1_000_000)
    height: int = Field(ge=1, le=1_000_000)

    @field_validator("box")
    @classmethod
    def _has_area(cls, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        if box[0] >= box[2] or box[1] >= box[3]:
            raise ValueError("it has no area")
        return box


class BoxedQuestion(StrictModel):
    """A question that names boxes, to be written for each of some runs."""

    models: list[ModelName] = Field(max_length=100)
    text: str = Field(max_length=100_000)
    boxes: list[DrawnBox] = Field(max_length=100)


def find_examples(path: Path) -> list[Path]:
    """Return the images of a folder that visitors may try.

    Args:
        path: the folder.

    Returns:
        The first ones by name.

    Raises:
        UserError: if it holds none.
    """
    if not path.is_dir():
        raise UserError(f"--examples {path}: there is no such folder")
    found = sorted(item for item in path.iterdir() if item.is_file() and is_image_file(str(item)))
    if not found:
        raise UserError(f"--examples {path}: the folder holds no image")
    return found[:MAX_EXAMPLES]


def page_routes(service: Service, keys: Keys, votes: VoteLog, examples: Sequence[Path] = ()) -> list[Route]:
    """All endpoints of the page.

    The page itself needs no key, it holds nothing; what it asks for needs one.

    Args:
        service: has the runs and the limits.
        keys: keys to check.
        votes: where votes go.
        examples: images that visitors may try; requests name them by number only.

    Returns:
        The routes, for ``create_app``.

    Raises:
        UserError: if an example cannot be read.
    """
    reader = ImageReader([], max_pixels=service.limits.max_pixels, max_bytes=service.limits.max_body_bytes)
    thumbnails = [_thumbnail(path, service) for path in examples]

    async def settings(request: Request) -> Response:
        keys.check(request)
        limits = service.limits
        return JSONResponse(
            {
                "models": list(service.runs),
                "reads_regions": [name for name, run in service.runs.items() if run.reads_regions],
                "examples": [path.name for path in examples],
                "max_new_tokens": limits.max_new_tokens,
                "max_images": limits.max_images,
            }
        )

    async def example(request: Request) -> Response:
        keys.check(request)
        path = _numbered(request, examples)
        try:
            data = await asyncio.to_thread(path.read_bytes)
        except OSError:
            raise ApiError(404, "this example is not there any more", "not_found") from None
        return Response(data, media_type="application/octet-stream")

    async def thumbnail(request: Request) -> Response:
        keys.check(request)
        return Response(_numbered(request, thumbnails), media_type="image/png")

    def preview(data: bytes, request: Request) -> Response:
        picture = decode_picture(reader, data, "image", request.state.request_id)
        width, height = picture.size
        headers = {
            "x-image-has-slices": str(int(reader.has_greys_of_its_own(data))),
            "x-image-width": str(width),
            "x-image-height": str(height),
            "x-image-sha256": hashlib.sha256(data).hexdigest(),
        }
        return Response(_png(picture, MAX_PREVIEW), media_type="image/png", headers=headers)

    def show_slices(data: bytes, request: Request) -> Response:
        return JSONResponse(slices(reader, data, request.query_params, request.state.request_id))

    def take_vote(data: bytes, request: Request) -> Response:
        if not votes.add(_checked(Vote, data).model_dump(exclude_unset=True)):
            raise ApiError(507, "the log of votes is full", "votes_full")
        return Response(status_code=204)

    def regions(data: bytes, request: Request) -> Response:
        asked = _checked(BoxedText, data)
        style = find_run(service, asked.model).generator.box_style
        found = style.find(asked.text, (asked.width, asked.height))
        return JSONResponse({"regions": [{"box": box.edges, "label": box.label} for box in found]})

    def boxes(data: bytes, request: Request) -> Response:
        asked = _checked(BoxedQuestion, data)
        return JSONResponse({"words": {name: _boxed(asked, find_run(service, name)) for name in asked.models}})

    names = sorted(file.name for file in files("medcap.serving").joinpath("page").iterdir())
    pages = [Route(f"/page/{name}", _constant(name)) for name in names if Path(name).suffix in (".css", ".js")]
    posted = {"preview": preview, "slices": show_slices, "votes": take_vote, "regions": regions, "boxes": boxes}
    return [
        Route("/", _constant("index.html")),
        *pages,
        Route("/page/settings", settings),
        Route("/page/examples/{number:int}", example),
        Route("/page/examples/{number:int}/thumbnail", thumbnail),
        *(Route(f"/page/{name}", _Posted(service, keys, work), methods=["POST"]) for name, work in posted.items()),
    ]


class _Posted:
    """An endpoint that works on a body in a thread.

    Args:
        service: counts and bounds bodies.
        keys: keys to check.
        work: the body and its request -> the reply.
    """

    def __init__(self, service: Service, keys: Keys, work: Callable[[bytes, Request], Response]) -> None:
        self._service = service
        self._keys = keys
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        request = Request(scope)
        self._keys.check(request)
        async with body_of(scope, receive, self._service) as data:
            with self._service.admitted():
                reply = await while_connected(receive, self._reply(bytes(data), request))
        await reply(scope, receive, send)

    async def _reply(self, data: bytes, request: Request) -> Response:
        threads = self._service.threads
        return await asyncio.get_running_loop().run_in_executor(threads, self._work, data, request)


def _boxed(asked: BoxedQuestion, run: ServedRun) -> str:
    """Write a question with its boxes as a run reads boxes."""
    written = [run.generator.box_style.write(Box(drawn.box), (drawn.width, drawn.height)) for drawn in asked.boxes]
    if "" in written:
        number = written.index("") + 1
        name = one_line(run.name, 100)
        raise bad_request(
            f"{name} is not shown the part of the image that box {number} is on: its tower cuts it off", "boxes"
        )
    try:
        return place_boxes(asked.text, written)
    except UserError as error:
        raise bad_request(str(error), "text") from None


def _constant(name: str) -> Callable[[Request], Awaitable[Response]]:
    """Return a file of the page, read once."""
    content = files("medcap.serving").joinpath("page", name).read_bytes()
    headers = {"content-security-policy": _POLICY, "cache-control": "no-cache"}

    async def endpoint(request: Request) -> Response:
        return Response(content, media_type=_MEDIA_TYPES[Path(name).suffix], headers=headers)

    return endpoint


def _numbered(request: Request, items: Sequence[Any]) -> Any:
    number = request.path_params["number"]
    if not 0 <= number < len(items):
        raise ApiError(404, "there is no such example", "not_found")
    return items[number]


def _checked(kind: type[Checked], data: bytes) -> Checked:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise refusal(error) from None


def _thumbnail(path: Path, service: Service) -> bytes:
    reader = ImageReader([path.parent], service.limits.max_pixels, service.limits.max_body_bytes)
    return _png(reader.open(reader.resolve(path.name)), _THUMBNAIL)


def _png(picture: Image.Image, longest: int) -> bytes:
    picture.thumbnail((longest, longest))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
