#!/usr/bin/env python3
"""The time of `detector doctor --annotations_only` on drawn annotations of many images: boxes and polygons as in COCO, empty files
for the images, which are not opened. Exit code 1 if it takes longer than `--limit`."""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
SIZES = (640, 480), (480, 640), (640, 427), (500, 375)
CLASSES = 80
MEAN, MOST = 7.3, 60
"""Objects of an image."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        val = options.images // 20
        counts = [draw(Path(folder), "train", options.images - val), draw(Path(folder), "val", val)]
        start = time.perf_counter()
        command = [sys.executable, "-m", "detector", "doctor", folder, "--annotations_only"]
        code = subprocess.run(command, cwd=REPOSITORY, check=False).returncode
        seconds = time.perf_counter() - start
    print(f"{options.images:,} images, {sum(counts):,} annotations: {seconds:.1f} s, exit code {code}")
    return int(seconds > options.limit or code not in (0, 1))


def draw(root: Path, split: str, count: int) -> int:
    """Write a split, and return its number of annotations."""
    draws = random.Random(split)
    (root / split).mkdir()
    (root / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in range(1, count + 1):
        name, (width, height) = f"{image:06}.jpg", draws.choice(SIZES)
        (root / split / name).touch()
        images.append({"id": image, "file_name": name, "width": width, "height": height})
        for _ in range(min(int(draws.expovariate(1 / MEAN)), MOST)):
            box_width, box_height = (max(draws.random() ** 2 * side * 0.6, 4) for side in (width, height))
            x, y = draws.uniform(0, width - box_width), draws.uniform(0, height - box_height)
            points = [
                round(low + draws.random() * side, 2)
                for _ in range(12)
                for low, side in ((x, box_width), (y, box_height))
            ]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": draws.randint(1, CLASSES),
                    "bbox": [round(number, 2) for number in (x, y, box_width, box_height)],
                    "area": round(box_width * box_height * 0.7, 2),
                    "iscrowd": 0,
                    "segmentation": [points],
                }
            )
    categories = [{"id": number, "name": f"kind {number:02}"} for number in range(1, CLASSES + 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return len(annotations)


if __name__ == "__main__":
    sys.exit(main())
