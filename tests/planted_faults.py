"""Plants faults into a copy of a dataset in the COCO layout: for each kind of finding some that the doctor must count."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detector.data.layouts import SPLITS, find_split

Entry = dict[str, Any]


class Planter:
    """The annotation files of a copy. Each fault takes images of its own, so that no fault hides another."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = {split: find_split(root, split) for split in SPLITS if any(root.glob(f"annotations/*_{split}*"))}
        self.content = {split: json.loads(each.annotations.read_text()) for split, each in self.paths.items()}
        self.taken: set[str] = set()
        self.next_id = 10**7

    def save(self) -> None:
        for split, each in self.paths.items():
            each.annotations.write_text(json.dumps(self.content[split]))

    def file(self, image: Entry, split: str = "train") -> Path:
        return self.paths[split].images / image["file_name"]

    def objects(self, image: Entry, split: str = "train") -> list[Entry]:
        return [
            each
            for each in self.content[split]["annotations"]
            if each["image_id"] == image["id"] and not each.get("iscrowd") and min(each["bbox"][2:]) >= 8
        ]

    def take(self, count: int, right: Callable[[Entry], bool] | None = None, split: str = "train") -> list[Entry]:
        """Images with two objects or more that no other fault has."""
        found = []
        for image in self.content[split]["images"]:
            key = f"{split} {image['file_name']}"
            if key in self.taken or len(self.objects(image, split)) < 2 or not (right is None or right(image)):
                continue
            self.taken.add(key)
            found.append(image)
            if len(found) == count:
                return found
        raise AssertionError(f"{self.root}: too few images for all faults")

    def add(self, image: Entry, box: list[Any], like: Entry | None = None, split: str = "train", **fields: Any) -> None:
        self.next_id += 1
        category_id = (like or self.content[split]["annotations"][0])["category_id"]
        entry = {"id": self.next_id, "image_id": image["id"], "category_id": category_id, "bbox": box, "iscrowd": 0}
        self.content[split]["annotations"].append({**entry, "area": 100, **fields})

    def add_class(self, name: str, **fields: Any) -> int:
        """To all splits; returns its id."""
        number = max(each["id"] for each in self.content["train"]["categories"]) + 1
        for each in self.content.values():
            each["categories"].append({"id": number, "name": name, **fields})
        return number

    def add_image(self, name: str, width: int, height: int, split: str, **fields: Any) -> Entry:
        self.next_id += 1
        entry = {"id": self.next_id, "file_name": name, "width": width, "height": height, **fields}
        self.content[split]["images"].append(entry)
        return entry


def unreadable(plant: Planter) -> None:
    path = plant.file(plant.take(1)[0])
    path.write_bytes(path.read_bytes()[:-200])


def wrong_size(plant: Planter) -> None:
    (image,) = plant.take(1)
    image["width"] += 40


def exif(plant: Planter) -> None:
    """An image that is not square, a strip cut off if need be, turned on the screen but not in its size."""
    (image,) = plant.take(1)
    image["height"] -= 8 * (image["width"] == image["height"])
    _save_turned(plant.file(image), 6, image["height"])


def exif_mirrored(plant: Planter) -> None:
    (image,) = plant.take(1)
    _save_turned(plant.file(image), 3, image["height"])


def _save_turned(path: Path, orientation: int, height: int) -> None:
    with Image.open(path) as stored:
        image = stored.crop((0, 0, stored.width, height))
    tags = Image.Exif()
    tags[0x0112] = orientation
    image.save(path, exif=tags)


def missing_file(plant: Planter) -> None:
    plant.file(plant.take(1)[0]).unlink()


def listed_twice(plant: Planter) -> None:
    (image,) = plant.take(1)
    plant.add_image(image["file_name"], image["width"], image["height"], "train")


def no_size(plant: Planter) -> None:
    (image,) = plant.take(1)
    del image["width"]


def shared_id(plant: Planter) -> None:
    one, other = plant.take(2)
    other["id"] = one["id"]


def leads_out(plant: Planter) -> None:
    plant.add_image("../../elsewhere.jpg", 100, 100, "train")


def outside(plant: Planter) -> None:
    (image,) = plant.take(1)
    plant.add(image, [image["width"] - 30, 10, 60, 40])


def empty(plant: Planter) -> None:
    (image,) = plant.take(1)
    plant.add(image, [20, 20, 0, 15])


def negative(plant: Planter) -> None:
    (image,) = plant.take(1)
    plant.add(image, [60, 60, -25, -30])


def tiny(plant: Planter) -> None:
    (image,) = plant.take(1)
    plant.add(image, [20, 20, 1, 15])


def huge(plant: Planter) -> None:
    """Of a class of which the middle object is small."""
    parts: dict[int, list[float]] = {}
    sizes = {each["id"]: each["width"] * each["height"] for each in plant.content["train"]["images"] if "width" in each}
    for each in plant.content["train"]["annotations"]:
        if each["image_id"] in sizes and not each.get("iscrowd"):
            part = float(np.prod(each["bbox"][2:])) / sizes[each["image_id"]]
            parts.setdefault(each["category_id"], []).append(part)
    category_id = min(parts, key=lambda key: float(np.median(parts[key])) if len(parts[key]) > 4 else 1.0)
    (image,) = plant.take(1)
    plant.add(image, [0, 0, image["width"], image["height"]], category_id=category_id)


def doubled(plant: Planter) -> None:
    (image,) = plant.take(1)
    first = plant.objects(image)[0]
    plant.add(image, list(first["bbox"]), first)


def nearly_doubled(plant: Planter) -> None:
    (image,) = plant.take(1)
    first = plant.objects(image)[0]
    x, y, width, height = first["bbox"]
    plant.add(image, [x, y, width * 0.97, height * 0.97], first)


def two_classes(plant: Planter) -> None:
    """The second class has no other object where the dataset has a single class."""
    (image,) = plant.take(1)
    first = plant.objects(image)[0]
    others = [each["id"] for each in plant.content["train"]["categories"] if each["id"] != first["category_id"]]
    plant.add(image, list(first["bbox"]), category_id=others[0])


def corners(plant: Planter) -> None:
    def reach_out(image: Entry) -> bool:
        boxes = [each["bbox"] for each in plant.objects(image)]
        sides = image["width"], image["height"]
        return any(2 * box[axis] + box[axis + 2] > 1.2 * sides[axis] for box in boxes for axis in (0, 1))

    for image in plant.take(4, reach_out):
        for each in _all_of(plant, image):
            x, y, width, height = each["bbox"]
            each["bbox"] = [x, y, x + width, y + height]


def fractions(plant: Planter) -> None:
    for image in plant.take(2):
        for each in _all_of(plant, image):
            x, y, width, height = each["bbox"]
            w, h = image["width"], image["height"]
            each["bbox"] = [x / w, y / h, width / w, height / h]


def _all_of(plant: Planter, image: Entry) -> list[Entry]:
    return [each for each in plant.content["train"]["annotations"] if each["image_id"] == image["id"]]


def no_box(plant: Planter) -> None:
    (image,) = plant.take(1)
    plant.add(image, [10, 10, float("nan"), 20])


def unknown_image(plant: Planter) -> None:
    plant.add({"id": 987654321}, [10, 10, 20, 20])


def unknown_class(plant: Planter) -> None:
    plant.add(plant.take(1)[0], [10, 10, 30, 20], category_id=987654)


def shared_annotation_id(plant: Planter) -> None:
    first, second = plant.content["train"]["annotations"][:2]
    second["id"] = first["id"]


def ids_from_0(plant: Planter) -> None:
    lowest = min(each["id"] for each in plant.content["train"]["categories"])
    for content in plant.content.values():
        for each in content["categories"]:
            each["id"] -= lowest
        for each in content["annotations"]:
            each["category_id"] -= lowest


def gap(plant: Planter) -> None:
    plant.add_class("gap keeper")
    for content in plant.content.values():
        content["categories"][-1]["id"] += 7
    for split in plant.content:  # used, so that it is no class without objects
        (image,) = plant.take(1, split=split)
        plant.add(image, [12, 14, 33, 31], split=split, category_id=plant.content[split]["categories"][-1]["id"])


def background(plant: Planter) -> None:
    plant.add_class("__background__")


def unused(plant: Planter) -> None:
    plant.add_class("never labeled")


def only_in_val(plant: Planter) -> None:
    number = plant.add_class("val only")
    plant.add(plant.take(1, split="val")[0], [10, 10, 30, 30], split="val", category_id=number)


def only_in_train(plant: Planter) -> None:
    number = plant.add_class("train only")
    plant.add(plant.take(1)[0], [10, 10, 30, 30], category_id=number)


def alike(plant: Planter) -> None:
    name = plant.content["train"]["categories"][0]["name"]
    number = plant.add_class(f" {name.upper()}_")
    plant.add(plant.take(1)[0], [10, 10, 30, 30], category_id=number)


def rare(plant: Planter) -> None:
    number = plant.add_class("rarity")
    for split in ("train", "val"):
        plant.add(plant.take(1, split=split)[0], [10, 10, 30, 30], split=split, category_id=number)


def other_class_in_val(plant: Planter) -> None:
    plant.content["val"]["categories"].append({"id": 5555, "name": "of val"})


def small(plant: Planter) -> None:
    images = plant.take(4)
    for number in range(len(plant.content["train"]["annotations"]) // 8):
        image = images[number % 4]
        across = max(image["width"] // 10 - 1, 1)
        x, y = number // 4 % across * 10, number // 4 // across * 10
        plant.add(image, [x, y, 3, 3])


def leak(plant: Planter) -> None:
    (image,) = plant.take(1)
    with Image.open(plant.file(image)) as original:
        original.convert("RGB").save(plant.paths["val"].images / "leak.jpg", quality=60)
    plant.add_image("leak.jpg", image["width"], image["height"], "val")


def near_leak(plant: Planter) -> None:
    """Brighter, and less a rim at the left and at the top: a hundredth."""
    (image,) = plant.take(1)
    with Image.open(plant.file(image)) as original:
        pixels = np.asarray(original.convert("RGB"))[image["height"] // 100 :, image["width"] // 100 :] * 0.9 + 20
    cut = Image.fromarray(pixels.astype(np.uint8))
    cut.save(plant.paths["val"].images / "near.jpg")
    plant.add_image("near.jpg", *cut.size, "val")


def copied(plant: Planter) -> None:
    (image,) = plant.take(1)
    shutil.copy(plant.file(image), plant.file(image).with_name("copied.jpg"))
    name = str(Path(image["file_name"]).with_name("copied.jpg"))
    plant.add_image(name, image["width"], image["height"], "train")


FAULTS: dict[str, Callable[[Planter], None]] = {
    "image-unreadable": unreadable,
    "image-size": wrong_size,
    "image-exif": exif,
    "image-exif-mirrored": exif_mirrored,
    "leak-same": leak,
    "leak-near": near_leak,
    "image-doubled": copied,
    "image-missing": missing_file,
    "box-outside": outside,
    "box-empty": empty,
    "box-negative": negative,
    "box-tiny": tiny,
    "box-huge": huge,
    "box-doubled": doubled,
    "box-nearly-doubled": nearly_doubled,
    "class-background": background,
    "class-unused": unused,
    "box-two-classes": two_classes,
    "object-small": small,
    "box-format": corners,
    "box-fractions": fractions,
    "box-missing": no_box,
    "image-unknown": unknown_image,
    "class-not-in-train": only_in_val,
    "class-not-measured": only_in_train,
    "class-alike": alike,
    "class-rare": rare,
    "class-id-0": ids_from_0,
    "class-id-gap": gap,
    "class-unknown": unknown_class,
    "annotation-id": shared_annotation_id,
    "image-size-missing": no_size,
    "image-listed-twice": listed_twice,
    "image-name": leads_out,
    "class-differs": other_class_in_val,
    "image-id": shared_id,
}
"""What plants a fault, by the code of the finding."""


def plant_all(root: Path) -> None:
    planter = Planter(root)
    for fault in FAULTS.values():
        fault(planter)
    planter.save()


def missed_faults(before: dict[str, Entry], after: dict[str, Entry], planted: Iterable[str] = FAULTS) -> list[str]:
    """The planted faults that the findings, by code as in doctor.json, do not count beside those of the clean dataset."""

    def texts(code: str) -> str:
        return " ".join(example["text"] for example in after.get(code, {"examples": []})["examples"])

    def counts(found: dict[str, Entry], code: str) -> int:
        return int(found.get(code, {"count": 0})["count"])

    by_name = {
        "leak-near": "near.jpg" in texts("leak-near") + texts("leak-same"),  # of a smooth image the rim is nothing
        "image-doubled": "copied.jpg" in texts("image-doubled"),
        "class-id-0": "class-id-0" in after,  # all classes or none
    }
    return [code for code in planted if counts(after, code) <= counts(before, code) and not by_name.get(code, False)]


LABEL_FAULTS = ("label-missing", "label-class", "label-not-found")
"""Findings for which trained weights are needed."""


def only_test(root: Path) -> None:
    """Remove the annotations of the splits that weights may know."""
    for split in ("train", "val"):
        for file in (root / "annotations").glob(f"*_{split}*"):
            file.unlink()


def plant_labels(root: Path) -> None:
    """Plant `LABEL_FAULTS` in three images of the test split: an object of the rarest class that all three have is removed, called
    otherwise, or added where none can be."""
    plant = Planter(root)
    classes = [each["id"] for each in plant.content["test"]["categories"]]
    images = plant.content["test"]["images"][:3]

    def of_class(category_id: int) -> list[list[Entry]]:
        return [
            [each for each in plant.objects(image, "test") if each["category_id"] == category_id] for image in images
        ]

    chosen = min((each for each in classes if all(of_class(each))), key=lambda each: sum(map(len, of_class(each))))
    (gone, *_), (swapped, *_), _ = of_class(chosen)
    plant.content["test"]["annotations"].remove(gone)
    swapped["category_id"] = next(each for each in classes if each != chosen)
    plant.add(images[2], [0, images[2]["height"] // 2, images[2]["width"] - 1, 20], category_id=chosen, split="test")
    plant.save()
