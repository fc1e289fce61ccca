#!/usr/bin/env python3
"""AP on large images with few and small objects in the network input: trained and evaluated through tiles, and whole.

Makes a dataset of mosaics, edge to edge, none scaled, from a dataset with images of one size, and trains on it twice from the
same weights: through tiles and whole. Both see the same number of network inputs: the run without tiles has as many epochs
more as the other has windows for an image. The last weights of both are evaluated through tiles and whole; all detections
count, as in tiles.py, since COCO's 100 a class and image are too few for a mosaic.

With one thread and without workers (OMP_NUM_THREADS=1) each run is one core's.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image
from tiles import ALL, average_precision, mosaic_of, single

from detector import Detector, TiledDetector, train
from detector.config import AugmentConfig, TrainConfig, TrainLoopConfig
from detector.data.coco import CocoDataset
from detector.data.load import load_split
from detector.training.dataset import build_train_dataset
from detector.utils.fileio import write_json


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="dataset with images of one size")
    parser.add_argument(
        "--out", type=Path, required=True, help="new folder for the mosaics, the runs and tiles_training.json"
    )
    parser.add_argument("--columns", type=int, default=9, help="images in a row of a mosaic")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--weights", default="yolo11n-base", help="what both runs start from")
    parser.add_argument("--image-size", type=int, default=640, help="side of the network input in pixels")
    parser.add_argument("--tiles", type=int, default=640, help="side of a window in pixels")
    parser.add_argument("--overlap", type=float, default=0.2)
    parser.add_argument("--epochs", type=int, default=10, help="of the run through tiles")
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    data = options.out / "mosaics"
    for split in ("train", "val", "test"):
        count = write_mosaics(load_split(options.data, split), data, split, options.columns, options.rows)
        print(f"{split}: {count} mosaics of {options.columns * options.rows} images")
    tiled, images = run_config(options, data, "tiles", options.epochs), load_split(str(data), "train")
    _, sampler = build_train_dataset(tiled, images)
    sampler.set_epoch(0)
    windows = sum(map(len, sampler))
    epochs = {"tiles": options.epochs, "whole": max(round(options.epochs * windows / len(images)), 1)}
    figures: dict[str, Any] = {"data": options.data, "windows_an_epoch": windows, "epochs": epochs}
    for name, number in epochs.items():
        start = time.monotonic()
        train(run_config(options, data, name, number))
        figures[name] = {
            "minutes": (time.monotonic() - start) / 60,
            "AP": evaluate(options.out / name / "last.safetensors", data, options),
        }
        print(json.dumps(figures, indent=1), flush=True)
    write_json(options.out / "tiles_training.json", figures)
    return 0


def write_mosaics(dataset: CocoDataset, out: Path, split: str, columns: int, rows: int) -> int:
    """A COCO split of mosaics of all images that fill one; returns how many."""
    each = columns * rows
    (out / split).mkdir(parents=True)
    (out / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for start in range(0, len(dataset) - each + 1, each):
        image, boxes, labels = mosaic_of(dataset, range(start, start + each), columns)
        number = len(images) + 1
        Image.fromarray(image).save(out / split / f"{number}.jpg", quality=95)
        images.append({"id": number, "file_name": f"{number}.jpg", "width": image.shape[1], "height": image.shape[0]})
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            size = [box[2] - box[0], box[3] - box[1]]
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": dataset.categories.ids[label]}
            annotations.append(entry | {"bbox": [*box[:2], *size], "area": size[0] * size[1], "iscrowd": 0})
    pairs = zip(dataset.categories.ids, dataset.categories.names, strict=True)
    categories = [{"id": category_id, "name": name} for category_id, name in pairs]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (out / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return len(images)


def run_config(options: argparse.Namespace, data: Path, name: str, epochs: int) -> TrainConfig:
    """The run called `tiles`, or one without them; the default recipe, a third of it with weak augmentation."""
    return TrainConfig(
        data=str(data),
        out=str(options.out / name),
        weights=options.weights,
        epochs=epochs,
        image_size=options.image_size,
        batch_size=options.batch,
        device="cpu",
        workers=0,
        train=TrainLoopConfig(
            tiles=options.tiles if name == "tiles" else None,
            overlap=options.overlap,
            nominal_batch_size=options.batch,
            patience=0,
        ),
        augment=AugmentConfig(weak_aug_epochs=epochs // 3),
    )


def evaluate(weights: Path, data: Path, options: argparse.Namespace) -> dict[str, float]:
    """AP on the test mosaics, through tiles and whole."""
    detector = Detector.load(str(weights), conf=0.001, max_detections=ALL, device="cpu")
    dataset = load_split(str(data), "test", detector.categories)
    images = [single(dataset, index) for index in range(len(dataset))]
    tiled = TiledDetector(detector, options.tiles, options.overlap)
    ways: dict[str, Detector | TiledDetector] = {"tiles": tiled, "whole": detector}
    return {name: average_precision([looked(image) for image, _, _ in images], images) for name, looked in ways.items()}


if __name__ == "__main__":
    sys.exit(main())
