"""Datasets with YOLO labels: found in their layouts, the same dataset as from COCO, and errors that name file and line."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from small_run import small_config
from yolo_copy import write_description, write_yolo

from detector.data.coco import CocoDataset
from detector.data.layouts import Split, find_split
from detector.data.load import load_split
from detector.errors import ConfigError, DataError
from detector.images.read import image_size
from detector.structures import Categories
from detector.training.loop import train

BCCD = Path(__file__).parents[2] / "shared" / "data" / "bccd"
NAMES = "names: [cat, dog]\n"
BOX = "1 0.5 0.25 0.5 0.5\n"


def put(root: Path, labels: dict[str, str | None], images: str = "images/train", suffix: str = ".jpg") -> Path:
    """Images of 40x20 pixels; labels: the text of the label file of each, None for no file."""
    for name, text in labels.items():
        image = root / images / f"{name}{suffix}"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20)).save(image)
        label = root / images.replace("images", "labels") / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            label.write_text(text)
    return root


def boxes_of(dataset: CocoDataset) -> list[list[list[float]]]:
    return [dataset.boxes(index).tolist() for index in range(len(dataset))]


def error_of(root: Path, split: Split = "train") -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        load_split(str(root), split)
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---- the same dataset as from COCO


@pytest.mark.skipif(not BCCD.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_copy_of_bccd_loads_to_the_same_boxes(tmp_path: Path, split: Split) -> None:
    coco = CocoDataset.load(find_split(BCCD, split))
    write_yolo(coco, tmp_path, split)
    write_description(tmp_path, coco, **{split: f"images/{split}"})
    yolo = load_split(str(tmp_path), split)
    assert yolo.categories == Categories(tuple(range(len(coco.categories))), coco.categories.names)
    index_of = {coco.file_name(index): index for index in range(len(coco))}
    assert [yolo.file_name(index) for index in range(len(yolo))] == sorted(index_of)
    for index in range(len(yolo)):
        other = index_of[yolo.file_name(index)]
        assert yolo.size(index) == coco.size(other)
        np.testing.assert_allclose(yolo.boxes(index), coco.boxes(other), rtol=0, atol=0.01)
        assert yolo.labels(index).tolist() == coco.labels(other).tolist()


def draw(root: Path, split: str, seed: int) -> None:
    """Images of 64x64 pixels with boxes on whole pixels, whose fractions of 64 are exact in any float."""
    rng = np.random.default_rng(seed)
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for number in range(8):
        pixels = rng.integers(0, 80, (64, 64, 3), np.uint8)
        for _ in range(number % 3):
            x, y, w, h = (int(value) for value in (*rng.integers(0, 32, 2), *rng.integers(8, 32, 2)))
            pixels[y : y + h, x : x + w] = 200
            fields = {"image_id": number, "category_id": int(rng.integers(2)), "bbox": [x, y, w, h], "area": w * h}
            annotations.append({"id": len(annotations), **fields})
        Image.fromarray(pixels).save(root / split / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.mark.slow
def test_training_from_either_format_gives_the_same_losses(tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "val")):
        draw(tmp_path / "coco", split, seed)
        coco = CocoDataset.load(find_split(tmp_path / "coco", split))  # type: ignore[arg-type]
        write_yolo(coco, tmp_path / "yolo", split)
    write_description(tmp_path / "yolo", coco, train="images/train", val="images/val")
    lines = []
    for name in ("coco", "yolo"):
        out = tmp_path / f"run-{name}"
        train(small_config(tmp_path / name, out, deterministic=True, epochs=1))
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        lines.append([{key: value for key, value in row.items() if "loss" in key} for row in rows])
    assert lines[0] == lines[1]
    assert lines[0][0]


def test_boxes_polygons_empty_and_missing_files(tmp_path: Path) -> None:
    polygon = "0 0.25 0.5 0.75 0.5 0.25 1.0\n"
    root = put(tmp_path, {"a": BOX + "\n" + polygon, "b": "", "c": None, "d": "\ufeff0.0 0.5 0.5 1 1\r\n"})
    (root / "data.yaml").write_text(f"train: images/train\n{NAMES}")
    dataset = load_split(str(root), "train")
    assert dataset.categories == Categories((0, 1), ("cat", "dog"))
    assert [dataset.file_name(index) for index in range(4)] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert [dataset.image_id(index) for index in range(4)] == [1, 2, 3, 4]
    assert boxes_of(dataset) == [[[10, 0, 30, 10], [10, 10, 30, 20]], [], [], [[0, 0, 40, 20]]]
    assert dataset.labels(0).tolist() == [1, 0]
    assert dataset.annotations(0).areas.tolist() == [200, 100]
    assert dataset.problems == (
        f"{root / 'labels' / 'train'}: images without a label file, read as images without objects: 1",
    )


def test_annotations_in_coco_format_come_first(tmp_path: Path) -> None:
    draw(tmp_path, "train", 0)
    put(tmp_path, {"a": BOX})
    assert len(load_split(str(tmp_path), "train")) == 8


# ---- layouts


@pytest.mark.parametrize(
    "description",
    [
        "train: images/train\n",
        "path: .\ntrain: ./images/train/\n",
        "path: /content/elsewhere\ntrain: images/train\n",
        "train: [images/train]\nval: null\n",
        "train: ../images/train\nval: ../valid/images\n",
        "train: train.txt\n",
    ],
)
@pytest.mark.parametrize("names", [NAMES, "names:\n  0: cat\n  1: dog\n", "nc: 2\nnames:\n- cat\n- dog\n"])
def test_data_yaml_as_it_is_written(tmp_path: Path, description: str, names: str) -> None:
    put(tmp_path / "set", {"sub/b": BOX, "a": None})
    (tmp_path / "set" / "train.txt").write_text("./images/train/sub/b.jpg\n\nimages/train/a.jpg\n")
    (tmp_path / "set" / "data.yaml").write_text(description + names)
    dataset = load_split(str(tmp_path / "set"), "train")
    assert dataset.categories == Categories((0, 1), ("cat", "dog"))
    boxes = {dataset.path(index).name: dataset.boxes(index).tolist() for index in range(len(dataset))}
    assert boxes == {"a.jpg": [], "b.jpg": [[10, 0, 30, 10]]}


def test_several_folders_and_absolute_paths(tmp_path: Path) -> None:
    put(tmp_path / "one", {"a": BOX})
    put(tmp_path / "two", {"a": None})
    places = f"[{tmp_path / 'one' / 'images'}, ../two/images/train]"
    (tmp_path / "one" / "data.yaml").write_text(f"train: {places}\n{NAMES}")
    dataset = load_split(str(tmp_path / "one"), "train")
    assert [dataset.file_name(index) for index in range(2)] == ["one/images/train/a.jpg", "two/images/train/a.jpg"]
    assert boxes_of(dataset) == [[[10, 0, 30, 10]], []]


@pytest.mark.parametrize(
    ("images", "split"), [("images/train", "train"), ("train/images", "train"), ("valid/images", "val")]
)
def test_folders_without_data_yaml(tmp_path: Path, images: str, split: Split) -> None:
    root = put(tmp_path, {"a": BOX}, images, suffix=".PNG")
    dataset = load_split(str(root), split)
    assert dataset.categories == Categories((0, 1), ("0", "1"))
    assert "classes without names, called by their numbers" in dataset.problems[0]
    (root / "classes.txt").write_text("cat\ndog\nrat\n")
    assert load_split(str(root), split).categories.names == ("cat", "dog", "rat")


def test_labels_beside_the_images(tmp_path: Path) -> None:
    root = put(tmp_path, {"a": BOX}, "photos")
    (root / "data.yaml").write_text(f"train: photos\n{NAMES}")
    assert boxes_of(load_split(str(root), "train")) == [[[10, 0, 30, 10]]]


def test_names_are_text(tmp_path: Path) -> None:
    root = put(tmp_path, {"a": BOX})
    (root / "data.yaml").write_text("train: images/train\nnames: [no, 007]\n")
    assert load_split(str(root), "train").categories.names == ("no", "007")


def test_links_in_circles_end(tmp_path: Path) -> None:
    root = put(tmp_path, {"a": BOX, "sub/b": BOX})
    (root / "images" / "train" / "again").symlink_to(root / "images", target_is_directory=True)
    (root / "images" / "train" / "sub" / "up").symlink_to("..", target_is_directory=True)
    (root / "images" / "train" / ".hidden.jpg").write_bytes(b"")
    assert len(load_split(str(root), "train")) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    root = put(tmp_path, {"a": BOX})
    os.mkfifo(root / "images" / "train" / "pipe.jpg")
    assert len(load_split(str(root), "train")) == 1


# ---- sizes of images


def test_an_image_turned_by_exif_has_the_size_as_seen(tmp_path: Path) -> None:
    root = put(tmp_path, {"a": BOX})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(root / "images" / "train" / "a.jpg", exif=exif)
    dataset = load_split(str(root), "train")
    assert dataset.size(0) == (20, 40)
    assert boxes_of(dataset) == [[[5, 0, 15, 20]]]
    assert dataset.read(0).image.shape == (40, 20, 3)


def test_a_broken_image_is_one_of_the_unreadable_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = put(tmp_path, {"a": BOX, "b": BOX})
    (root / "images" / "train" / "a.jpg").write_bytes(b"no image")
    dataset = load_split(str(root), "train")
    assert [index for index, _ in dataset.readable(range(2))] == [1]
    assert "a.jpg: this is not an image of a known format" in capsys.readouterr().err


@pytest.mark.parametrize("late", [False, True])
def test_a_png_file_is_decoded_for_its_size_only_where_metadata_follow_the_pixels(
    tmp_path: Path, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    if late:
        path.write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    decoded = []
    load = PngImageFile.load
    monkeypatch.setattr(PngImageFile, "load", lambda image: decoded.append(image) or load(image))
    assert image_size(path) == (20, 40)
    assert bool(decoded) == late


# ---- errors


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", "class is 2, but ROOT/data.yaml names 2 classes, 0 to 1; correct"),
        ("cat 0.5 0.5 0.1 0.1", "class is 'cat': must be the number of a class"),
        ("-1 0.5 0.5 0.1 0.1", "class is '-1': must be the number of a class"),
        ("0.5 0.5 0.5 0.1 0.1", "class is '0.5': must be the number of a class"),
        ("0 0.5 x 0.1 0.1", "center y is 'x': must be a number"),
        ("0 0.5 0.5 nan 0.1", "width is 'nan': must be a fraction of the image"),
        ("0 20 10 8 4", "center x is '20': must be a fraction of the image, 0 to 1; divide pixels"),
        ("0 0.5 0.5 0.1 -0.001", "height is '-0.001': must be a fraction"),
        ("0 0.1 0.1 0.2 0.1 0.2 1.2", "y3 is '1.2': must be a fraction"),
        ("0 0.5 0.5 0.1", "4 fields: a box is class, center x, center y, width, height, separated by spaces"),
        ("0,0.5,0.5,0.1,0.1", "1 fields: a box is class"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 fields: a label has 5; remove the sixth"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.5", "8 fields: a box is"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    root = put(tmp_path, {"a": None, "b": f"{BOX}\n{line}\n"})
    (root / "data.yaml").write_text(f"train: images/train\n{NAMES}")
    expected = message.replace("ROOT", str(root))
    assert error_of(root).startswith(f"{root / 'labels' / 'train' / 'b.txt'}: line 3: {expected}")


def test_coordinates_just_outside_are_clipped(tmp_path: Path) -> None:
    root = put(tmp_path, {"a": "0 0.5 0.5 1.000001 1.005\n0 -0.001 0 1.001 0 1 0.5"})
    assert boxes_of(load_split(str(root), "train")) == [[[0, 0, 40, 20], [0, 0, 40, 10]]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0 0.5 0.5 0.9 0.9\n0 0.6 0.1 0.8 0.3\n0 0.7 0.7 0.8 0.9\n", "the corners x1, y1, x2, y2: write"),
        ("0 0 0 0.9 0.9\n0 0.1 0.1 0.8 0.3\n0 0.7 0.1 0.2 0.7\n", "x, y of the upper left corner, width, height: add"),
    ],
)
def test_boxes_of_another_format_are_refused(tmp_path: Path, text: str, told: str) -> None:
    root = put(tmp_path, {"a": text})
    assert f"{root / 'labels' / 'train'}: labels must be center x, center y" in error_of(root)
    assert told in error_of(root)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("train: images/train\n", "data.yaml: names must be a list"),
        (f"train: images/train\nnc: 3\n{NAMES}", "data.yaml: nc is '3', but there are 2 names"),
        ("train: images/train\nnames: {a: 0}\n", "data.yaml: names: {'a': '0'} is no number of a class"),
        ("train: images/train\nnames: {0: a, 0: b}\n", "the key '0' appears twice in one mapping"),
        (f"train: images/elsewhere\n{NAMES}", "data.yaml: train: 'images/elsewhere' is not there: looked for "),
        (f"train: {{a: b}}\n{NAMES}", "data.yaml: train: {'a': 'b'} must be the path of a folder or list"),
        (f"train: data.yaml\n{NAMES}", "is neither a folder of images nor a .txt list of them"),
        (f"train: list.txt\n{NAMES}", "list.txt: 1 of 2 images are not there, the first in line 2: 'gone.jpg'"),
        (f"train: images/train\nkpt_shape: [17, 3]\n{NAMES}", "data.yaml: kpt_shape: labels with keypoints"),
        (f"train: ../set/images/train\nval: x\n{NAMES}", "may be "),
        ("train: [", "data.yaml: this is not YAML"),
    ],
)
def test_a_wrong_description_is_named(tmp_path: Path, description: str, message: str) -> None:
    root = put(tmp_path / "set", {"a": BOX})
    put(root / "set", {"a": BOX})
    (root / "list.txt").write_text("images/train/a.jpg\ngone.jpg\n")
    (root / "data.yaml").write_text(description)
    text = error_of(root)
    assert text.startswith(str(root))
    assert message in text


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    root = put(tmp_path, {"a": BOX})
    assert "no val split: looked for `val:` in data.yaml, images/val beside labels/val" in error_of(root, "val")
    assert "; splits found: train; " in error_of(root, "val")
    flat = put(tmp_path / "flat", {"a": BOX}, "images")
    divide = "(not divided; detector convert --split 0.8,0.2 divides)"
    assert f"splits found: none {divide}; write data.yaml" in error_of(flat)


def test_images_without_any_label_file_are_refused(tmp_path: Path) -> None:
    root = put(tmp_path, {"a": None, "b": None})
    assert f"none of its 2 images has a label file; for the first, looked for {root / 'labels'}" in error_of(root)


def test_without_names_a_class_number_is_bounded(tmp_path: Path) -> None:
    root = put(tmp_path, {"a": "999999999 0.5 0.5 0.1 0.1"})
    assert "line 1: class is 999999999: without names at most 9999" in error_of(root)


def test_labels_that_are_no_text_are_named(tmp_path: Path) -> None:
    root = put(tmp_path, {"a": BOX})
    (root / "labels" / "train" / "a.txt").write_bytes(b"\xff\xfe0\0")
    assert "a.txt: this is no text in UTF-8" in error_of(root)
