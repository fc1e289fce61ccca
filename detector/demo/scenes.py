"""Draws a small COCO-format dataset: five kinds of things on cluttered backgrounds, everything from one seed.

Shapes are given in their own unit square (x right, y down, both -0.5..0.5), as polygons painted one over the other.
They are drawn `FINE` times too large and averaged down, so edges are smooth and boxes are exact to 1/FINE pixel.
"""

import colorsys
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import cos, pi, radians, sin
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8
from numpy.random import Generator

from detector.demo.shapes import CATEGORIES, DISTRACTORS, Part
from detector.errors import DataError

DESCRIPTION = "Detector demo: drawn scenes"
FINE = 3  # drawn pixels per image pixel, along each axis
IMAGE_SIZES = ((320, 240), (240, 320), (288, 288), (320, 208), (224, 304))  # width, height
OBJECT_SIZES = ((0.105, 0.14), (0.15, 0.26), (0.28, 0.42))  # small, medium, large: parts of the image's longest side
TINY_SIZE = 13.0  # pixels, the members of a crowd
MIN_VISIBLE = 0.55  # part of an object that the ones before it must leave in sight

Canvas = Float32[np.ndarray, "height width 3"]  # RGB, 0..255
FIXED_COLORS = {"white": (244, 240, 228), "dark": (42, 38, 44), "wood": (134, 92, 58), "glass": (168, 208, 226)}


@dataclass(frozen=True)
class Drawn:
    """One drawn thing, cut out tightly: color 0..255, alpha 0..1, and its mask at FINE times the resolution."""

    color: Float32[np.ndarray, "height width 3"]
    alpha: Float32[np.ndarray, "height width"]
    fine_mask: UInt8[np.ndarray, "fine_height fine_width"]

    @property
    def mask(self) -> Bool[np.ndarray, "height width"]:
        return self.alpha > 0.5


@dataclass
class Scene:
    """An image in the making. owner: 0 nothing, -1 the place of a crowd, k the k-th object (the nearest one there)."""

    canvas: Canvas
    owner: Int32[np.ndarray, "height width"]
    areas: list[int] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)


def _color(rng: Generator, saturation: tuple[float, float], value: tuple[float, float]) -> tuple[float, float, float]:
    """A random RGB color, 0..255, of any hue."""
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return 255 * red, 255 * green, 255 * blue


def _draw(rng: Generator, parts: Sequence[Part], size: float, tilt: float = 15) -> Drawn:
    """Draws a thing whose unit square becomes `size` pixels: random colors, mirroring, stretch and tilt (degrees)."""
    vivid, pale = _color(rng, (0.55, 0.95), (0.6, 1.0)), _color(rng, (0.25, 0.7), (0.75, 1.0))
    colors = {**FIXED_COLORS, "main": vivid, "second": pale}
    angle, stretch = radians(rng.uniform(-tilt, tilt)), rng.uniform(0.9, 1.1)
    flip = rng.choice((-1, 1))
    turn = np.array(
        [[flip * stretch * cos(angle), -sin(angle) / stretch], [flip * stretch * sin(angle), cos(angle) / stretch]]
    )
    side = FINE * int(size * 1.5 + 4)
    color = np.zeros((side, side, 3), np.float32)
    fine_mask = np.zeros((side, side), np.uint8)
    pen = max(2, round(0.025 * size * FINE))
    for role, points in parts:
        corners = ((np.array(points) @ turn.T * size * FINE + side / 2) * 16).round().astype(np.int32)
        line = [0.4 * channel for channel in colors[role]]
        for target, fill, edge in ((color, colors[role], line), (fine_mask, (1.0,), (1.0,))):
            cv2.fillPoly(target, [corners], fill, shift=4)
            cv2.polylines(target, [corners], True, edge, pen, shift=4)
    light = np.linspace(1.12, 0.82, side, dtype=np.float32)[:, None, None]
    rows, columns = np.flatnonzero(fine_mask.any(1)), np.flatnonzero(fine_mask.any(0))
    box = tuple(slice(used[0] // FINE * FINE, (used[-1] // FINE + 1) * FINE) for used in (rows, columns))
    color, fine_mask = (color * light)[box], fine_mask[box]
    small = (fine_mask.shape[1] // FINE, fine_mask.shape[0] // FINE)
    alpha = cv2.resize(fine_mask.astype(np.float32), small, interpolation=cv2.INTER_AREA)
    summed = cv2.resize(color, small, interpolation=cv2.INTER_AREA)
    mean = (summed / np.maximum(alpha, 1e-3)[..., None]).clip(0, 255)
    return Drawn(mean.astype(np.float32), alpha.astype(np.float32), fine_mask)


def _paste(canvas: Canvas, drawn: Drawn, x: int, y: int) -> None:
    """Paints a thing with a soft shadow, its top left corner at pixel (x, y)."""
    height, width = drawn.alpha.shape
    reach = 2 + width // 20
    shadow = np.zeros(canvas.shape[:2], np.float32)
    below = shadow[y + reach : y + reach + height, x + reach : x + reach + width]
    below[:] = drawn.alpha[: below.shape[0], : below.shape[1]]
    canvas *= 1 - 0.35 * cv2.GaussianBlur(shadow, (0, 0), reach / 2 + 0.5)[..., None]
    place = canvas[y : y + height, x : x + width]
    place += drawn.alpha[..., None] * (drawn.color - place)


def _spot(rng: Generator, canvas: Canvas, drawn: Drawn) -> tuple[int, int]:
    """A random place (x, y) of the thing's top left corner that keeps it inside the image."""
    height, width = drawn.alpha.shape
    return int(rng.integers(0, canvas.shape[1] - width + 1)), int(rng.integers(0, canvas.shape[0] - height + 1))


def _stripes(rng: Generator, canvas: Canvas) -> None:
    """Soft or hard bands across the image."""
    y, x = np.mgrid[: canvas.shape[0], : canvas.shape[1]].astype(np.float32)
    angle, period = rng.uniform(0, pi), rng.uniform(10, 50)
    wave = np.sin((x * cos(angle) + y * sin(angle)) * 2 * pi / period).astype(np.float32)
    canvas += rng.uniform(5, 18) * np.clip(wave * rng.uniform(1, 5), -1, 1).astype(np.float32)[..., None]


def _leaves(rng: Generator, canvas: Canvas) -> None:
    """Overlapping ovals, all of one mood."""
    base = np.array(_color(rng, (0.2, 0.6), (0.35, 0.85)))
    layer = canvas.copy()
    for _ in range(rng.integers(15, 60)):
        x, y = rng.uniform(0, canvas.shape[1]), rng.uniform(0, canvas.shape[0])
        axes = (int(rng.integers(6, 24)), int(rng.integers(3, 9)))
        color = (base * rng.uniform(0.7, 1.3)).clip(0, 255).tolist()
        cv2.ellipse(layer, (int(x), int(y)), axes, rng.uniform(0, 180), 0, 360, color, -1, cv2.LINE_AA)
    canvas += 0.6 * (layer - canvas)


def _scribbles(rng: Generator, canvas: Canvas) -> None:
    """Wandering lines."""
    for _ in range(rng.integers(3, 9)):
        start = rng.uniform((0, 0), canvas.shape[1::-1])
        heading = rng.uniform(0, 2 * pi) + np.cumsum(rng.normal(0, 0.35, 40))
        points = start + np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1) * rng.uniform(3, 8), 0)
        color = _color(rng, (0.1, 0.7), (0.2, 1.0))
        corners = [(points * 16).astype(np.int32)]
        cv2.polylines(canvas, corners, False, color, int(rng.integers(1, 4)), cv2.LINE_AA, shift=4)


def _clouds(rng: Generator, canvas: Canvas) -> None:
    """Light and dark patches."""
    coarse = rng.normal(0, 1, (6, 6, 1)) * rng.uniform(8, 25) + rng.normal(0, 6, (6, 6, 3))
    canvas += cv2.resize(coarse.astype(np.float32), canvas.shape[1::-1], interpolation=cv2.INTER_CUBIC)


CLUTTER: tuple[Callable[[Generator, Canvas], None], ...] = (_stripes, _leaves, _scribbles, _clouds)


def _background(rng: Generator, width: int, height: int) -> Canvas:
    """A gradient with clutter and a few things that are no category."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle = rng.uniform(0, 2 * pi)
    way = cos(angle) * (x / width - 0.5) + sin(angle) * (y / height - 0.5)
    first, last = (np.array(_color(rng, (0.1, 0.5), (0.45, 0.95)), np.float32) for _ in range(2))
    canvas: Canvas = (first + (way[..., None] + 0.5).clip(0, 1) * (last - first)).astype(np.float32)
    for index in rng.permutation(len(CLUTTER))[: rng.integers(1, 4)]:
        CLUTTER[index](rng, canvas)
    for _ in range(rng.integers(0, 5)):
        drawn = _draw(rng, DISTRACTORS[rng.integers(len(DISTRACTORS))], rng.uniform(16, 60), tilt=180)
        _paste(canvas, drawn, *_spot(rng, canvas, drawn))
    return canvas


def _annotation(drawn: Drawn, x: int, y: int, category_id: int) -> dict[str, Any]:
    """COCO fields of a whole object (hidden parts included), its top left corner at pixel (x, y)."""
    rows, columns = np.flatnonzero(drawn.fine_mask.any(1)), np.flatnonzero(drawn.fine_mask.any(0))
    box = (x + columns[0] / FINE, y + rows[0] / FINE, len(columns) / FINE, len(rows) / FINE)
    outlines, _ = cv2.findContours(drawn.fine_mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = [(outline.reshape(-1, 2) + 0.5) / FINE + (x, y) for outline in outlines if len(outline) > 2]
    return {
        "category_id": category_id,
        "bbox": [round(float(value), 2) for value in box],
        "area": round(int(drawn.fine_mask.sum()) / FINE**2, 2),
        "iscrowd": 0,
        "segmentation": [polygon.ravel().round(2).tolist() for polygon in polygons],
    }


def _add_object(rng: Generator, scene: Scene, size: float, overlap: bool) -> None:
    """Paints and annotates one object; without a place where everything stays well in sight, it is not drawn."""
    category_id, _, _, parts = CATEGORIES[rng.integers(len(CATEGORIES))]
    drawn = _draw(rng, parts, size)
    mask = drawn.mask
    for _ in range(25):
        x, y = _spot(rng, scene.canvas, drawn)
        owner = scene.owner[y : y + mask.shape[0], x : x + mask.shape[1]]
        left = [(scene.owner == k).sum() - (owner[mask] == k).sum() for k in range(1, len(scene.areas) + 1)]
        hidden = any(rest < MIN_VISIBLE * area for rest, area in zip(left, scene.areas, strict=True))
        if hidden or (owner < 0).any() or (not overlap and owner.any()):
            continue
        _paste(scene.canvas, drawn, x, y)
        scene.areas.append(int(mask.sum()))
        owner[mask] = len(scene.areas)
        scene.annotations.append(_annotation(drawn, x, y, category_id))
        return


def _run_lengths(mask: Bool[np.ndarray, "height width"]) -> dict[str, Any]:
    """COCO's uncompressed run-length code: lengths of the runs down the columns, the first one of zeros."""
    padded = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(padded[1:] != padded[:-1])
    return {"size": list(mask.shape), "counts": np.diff(changes, prepend=0, append=mask.size).tolist()}


def _add_crowd(rng: Generator, scene: Scene) -> None:
    """Paints many tiny objects of one category close together, as one `iscrowd` annotation."""
    category_id, _, _, parts = CATEGORIES[rng.integers(len(CATEGORIES))]
    height, width = scene.owner.shape
    columns, rows = int(rng.integers(5, 8)), int(rng.integers(3, 6))
    step = int(TINY_SIZE) + 2
    x, y = int(rng.integers(0, width - step * (columns + 1))), int(rng.integers(0, height - step * (rows + 1)))
    mask = np.zeros((height, width), np.bool_)
    for index in range(rows * columns):
        drawn = _draw(rng, parts, rng.uniform(0.8, 1.1) * TINY_SIZE)
        at_x = x + step * (index % columns) + int(rng.integers(0, 5))
        at_y = y + step * (index // columns) + int(rng.integers(0, 5))
        _paste(scene.canvas, drawn, at_x, at_y)
        mask[at_y : at_y + drawn.mask.shape[0], at_x : at_x + drawn.mask.shape[1]] |= drawn.mask
    left, top, box_width, box_height = cv2.boundingRect(mask.astype(np.uint8))
    scene.owner[top : top + box_height, left : left + box_width] = -1
    fields = {"category_id": category_id, "bbox": [left, top, box_width, box_height], "area": int(mask.sum())}
    scene.annotations.append({**fields, "iscrowd": 1, "segmentation": _run_lengths(mask)})


def _make_scene(
    rng: Generator, empty: bool, crowd: bool
) -> tuple[UInt8[np.ndarray, "height width 3"], list[dict[str, Any]]]:
    """One RGB image and its COCO annotations, which still lack `id` and `image_id`."""
    width, height = IMAGE_SIZES[rng.integers(len(IMAGE_SIZES))]
    scene = Scene(_background(rng, width, height), np.zeros((height, width), np.int32))
    if crowd:
        _add_crowd(rng, scene)
    kinds = [] if empty else rng.choice(len(OBJECT_SIZES), rng.integers(2, 8), p=(0.4, 0.4, 0.2)).tolist()
    sizes = [rng.uniform(*OBJECT_SIZES[kind]) * max(width, height) for kind in kinds]
    for size in sorted(sizes, reverse=True):
        _add_object(rng, scene, size, overlap=bool(rng.random() < 0.3))
    grain = rng.normal(0, rng.uniform(2, 7), scene.canvas.shape)
    return (scene.canvas + grain).round().clip(0, 255).astype(np.uint8), scene.annotations


def _make_split(root: Path, split: str, count: int, seeds: tuple[int, int]) -> None:
    """Writes one split's images, then its annotation file."""
    (root / split).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        rng = np.random.default_rng((*seeds, index))
        image, found = _make_scene(rng, empty=index % 20 == 1, crowd=index % 12 == 2)
        name = f"{index + 1:06d}.jpg"
        _, code = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 95])
        (root / split / name).write_bytes(code.tobytes())
        height, width = image.shape[:2]
        images.append({"id": index + 1, "file_name": name, "width": width, "height": height, "license": 1})
        for fields in found:
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, **fields})
    content = {
        "info": {"description": DESCRIPTION, "version": "1.0", "contributor": "drawn by detector.demo.scenes"},
        "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": id_, "name": name, "supercategory": above} for id_, name, above, _ in CATEGORIES],
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")


def make_dataset(root: Path, seed: int = 0, train: int = 240, val: int = 60, test: int = 60) -> None:
    """Draws a dataset in the COCO layout: `annotations/instances_{train,val,test}.json`, `train/*.jpg` and so on.

    Boxes are those of the whole objects, in pixels of the image. The same seed gives the same bytes (as long as
    OpenCV and NumPy stay the same), and a split's images do not depend on how many follow them. Some images are
    empty, some hold an `iscrowd` region. A dataset drawn here before is overwritten. Raises DataError for a split of
    less than 3 images, or if `root` already holds other annotations.
    """
    for split, count in (("train", train), ("val", val), ("test", test)):
        if count < 3:
            raise DataError(f"{split}={count}: a demo split needs at least 3 images (one full, one empty, one crowd)")
        old = root / "annotations" / f"instances_{split}.json"
        if old.exists() and DESCRIPTION not in old.read_text(encoding="utf-8", errors="replace")[:200]:
            raise DataError(f"{old}: holds annotations that are not the demo's; choose another folder")
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for number, (split, count) in enumerate((("train", train), ("val", val), ("test", test))):
        _make_split(root, split, count, (seed, number))
