#!/usr/bin/env python3
"""The COCO metrics of drawn detections by hotcoco, as between epochs, and by pycocotools, as in `detector evaluate`: seconds on
the clock and of the processors, in turn, and whether all figures are equal. Exit code 1 if they are not."""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from detector.evaluation.coco_metrics import coco_metrics
from detector.structures import Categories, Detections

CLASSES = 80
OBJECTS = 7.3
"""Mean of an image, as in COCO."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2500)
    parser.add_argument("--detections", type=int, default=98, help="of an image")
    parser.add_argument("--repeats", type=int, default=5, help="of hotcoco for one of pycocotools")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    truth, detections = draw(options.images, options.detections)
    labels = Categories(tuple(range(CLASSES)), tuple(f"kind {number}" for number in range(CLASSES)))

    def entries() -> list[dict[str, Any]]:
        return [entry for image, each in enumerate(detections, start=1) for entry in each.to_coco(image, labels)]

    results = entries()
    print(f"{options.images:,} images, {len(truth['annotations']):,} objects, {len(results):,} detections")
    equal, seconds = True, np.zeros((3, 0, 2))
    for _ in range(options.rounds):
        made = [timed(entries)[1] for _ in range(options.repeats)]
        fast = [timed(lambda: coco_metrics(truth, results, reference=False)) for _ in range(options.repeats)]
        slow = timed(lambda: coco_metrics(truth, results))
        equal &= all(metrics == slow[0] for metrics, _ in fast)
        rows = [made, [each for _, each in fast], [slow[1]] * options.repeats]
        seconds = np.concatenate([seconds, np.array(rows)], axis=1)
    for name, times in zip(("results as entries", "hotcoco", "pycocotools"), seconds, strict=True):
        (clock, cpu), (least, most) = np.median(times, axis=0), (times[:, 1].min(), times[:, 1].max())
        print(f"{name}: {clock:.2f} s, processors {cpu:.2f} s ({least:.2f} to {most:.2f})")
    for what, part in (("on the clock", 0), ("of the processors", 1)):
        ratios = seconds[2, :, part] / seconds[1, :, part]
        print(f"pycocotools / hotcoco, {what}: {np.median(ratios):.0f} ({ratios.min():.0f} to {ratios.max():.0f})")
    print("equal figures" if equal else "DIFFERENT FIGURES")
    return int(not equal)


def timed(work: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """What comes out, the seconds on the clock and those of all processors."""
    clock, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, (time.perf_counter() - clock, time.process_time() - cpu)


def draw(images: int, each: int) -> tuple[dict[str, Any], list[Detections]]:
    """Objects, and detections of which some lie near one: as of a network that has learned something."""
    draws = np.random.default_rng(0)
    categories = Categories(tuple(range(CLASSES)), tuple(f"kind {number}" for number in range(CLASSES)))
    annotations: list[dict[str, Any]] = []
    detections = []
    for image in range(1, images + 1):
        count = int(draws.poisson(OBJECTS))
        low, sides = draws.uniform(0, 400, (count, 2)), np.exp(draws.uniform(np.log(8), np.log(240), (count, 2)))
        kinds = draws.integers(0, CLASSES, count)
        for (x, y), (width, height), kind in zip(low.tolist(), sides.tolist(), kinds.tolist(), strict=True):
            entry = {"image_id": image, "category_id": kind, "bbox": [x, y, width, height]}
            annotations.append({"id": len(annotations) + 1, **entry, "area": width * height * 0.7, "iscrowd": 0})
        chosen = draws.integers(0, count, each // 4) if count else np.zeros(0, np.int64)
        near = np.concatenate([low, low + sides], axis=1)[chosen] + draws.normal(0, 6, (len(chosen), 4))
        corners = draws.uniform(0, 500, (each - len(near), 2))
        apart = np.concatenate([corners, corners + draws.uniform(4, 140, corners.shape)], axis=1)
        boxes = torch.from_numpy(np.concatenate([near, apart]).astype(np.float32))
        scores = torch.from_numpy(draws.uniform(0.001, 1, each).astype(np.float32)).sort(descending=True).values
        labels = np.concatenate([kinds[chosen], draws.integers(0, CLASSES, len(apart))])
        detections.append(Detections(boxes, scores, torch.from_numpy(labels), categories))
    sizes = [{"id": image, "width": 640, "height": 640} for image in range(1, images + 1)]
    classes = [{"id": number, "name": name} for number, name in enumerate(categories.names)]
    return {"info": {}, "images": sizes, "annotations": annotations, "categories": classes}, detections


if __name__ == "__main__":
    sys.exit(main())
