"""The image of a request: its body, a file in a form, or what a URL names."""

import asyncio
import json
from typing import NamedTuple

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile

from detector.utils.http import fetch

FIELD = "file"
"""Name of a form's field with the image."""


class EncodedImage(NamedTuple):
    """The bytes of an image file and its name, empty where it has none."""

    content: bytes
    name: str = ""


async def read_encoded(request: Request, max_bytes: int, allow_urls: bool) -> EncodedImage:
    """The image that a request brings or names. Raises HTTPException 400, 413, 415 or DataError for one that has none."""
    body = await _read_body(request, max_bytes)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return await _from_form(request, body)
    if media_type == "application/json":
        if not allow_urls:
            raise HTTPException(415, "URLs are off here; send the image itself, or start detector serve --allow_urls")
        url = _url_in(body)
        content, _ = await asyncio.get_running_loop().run_in_executor(None, fetch, url)
        return EncodedImage(_within(content, max_bytes))
    return EncodedImage(body)


async def _read_body(request: Request, max_bytes: int) -> bytes:
    stated = request.headers.get("content-length", "0")
    if stated.isdecimal() and int(stated) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    async for part in request.stream():
        body += _within(part, max_bytes - len(body), max_bytes)
    return bytes(body)


def _within(content: bytes, room: int, limit: int | None = None) -> bytes:
    if len(content) > room:
        raise _too_large(room if limit is None else limit)
    return content


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"more than {max_bytes / 1e6:g} MB, the limit of this server (--max_mb)")


async def _from_form(request: Request, body: bytes) -> EncodedImage:
    """The only file of a form, whose body is whole."""

    async def replay() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    async with Request(request.scope, replay).form(max_files=1, max_fields=0) as form:
        file = form.get(FIELD)
        if not isinstance(file, UploadFile):
            raise HTTPException(400, f"the form has no file with the name {FIELD}")
        return EncodedImage(await file.read(), file.filename or "")


def _url_in(body: bytes) -> str:
    try:
        url = json.loads(body)["url"]
    except (ValueError, LookupError, TypeError, RecursionError):
        url = None
    if not isinstance(url, str) or not url.lower().startswith(("http://", "https://")):
        raise HTTPException(400, 'the JSON names no image; expected {"url": "https://…"}')
    return url
