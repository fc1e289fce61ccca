"""The image of a request: its body, a file in a form, or what a URL names."""

import asyncio
import json
from typing import NamedTuple

from fastapi import HTTPException, Request
from python_multipart.multipart import File, create_form_parser

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
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return _from_form(content_type, body)
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


def _from_form(content_type: str, body: bytes) -> EncodedImage:
    """The first file of that name in a form; nothing is written to a disk."""
    files: list[File] = []
    options = {"MAX_MEMORY_FILE_SIZE": len(body)}
    try:
        headers = {"Content-Type": content_type.encode("latin-1")}
        parser = create_form_parser(headers, lambda _: None, files.append, config=options)
        parser.write(body)
        parser.finalize()
    except ValueError as error:
        raise HTTPException(400, f"the form can't be read: {error}") from error
    file = next((each for each in files if each.field_name == FIELD.encode()), None)
    if file is None:
        raise HTTPException(400, f"the form has no file with the name {FIELD}")
    file.file_object.seek(0)
    return EncodedImage(file.file_object.read(), (file.file_name or b"").decode(errors="replace"))


def _url_in(body: bytes) -> str:
    try:
        url = json.loads(body)["url"]
    except (ValueError, LookupError, TypeError, RecursionError):
        url = None
    if not isinstance(url, str) or not url.lower().startswith(("http://", "https://")):
        raise HTTPException(400, 'the JSON names no image; expected {"url": "https://…"}')
    return url
