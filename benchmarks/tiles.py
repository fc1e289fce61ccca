#!/usr/bin/env python3
"""AP on a mosaic of images: through tiles, whole, and of the single images that it is made of.

The mosaic lies beside its annotations in a temporary folder, its images edge to edge, none scaled. The single images
are what tiles can at best come near to: tiles have to find each object once though seams cut it. COCO's figures count
100 detections a class and image, too few for a mosaic, so here all of them count, in all three the same.
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
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_iou

from detector import Detector, TiledDetector
from detector.data.coco import CocoDataset
from detector.data.load import load_split
from detector.structures import Detections

ALL = 100_000
LIKELY = 0.25


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="dataset in the COCO layout")
    parser.add_argument("--split", default="test")
    parser.add_argument("--weights", default="yolo11n-bccd")
    parser.add_argument("--image-size", type=int, default=320, help="side of the network input in pixels")
    parser.add_argument("--side", type=int, default=6, help="images in a row and in a column")
    parser.add_argument("--tiles", type=int, default=640, help="side of a window in pixels")
    parser.add_argument("--overlap", type=float, default=0.2)
    parser.add_argument("--out", help="file for the figures, JSON")
    options = parser.parse_args()
    detector = Detector.load(
        options.weights, image_size=options.image_size, conf=0.001, max_detections=ALL, device="cpu"
    )
    dataset = load_split(options.data, options.split, detector.categories)
    mosaics = [
        range(start, start + options.side**2) for start in range(0, len(dataset) - options.side**2 + 1, options.side**2)
    ]
    tiled = TiledDetector(detector, options.tiles, options.overlap)
    figures: dict[str, Any] = {"mosaics": len(mosaics), "images_each": options.side**2}
    plots = [mosaic_of(dataset, mosaic, options.side) for mosaic in mosaics]
    print(f"{len(mosaics)} mosaics of {options.side**2} images, {plots[0][0].shape[1]}x{plots[0][0].shape[0]} px")
    singles = [single(dataset, i) for mosaic in mosaics for i in mosaic]
    for name, looked, images in (
        ("single", detector, singles),
        ("tiles", tiled, plots),
        ("whole", detector, plots),
    ):
        start = time.monotonic()
        found = [looked(image) for image, _, _ in images]
        seconds = time.monotonic() - start
        figures[name] = average_precision(found, images)
        seen, again, stray = figures[f"{name}_boxes"] = boxes_per_object(found, images)
        objects = f"{seen} objects found, {again} boxes more on these, {stray} on none"
        print(f"AP {name:<7}{figures[name]:.3f}  ({seconds:.0f} s)  from {LIKELY}: {objects}")
    figures["tiles_of_single"] = figures["tiles"] / figures["single"]
    print(f"tiles / single: {figures['tiles_of_single']:.3f}")
    if options.out:
        Path(options.out).write_text(json.dumps(figures, indent=1))
    return 0


Annotated = tuple[np.ndarray, np.ndarray, np.ndarray]
"""An image, its objects' boxes (xyxy pixels) and labels."""


def single(dataset: CocoDataset, index: int) -> Annotated:
    return dataset.read(index).image, dataset.boxes(index), dataset.labels(index)


def mosaic_of(dataset: CocoDataset, indices: range, columns: int) -> Annotated:
    """Images of one size row by row, and their objects."""
    parts = [single(dataset, index) for index in indices]
    height, width = parts[0][0].shape[:2]
    rows = [
        np.concatenate([part[0] for part in parts[start : start + columns]], axis=1)
        for start in range(0, len(parts), columns)
    ]
    corners = [((place % columns) * width, place // columns * height) * 2 for place in range(len(parts))]
    boxes = np.concatenate(
        [part[1] + np.array(corner, np.float32) for part, corner in zip(parts, corners, strict=True)]
    )
    return np.concatenate(rows), boxes, np.concatenate([part[2] for part in parts])


def boxes_per_object(found: list[Detections], images: list[Annotated]) -> tuple[int, int, int]:
    """Of the boxes of a score from `LIKELY`, each on the object of its class that it overlaps most, by an IoU of 0.5 at least:
    objects that have one, boxes beyond one of an object, boxes on none."""
    seen = again = stray = 0
    for detections, (_, boxes, labels) in zip(found, images, strict=True):
        likely = detections.scores >= LIKELY
        ious = box_iou(detections.boxes[likely], torch.from_numpy(boxes))
        ious[detections.labels[likely][:, None] != torch.from_numpy(labels)] = 0
        best, which = ious.max(dim=1) if len(boxes) else (torch.zeros(len(ious)), torch.zeros(len(ious)))
        on_one = best >= 0.5
        count = len(which[on_one].unique())
        seen, again, stray = seen + count, again + int(on_one.sum()) - count, stray + int((~on_one).sum())
    return seen, again, stray


def average_precision(found: list[Detections], images: list[Annotated]) -> float:
    """COCO's AP, with as many detections per image as there are."""
    entries, results = [], []
    for number, (detections, (_, boxes, labels)) in enumerate(zip(found, images, strict=True), start=1):
        results += detections.to_coco(number)
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            size = [box[2] - box[0], box[3] - box[1]]
            category = detections.categories.ids[label]
            entries.append({"image_id": number, "category_id": category, "bbox": [*box[:2], *size], "iscrowd": 0})
            entries[-1] |= {"id": len(entries), "area": size[0] * size[1]}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": number} for number in range(1, len(images) + 1)],
            "annotations": entries,
            "categories": [{"id": category_id} for category_id in found[0].categories.ids],
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
