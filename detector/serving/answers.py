"""What the server answers: detections as JSON, in the COCO results format, or drawn into the image."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import HTTPException, Response
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image
from pydantic import Field

from detector.images.draw import draw_detections
from detector.inference.sinks import write_image
from detector.structures import BOX_DIGITS, SCORE_DIGITS, Detections

Format = Literal["json", "coco", "jpeg", "png"]
MEDIA_TYPES: dict[Format, str] = {
    "json": "application/json",
    "coco": "application/json",
    "jpeg": "image/jpeg",
    "png": "image/png",
}
MAX_JPEG_SIDE = 65_500  # pixels, of libjpeg

Box = Annotated[list[float], Field(min_length=4, max_length=4)]  # a tuple would be no valid OpenAPI


@dataclass(frozen=True)
class DetectedObject:
    """An object: its class, its score in 0..1, and its box as x1, y1, x2, y2 in pixels of the image."""

    name: str
    score: float
    box: Box


@dataclass(frozen=True)
class Answer:
    """What was found in an image of this size in pixels, best score first."""

    width: int
    height: int
    detections: list[DetectedObject]


@dataclass(frozen=True)
class CocoEntry:
    """An object in the COCO results format: `bbox` is x, y, width, height in pixels of the image."""

    image_id: int
    category_id: int
    bbox: Box
    score: float
    file_name: str
    category_name: str


@dataclass(frozen=True)
class ModelInfo:
    """The weights that are served, and their settings; `image_size` is height and width of the network input in pixels."""

    weights: str
    classes: list[str]
    category_ids: list[int]
    image_size: Annotated[list[int], Field(min_length=2, max_length=2)]
    conf: float
    iou: float
    max_detections: int
    max_batch_size: int
    device: str


@dataclass(frozen=True)
class Problem:
    """Why a request was refused, on one line."""

    error: str


@dataclass(frozen=True)
class Health:
    status: Literal["ok"]


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """In ASCII: a class name may hold what no encoding has."""
    return Response(json.dumps(value), status, headers, "application/json")


def format_for(accept: str) -> Format:
    """The format that the header Accept likes best; JSON where it names none of them."""
    qualities: dict[str, float] = {}
    for part in accept.split(","):
        media_type, *parameters = (each.strip().lower() for each in part.split(";"))
        quality = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        qualities[media_type] = float(quality) if quality.replace(".", "", 1).isdecimal() else 0.0
    named: list[Format] = ["json", "jpeg", "png"]
    best = max(named, key=lambda name: qualities.get(MEDIA_TYPES[name], 0.0))
    if qualities.get(MEDIA_TYPES[best], 0.0) > 0:
        return best
    return "jpeg" if qualities.get("image/*", 0.0) > qualities.get("*/*", 0.0) else "json"


def as_answer(detections: Detections, width: int, height: int) -> Answer:
    """What was found in an image of this size in pixels."""
    objects = [
        DetectedObject(name, round(score, SCORE_DIGITS), [round(side, BOX_DIGITS) for side in box])
        for name, score, box in detections
    ]
    return Answer(width, height, objects)


def draw(kind: Format, image: UInt8[ndarray, "height width 3"], detections: Detections) -> Response:
    """The detections drawn into their RGB image. Raises HTTPException 422 for an image that JPEG can't hold."""
    height, width = image.shape[:2]
    if kind == "jpeg" and max(width, height) > MAX_JPEG_SIDE:
        raise HTTPException(422, f"the image is {width} x {height} pixels, which JPEG can't hold; ask for format=png")
    file = io.BytesIO()
    write_image(file, Image.fromarray(draw_detections(image, detections)), "PNG" if kind == "png" else "JPEG")
    return Response(file.getvalue(), media_type=MEDIA_TYPES[kind])
