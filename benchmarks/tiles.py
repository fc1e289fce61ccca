#!/usr/bin/env python3
"""AP on a mosaic of pictures: through tiles, whole, and of the single pictures that it is made of.

The mosaic lies beside its annotations in a temporary folder, its pictures edge to edge, none scaled. The single pictures
are what tiles can at best come near to: tiles have to find each object once though seams cut it. COCO's figures count
100 detections a class and picture, too few for a mosaic, so here all of them count, in all three the same.
"""

import argparse
import contextlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detector import Detector, TiledDetector
from detector.config import PathsConfig
from detector.data.coco import CocoImages
from detector.data.splits import split_paths

ALL = 100_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data set in the COCO layout")
    parser.add_argument("--split", default="test")
    parser.add_argument("--weights", default="yolo11n-bccd")
    parser.add_argument("--image-size", type=int, default=320, help="side of the network input in pixels")
    parser.add_argument("--side", type=int, default=6, help="pictures in a row and in a column")
    parser.add_argument("--tiles", type=int, default=640, help="side of a window in pixels")
    parser.add_argument("--overlap", type=float, default=0.2)
    parser.add_argument("--out", help="file for the figures, JSON")
    options = parser.parse_args()
    detector = Detector.load(
        options.weights, image_size=options.image_size, conf=0.001, max_detections=ALL, device="cpu"
    )
    images = CocoImages.load(split_paths(options.data, PathsConfig(), options.split), detector.categories)
    mosaics = [
        range(start, start + options.side**2) for start in range(0, len(images) - options.side**2 + 1, options.side**2)
    ]
    tiled = TiledDetector(detector, options.tiles, options.overlap)
    figures: dict[str, Any] = {"mosaics": len(mosaics), "pictures_each": options.side**2}
    start = time.monotonic()
    figures["single"] = average_precision(detector, [single(images, i) for mosaic in mosaics for i in mosaic])
    seconds = [time.monotonic() - start]
    sheets = [mosaic_of(images, mosaic, options.side) for mosaic in mosaics]
    for name, looked in (("tiles", tiled), ("whole", detector)):
        start = time.monotonic()
        figures[name] = average_precision(looked, sheets)
        seconds.append(time.monotonic() - start)
    figures["tiles_of_single"] = figures["tiles"] / figures["single"]
    print(f"{len(mosaics)} mosaics of {options.side**2} pictures, {sheets[0][0].shape[1]}x{sheets[0][0].shape[0]} px")
    for name, needed in zip(("single", "tiles", "whole"), seconds, strict=True):
        print(f"AP {name:<7}{figures[name]:.3f}  ({needed:.0f} s)")
    print(f"tiles / single: {figures['tiles_of_single']:.3f}")
    if options.out:
        Path(options.out).write_text(json.dumps(figures, indent=1))
    return 0


Annotated = tuple[np.ndarray, np.ndarray, np.ndarray]
"""A picture, its objects' boxes (xyxy pixels) and labels."""


def single(images: CocoImages, index: int) -> Annotated:
    return images.read(index).image, images.boxes(index), images.labels(index)


def mosaic_of(images: CocoImages, indices: range, side: int) -> Annotated:
    """Pictures of one size row by row, and their objects."""
    parts = [single(images, index) for index in indices]
    height, width = parts[0][0].shape[:2]
    rows = [np.concatenate([part[0] for part in parts[row * side : (row + 1) * side]], axis=1) for row in range(side)]
    corners = [((place % side) * width, place // side * height) * 2 for place in range(len(parts))]
    boxes = np.concatenate(
        [part[1] + np.array(corner, np.float32) for part, corner in zip(parts, corners, strict=True)]
    )
    return np.concatenate(rows), boxes, np.concatenate([part[2] for part in parts])


def average_precision(detector: Detector | TiledDetector, pictures: list[Annotated]) -> float:
    """COCO's AP, with as many detections a picture as there are."""
    entries, results = [], []
    for number, (picture, boxes, labels) in enumerate(pictures, start=1):
        found = detector(picture)
        results += found.to_coco(number)
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            size = [box[2] - box[0], box[3] - box[1]]
            category = found.categories.ids[label]
            entries.append({"image_id": number, "category_id": category, "bbox": [*box[:2], *size], "iscrowd": 0})
            entries[-1] |= {"id": len(entries), "area": size[0] * size[1]}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": number} for number in range(1, len(pictures) + 1)],
            "annotations": entries,
            "categories": [{"id": category_id} for category_id in found.categories.ids],
        }
        truth.createIndex()
        scores = COCOeval(truth, truth.loadRes(results), "bbox")
        scores.params.maxDets = [1, 10, ALL]
        scores.evaluate()
        scores.accumulate()
    precision = scores.eval["precision"][:, :, :, 0, -1]
    return float(precision[precision > -1].mean())


if __name__ == "__main__":
    sys.exit(main())
