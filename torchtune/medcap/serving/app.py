"""The application: endpoints, what surrounds them, and further routes of a caller."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from medcap.serving.api.api_error import ApiError
from medcap.serving.body import FinishBodies
from medcap.serving.middleware import Envelope, OwnNamesOnly
from medcap.serving.routes import Keys, api_routes, on_api_error, on_http_error
from medcap.serving.service import Service


def create_app(
    service: Service,
    keys: Sequence[str] = (),
    allowed_hosts: Iterable[str] | None = None,
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """Put a server together.

    Args:
        service: answers; it is closed when the application ends.
        keys: API keys; none, if no key is needed.
        allowed_hosts: names of this server, without ports; None for any.
        routes: further ones, such as a page (``Route``) or a folder of static files (``Mount``). They need no key, and
            get the headers of all others; one that needs another Content-Security-Policy sets its own.

    Returns:
        The application; it has no pages that describe it, and names no other site.

    Example:
        >>> app = create_app(service, routes=[Route("/", page), Mount("/static", StaticFiles(directory=folder))])
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = Starlette(
        routes=[*api_routes(service, Keys(keys)), *routes],
        middleware=[
            Middleware(Envelope, metrics=service.metrics),
            Middleware(FinishBodies),
            Middleware(OwnNamesOnly, names=allowed_hosts),
        ],
        exception_handlers={ApiError: on_api_error, HTTPException: on_http_error},
        lifespan=lifespan,
    )
    # A redirection would repeat the name that the client called us by.
    app.router.redirect_slashes = False
    return app
