"""The application: paths, what its OpenAPI document says of them, who may use them, and errors as JSON."""

import hmac
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect

from detector.errors import DISTRIBUTION, DataError, printable
from detector.images.read import ImageTooLargeError
from detector.serving.answers import MEDIA_TYPES, Answer, CocoEntry, Health, ModelInfo, Problem, json_response
from detector.serving.images import FIELD
from detector.serving.metrics import Measured
from detector.serving.page import overview
from detector.serving.service import Service

IMAGE = {"schema": {"type": "string", "format": "binary"}}
PROBLEMS = {
    400: "No image in the form, or no URL in the JSON.",
    408: "The image did not come in time.",
    413: "Too many bytes or pixels.",
    415: "JSON, where URLs are off.",
    422: "No image that can be read, or a parameter without meaning.",
    429: "Too many requests in work; ask again after Retry-After seconds.",
    503: "The detections were not there in time; ask again after Retry-After seconds.",
}


def create_app(service: Service, token: str | None) -> Measured:
    """The ASGI application of these endpoints; /v1 and /metrics ask for the bearer token, if there is one."""
    app = FastAPI(title="detector serve", version=version(DISTRIBUTION), docs_url=None, redoc_url=None)
    guard = [] if token is None else [Depends(token_check(token))]
    denied = {} if token is None else documented({401: "The bearer token is missing or wrong."})
    found = {
        "description": "What was found.",
        "model": Answer | list[CocoEntry],
        "content": {MEDIA_TYPES[kind]: IMAGE for kind in ("jpeg", "png")},
    }

    def add(path: str, endpoint: Callable[..., Awaitable[Response]], summary: str, **options: Any) -> None:
        app.add_api_route(path, endpoint, summary=summary, **{"methods": ["GET"], **options})

    add(
        "/v1/detect",
        service.detect,
        "Detect objects in an image",
        methods=["POST"],
        responses={200: found, **documented(PROBLEMS), **denied},
        openapi_extra=accepted(service.config.allow_urls),
        dependencies=guard,
    )
    add(
        "/v1/model",
        service.model,
        "The weights and their classes",
        response_model=ModelInfo,
        responses=denied,
        dependencies=guard,
    )
    add("/healthz", service.health, "Whether the server runs", response_model=Health)
    metrics = {200: {"description": "Metrics in the format of Prometheus.", "content": {"text/plain": {}}}, **denied}
    add("/metrics", service.prometheus, "Metrics for Prometheus", responses=metrics, dependencies=guard)

    async def page(request: Request) -> Response:
        return HTMLResponse(overview(app.openapi(), Path(service.config.weights).name, str(request.base_url)))

    add("/", page, "This page", include_in_schema=False)
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return Measured(app, service.metrics, {route.path for route in app.routes})


def accepted(allow_urls: bool) -> dict[str, Any]:
    """What the OpenAPI document says of the body of /v1/detect."""
    form = {"type": "object", "required": [FIELD], "properties": {FIELD: IMAGE["schema"]}}
    url = {"type": "object", "required": ["url"], "properties": {"url": {"type": "string", "format": "uri"}}}
    content = {"image/*": IMAGE, "application/octet-stream": IMAGE, "multipart/form-data": {"schema": form}}
    if allow_urls:
        content["application/json"] = {"schema": url}
    text = f'The file of an image, or a form with it in the field "{FIELD}"{", or its URL" if allow_urls else ""}.'
    return {"requestBody": {"required": True, "description": text, "content": content}}


def documented(problems: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": text} for status, text in problems.items()}


def token_check(token: str) -> Callable[..., Awaitable[None]]:
    """A dependency that raises HTTPException 401 for a request without this bearer token."""
    scheme = HTTPBearer(auto_error=False)

    async def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(scheme)]) -> None:
        text = "" if given is None else given.credentials
        if not hmac.compare_digest(text.encode(), token.encode()):
            raise HTTPException(401, "the bearer token is missing or wrong", {"WWW-Authenticate": "Bearer"})

    return check


async def on_http_error(_: Request, error: AnyHTTPException) -> Response:
    return problem(error.status_code, str(error.detail), error.headers)


async def on_data_error(_: Request, error: DataError) -> Response:
    return problem(413 if isinstance(error, ImageTooLargeError) else 422, str(error))


async def on_invalid(_: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    return problem(422, f"{first['loc'][-1]}: {first['msg']}")


async def on_disconnect(_: Request, __: ClientDisconnect) -> Response:
    return problem(400, "the client went away")


async def on_bug(_: Request, __: Exception) -> Response:
    return problem(500, "an error of the server; its log shows it")


def problem(status: int, text: str, headers: Any = None) -> Response:
    return json_response({"error": printable(text)}, status, headers)


HANDLERS: dict[type[Exception], Callable[..., Awaitable[Response]]] = {
    AnyHTTPException: on_http_error,
    DataError: on_data_error,
    RequestValidationError: on_invalid,
    ClientDisconnect: on_disconnect,
    Exception: on_bug,
}
