"""``medcap serve RUN``: serve trained runs with OpenAI's chat interface."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from medcap.commands.arguments import (
    add_cuda_graphs,
    add_without,
    model_overrides,
    positive,
    refuse_options_as_keys,
    take_mask_from_boxes,
)
from medcap.errors import UserError

if TYPE_CHECKING:
    from starlette.routing import Route

    from medcap.serving.routes import Keys
    from medcap.serving.service import Service

HELP = "answer OpenAI clients with trained runs"
KEY_VARIABLE = "MEDCAP_API_KEY"
_MEGABYTE = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap serve``.
    """
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="output_dir of a training run; key=value changes a model key for all, mask_from_boxes=FOLDER has a SAM"
        " outline the boxes of answers",
    )
    parser.set_defaults(overrides=[])
    add_without(parser)
    add_cuda_graphs(parser)
    parser.add_argument("--name", action="append", default=[], help="model id, once for each run (its folder's name)")
    add_server_arguments(parser)


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what every server has: address, keys and limits.

    Args:
        parser: parser of the command.
    """
    address = parser.add_argument_group("address and keys")
    address.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)")
    address.add_argument("--port", type=_port, default=8000, help="port; 0 takes a free one (8000)")
    address.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that clients call this server by, once for each; on loopback its own names are allowed anyway",
    )
    address.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help=f"keys, one a line; or one key in the variable {KEY_VARIABLE}"
    )
    address.add_argument("--api-key", metavar="KEY", help="a key; other users of this machine can see it in ps")
    address.add_argument("--no-key", action="store_true", help="listen beyond this machine without a key")

    limits = parser.add_argument_group("limits")
    for name, default, purpose in (
        ("--max-rows", 16, "answers that one language model decodes together"),
        ("--max-queue", 64, "requests that wait beyond those; the next is answered 429"),
        ("--max-seq-len", 2048, "tokens of a conversation and its answer, at most the model's own limit"),
        ("--max-new-tokens", 512, "tokens of an answer, asked for or not"),
        ("--max-body-mb", 32, "size of one request, MiB"),
        ("--max-bodies-mb", 256, "size of all requests that are read at one moment, MiB"),
        ("--max-pixels", 32_000_000, "width x height of an image"),
        ("--max-images", 8, "images of one request"),
        ("--max-messages", 64, "messages of one request"),
        ("--max-regions", 16, "regions of one request"),
        ("--max-connections", 1024, "connected clients"),
    ):
        kind = _not_negative if name == "--max-queue" else positive
        limits.add_argument(name, type=kind, default=default, metavar="N", help=f"{purpose} ({default})")
    for name, default, purpose in (
        ("--timeout", 120, "seconds from a request's arrival to the end of its answer"),
        ("--read-timeout", 30, "seconds within which a request's head, then its body, must come"),
        ("--send-timeout", 30, "seconds within which a client must take what it is sent"),
        ("--grace", 30, "seconds that begun requests have after SIGTERM or SIGINT"),
    ):
        limits.add_argument(name, type=positive, default=default, metavar="SECONDS", help=f"{purpose} ({default})")


def run(options: argparse.Namespace, page: Callable[[Service, Keys], list[Route]] | None = None) -> None:
    """Load the runs, then answer until a signal comes.

    Args:
        options: see :func:`add_arguments`.
        page: returns the endpoints of a page that is served too.

    Raises:
        UserError: if a run, the address or a key cannot be used; before weights are loaded, if possible.
    """
    keys = read_keys(options)
    check_installed()
    from medcap.serving.app import create_app
    from medcap.serving.limits import Limits
    from medcap.serving.middleware import LOOPBACK_NAMES
    from medcap.serving.routes import Keys
    from medcap.serving.server import BACKLOG, Server, bind, raise_file_limit
    from medcap.serving.service import load_service

    limits = Limits(
        max_rows=options.max_rows,
        max_queue=options.max_queue,
        max_seq_len=options.max_seq_len,
        max_new_tokens=options.max_new_tokens,
        max_body_bytes=options.max_body_mb * _MEGABYTE,
        max_total_body_bytes=max(options.max_bodies_mb, options.max_body_mb) * _MEGABYTE,
        max_pixels=options.max_pixels,
        max_images=options.max_images,
        max_messages=options.max_messages,
        max_regions=options.max_regions,
        timeout=options.timeout,
        read_timeout=options.read_timeout,
        send_timeout=options.send_timeout,
        max_connections=options.max_connections,
    )
    taken = bind(options.host, options.port)
    is_local = is_loopback(taken.getsockname()[0])
    if not is_local and not keys and not options.no_key:
        raise UserError(
            f"--host {options.host} is reached from other machines: set a key with --api-key-file or {KEY_VARIABLE},"
            " or say --no-key"
        )
    _start_log()
    raise_file_limit(limits)
    runs = [word for word in options.runs if "=" not in word or Path(word).exists()]
    overrides = [*model_overrides(options), *(word for word in options.runs if word not in runs)]
    refuse_options_as_keys(overrides, options)
    if not runs:
        raise UserError("name the output_dir of at least one training run")
    overrides, sam = take_mask_from_boxes(overrides)
    service = load_service(runs, limits, overrides, options.name, sam, options.cuda_graphs)
    service.warm_up()
    names = [*LOOPBACK_NAMES, options.host, *options.allowed_host]
    routes = page(service, Keys(keys)) if page is not None else ()
    app = create_app(service, keys, names if is_local or options.allowed_host else None, routes)
    # A client that reads that the server is ready may connect at once.
    taken.listen(BACKLOG)
    host, port = taken.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    print(f"serving {', '.join(service.runs)} at {address}v1", flush=True)
    if page is not None:
        print(f"open {address} in a browser", flush=True)
    print("a key is needed" if keys else "no key is needed", "and every request is one line of this log", flush=True)
    Server(app, service, options.grace).run([taken])


def read_keys(options: argparse.Namespace) -> list[str]:
    """Collect the API keys of the command line, the file and the environment.

    Args:
        options: see :func:`add_server_arguments`.

    Returns:
        The keys.

    Raises:
        UserError: if the file cannot be read or holds none, or a key is empty or cannot be in a header.
    """
    keys = [key for key in (options.api_key, os.environ.get(KEY_VARIABLE)) if key is not None]
    if options.api_key_file is not None:
        try:
            lines = options.api_key_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--api-key-file {options.api_key_file} cannot be read: {error}") from error
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise UserError(f"--api-key-file {options.api_key_file} holds no key: write one a line")
        keys += found
    for key in keys:
        if not key.strip() or not key.isascii() or not key.isprintable():
            raise UserError(f"an API key ({KEY_VARIABLE}, --api-key) must be printable ASCII and not empty")
    return [key.strip() for key in keys]


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach an address."""
    return address == "::1" or address.startswith("127.")


def check_installed() -> None:
    """Raise UserError if a package of the extra ``serve`` is missing."""
    try:
        import prometheus_client  # noqa: F401
        import pydantic  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"the server needs {error.name}: pip install 'medcap[serve]'") from error


def _start_log() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    for name in ("uvicorn", "PIL", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 0 to 65535")
    return int(text)


def _not_negative(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)
