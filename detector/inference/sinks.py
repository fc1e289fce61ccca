"""Where detections go, one image after the other: JSON, CSV, crops. Files stand under their name only when whole."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from math import ceil, floor
from pathlib import Path
from typing import Any, Literal, TextIO

from PIL import Image

from detector.errors import printable
from detector.inference.streaming import StreamResult
from detector.structures import Categories, Detections
from detector.utils.fileio import atomic_path, atomic_write, writing

ImageKind = Literal["PNG", "JPEG"]
Write = Callable[[Sequence[Mapping[str, Any]]], None]
COLUMNS = (
    "image_id",
    "file_name",
    "frame",
    "time",
    "category_id",
    "category_name",
    "score",
    "x",
    "y",
    "width",
    "height",
)


def entries(result: StreamResult, image_id: int, categories: Categories) -> list[dict[str, Any]]:
    """What was found, in the COCO results format with `file_name` and `category_name`; of a video, too, `frame`, counted
    from 0, and `time` in seconds since the first. categories: see `Detections.to_coco`."""
    place: dict[str, Any] = {"file_name": result.source.name}
    if result.source.kind == "video":
        place |= {"frame": result.frame, "time": round(result.time, 4)}
    return image_entries(place, result.detections, image_id, categories)


def image_entries(
    place: Mapping[str, Any], detections: Detections, image_id: int, categories: Categories
) -> list[dict[str, Any]]:
    """The same of what was found at this place."""
    found = zip(detections.to_coco(image_id, categories), detections.names, strict=True)
    return [{**entry, **place, "category_name": name} for entry, name in found]


@contextmanager
def json_writer(path: Path) -> Iterator[Write]:
    """A function that appends entries to a JSON list, a line each; the file is there when the block ends well."""
    with _text_file(path) as file:
        separator = "[\n"

        def write(entries: Sequence[Mapping[str, Any]]) -> None:
            nonlocal separator
            with writing(path):
                for entry in entries:
                    file.write(separator + json.dumps(entry))
                    separator = ",\n"

        yield write
        with writing(path):
            file.write("\n]\n" if separator == ",\n" else "[]\n")


@contextmanager
def csv_writer(path: Path) -> Iterator[Write]:
    """The same for a CSV file of `COLUMNS`, boxes in pixels of the image; frame and time are empty for images."""
    with _text_file(path) as file:
        rows = csv.DictWriter(file, COLUMNS, extrasaction="ignore")

        def write(entries: Sequence[Mapping[str, Any]]) -> None:
            with writing(path):
                for entry in entries:
                    texts = {name: _inert(entry[name]) for name in ("file_name", "category_name")}
                    box = dict(zip(("x", "y", "width", "height"), entry["bbox"], strict=True))
                    rows.writerow({**entry, **texts, **box})

        with writing(path):
            rows.writeheader()
        yield write


def _inert(cell: str) -> str:
    """A printable text; one that a spreadsheet would run as a formula behind an apostrophe, as OWASP advises."""
    return printable(f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else cell)


@contextmanager
def _text_file(path: Path) -> Iterator[TextIO]:
    with atomic_path(path) as temporary:
        # names of files may be no text: what is none becomes \udc80 and the like, as in JSON
        file = temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        try:
            yield file
        finally:
            with writing(path):  # what is still in memory is written now
                file.close()


def save_crops(folder: Path, name: Path, result: StreamResult) -> None:
    """Each detection cut out, as folder/CLASS/NAME_1.jpg and so on, best first, NAME_000000_1.jpg in a video's frame 0."""
    height, width = result.image.shape[:2]
    frame = f"_{result.frame:06d}" if result.source.kind == "video" else ""
    found = zip(result.detections.boxes.tolist(), result.detections.names, strict=True)
    for number, (box, category) in enumerate(found, start=1):
        left, top = min(floor(box[0]), width - 1), min(floor(box[1]), height - 1)
        right, bottom = max(ceil(box[2]), left + 1), max(ceil(box[3]), top + 1)
        place = folder / re.sub(r"[^\w .-]|^\.+", "_", category) / name.parent / f"{name.name}{frame}_{number}.jpg"
        save_image(place, Image.fromarray(result.image[top:bottom, left:right]))


def save_image(path: Path, image: Image.Image) -> None:
    """Write an image as PNG or JPEG, by its suffix."""
    kind: ImageKind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    atomic_write(path, lambda temporary: write_image(temporary, image, kind))


def write_image(file: Path | BytesIO, image: Image.Image, kind: ImageKind) -> None:
    """Encode an image as PNG, or as JPEG of good quality."""
    options = {} if kind == "PNG" else {"quality": 95}
    image.save(file, format=kind, **options)
