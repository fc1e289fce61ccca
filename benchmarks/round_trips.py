#!/usr/bin/env python3
"""Datasets by `detector convert` from COCO to YOLO labels or Pascal VOC and back to COCO: the largest difference of a box in
pixels each way, and what the command says is lost. The files are read by a few lines here, not by the project's readers. A row
of Markdown for each; exit code 1 if a box is missing or differs by more than 0.01 px."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import yaml
from PIL import Image

REPOSITORY = Path(__file__).parents[1]
LIMIT = 0.01
"""Pixels that a box may move."""

Boxes = dict[str, list[tuple[str, list[float]]]]
"""By the path of an image below its folder: class and corners of its objects, in pixels, in the order of the file."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path, help="folders or files with COCO annotations")
    options = parser.parse_args()
    print("| set | by way of | images | boxes | there, px | and back, px | not carried |\n" + "| --- " * 7 + "|")
    worst = 0.0
    for source in options.datasets:
        for form in ("yolo", "voc"):
            with tempfile.TemporaryDirectory() as folder:
                worst = max(worst, round_trip(source, form, Path(folder)))
    return int(worst > LIMIT)


def round_trip(source: Path, form: str, folder: Path) -> float:
    """Print the row of a dataset, and return the largest difference in pixels."""
    there, back = folder / form, folder / "back"
    lines = convert(source, there, form)
    lost = [line.removeprefix("not carried: ") for line in lines if line.startswith("not carried")]
    convert(there, back, "coco")
    images = boxes = 0
    largest = [0.0, 0.0]
    for split, file in coco_files(source):
        original = coco_boxes(file, crowds=form == "voc")
        written = yolo_boxes(there, split) if form == "yolo" else voc_boxes(there, split)
        found = coco_boxes(back / "annotations" / f"instances_{split}.json", crowds=True)
        images += len(original)
        boxes += sum(map(len, original.values()))
        largest = [max(old, difference(original, new)) for old, new in zip(largest, (written, found), strict=True)]
    name = "/".join(source.parts[-2:]) if source.parent.name == "suite" else source.name
    ways = " | ".join(f"{each:.1g}" for each in largest)
    print(f"| {name} | {form} | {images:,} | {boxes:,} | {ways} | {'; '.join(lost)} |", flush=True)
    return max(largest)


def convert(source: Path, out: Path, form: str) -> list[str]:
    """The lines that the command prints."""
    command = [sys.executable, "-m", "detector", "convert", str(source), str(out), "--format", form, "--images", "link"]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()


def coco_files(source: Path) -> Iterator[tuple[str, Path]]:
    """The annotation file of each split; of a dataset that is not divided, the one file as train."""
    files = [source] if source.is_file() else sorted((source / "annotations").glob("*.json"))
    for split in ("train", "val", "test"):
        for file in files:
            if f"_{split}" in file.stem or (split == "train" and len(files) == 1):
                yield split, file


def coco_boxes(file: Path, crowds: bool) -> Boxes:
    """Equal annotations count once; boxes are cut at the edges of their image, and those of no area left out, as when written."""
    content = json.loads(file.read_text())
    names = {each["id"]: each["name"] for each in content["categories"]}
    images = {each["id"]: each for each in content["images"]}
    found: Boxes = {each["file_name"]: [] for each in content["images"]}
    seen = set()
    for each in content["annotations"]:
        key = (each["image_id"], each["category_id"], each.get("iscrowd", 0), *each["bbox"])
        if key in seen or (each.get("iscrowd", 0) and not crowds):
            continue
        seen.add(key)
        image = images[each["image_id"]]
        x, y, width, height = each["bbox"]
        box = [max(x, 0), max(y, 0), min(x + width, image["width"]), min(y + height, image["height"])]
        if box[2] > box[0] and box[3] > box[1]:
            found[image["file_name"]].append((names[each["category_id"]], box))
    return found


def yolo_boxes(root: Path, split: str) -> Boxes:
    names = yaml.safe_load((root / "data.yaml").read_text())["names"]
    found: Boxes = {}
    folder = root / "images" / split
    for path in folder.rglob("*.*"):
        name = path.relative_to(folder)
        with Image.open(path) as image:
            sides = image.size
        boxes = found.setdefault(name.as_posix(), [])
        for line in (root / "labels" / split / name).with_suffix(".txt").read_text().splitlines():
            number, *numbers = line.split()
            x, y, width, height = (float(each) * sides[axis % 2] for axis, each in enumerate(numbers))
            boxes.append((names[int(number)], [x - width / 2, y - height / 2, x + width / 2, y + height / 2]))
    return found


def voc_boxes(root: Path, split: str) -> Boxes:
    found: Boxes = {}
    for name in (root / "ImageSets" / "Main" / f"{split}.txt").read_text().splitlines():
        tree = ElementTree.parse(root / "Annotations" / f"{name}.xml")
        boxes = found.setdefault(str(Path(name).with_name(tree.findtext("filename", ""))), [])
        for each in tree.iterfind("object"):
            corners = [float(each.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")]
            boxes.append((each.findtext("name", ""), corners))
    return found


def difference(one: Boxes, other: Boxes) -> float:
    """The largest of a corner's coordinate; infinite if an image or an object is missing or has another class."""
    if one.keys() != other.keys():
        return float("inf")
    largest = 0.0
    for name, boxes in one.items():
        others = other[name]
        if [each for each, _ in boxes] != [each for each, _ in others]:
            return float("inf")
        for (_, box), (_, moved) in zip(boxes, others, strict=True):
            largest = max(largest, *(abs(a - b) for a, b in zip(box, moved, strict=True)))
    return largest


if __name__ == "__main__":
    sys.exit(main())
