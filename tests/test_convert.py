"""`detector convert`: round trips, what is lost and said, splits, merged datasets, classes, and nothing half-written."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from detector.cli import main
from detector.config import AnnotationFormat
from detector.data.conversion.convert import WRITERS
from detector.data.layouts import SPLITS, Split
from detector.data.load import load_split, splits_in

SHARED = Path(__file__).parents[2] / "shared" / "data"
SETS = ["bccd", "coco-tiny", *(f"suite/{name}" for name in ("underwater", "pcb", "okra", "tables", "football"))]


def box(
    number: int, image: int, category: int, x: float, y: float, w: float, h: float, **fields: Any
) -> dict[str, Any]:
    area = w * h
    return {"id": number, "image_id": image, "category_id": category, "bbox": [x, y, w, h], "area": area} | fields


def write_coco(
    root: Path, split: str, images: dict[str, int], annotations: list[dict[str, Any]], **header: Any
) -> None:
    """Images of 40x20 pixels, by file name with their ids; categories 3 cat, 7 dog, 9 rat."""
    entries = []
    for name, image_id in images.items():
        (root / split / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20), (image_id % 256, 0, 0)).save(root / split / name)
        entries.append({"id": image_id, "file_name": name, "width": 40, "height": 20, "license": 1})
    (root / "annotations").mkdir(exist_ok=True)
    categories = [{"id": number, "name": name} for number, name in ((3, "cat"), (7, "dog"), (9, "rat"))]
    content = {**header, "images": entries, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two splits with crowds, masks, ids with gaps, an image without objects and boxes that reach out."""
    root = tmp_path / "coco"
    mask = {"segmentation": [[1, 2, 30, 2, 1, 9]]}
    train = [
        box(11, 5, 7, 1, 2, 29.123456, 7, iscrowd=0, area=12.5, **mask),
        box(12, 5, 3, 0, 0, 40, 20, iscrowd=1),
        box(99, 2, 3, 30.25, -1, 15, 5, iscrowd=0, score=0.5),
    ]
    write_coco(root, "train", {"b.jpg": 5, "sub/a.png": 2, "c.jpg": 8}, train, info={"url": "x"}, licenses=[{"id": 1}])
    write_coco(root, "val", {"b.jpg": 5}, [box(1, 5, 7, 3, 3, 3, 3)], info={"url": "x"}, licenses=[{"id": 1}])
    return root


def convert(*arguments: object) -> None:
    assert main(["convert", *map(str, arguments)]) == 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["convert", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def content_of(root: Path, split: str) -> dict[str, Any]:
    (file,) = (root / "annotations").glob(f"instances_{split}*.json")
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def objects_of(root: Path, split: Split, crowds: bool = False) -> dict[str, list[tuple[str, list[float]]]]:
    """Class and box, cut at the edges, of the objects of each image, in order."""
    dataset, found = load_split(str(root), split), {}
    for index in range(len(dataset)):
        rows = dataset.annotations(index)
        width, height = dataset.size(index)
        boxes = []
        for (x, y, w, h), label, crowd in zip(rows.boxes.tolist(), rows.labels, rows.crowd, strict=True):
            corners = [max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)]
            if bool(crowd) == crowds and corners[2] > corners[0] and corners[3] > corners[1]:
                boxes.append((dataset.categories.names[label], corners))
        found[dataset.file_name(index)] = sorted(boxes)
    return found


def assert_same_objects(one: Path, other: Path, split: Split, tolerance: float, crowds: bool = False) -> int:
    """The number of objects, all of which both datasets have, with boxes that differ by `tolerance` pixels at most."""
    first, second = (
        {name.replace("-2.", "."): found for name, found in objects_of(root, split, crowds).items()}
        for root in (one, other)
    )
    assert first.keys() == second.keys()
    for name, objects in first.items():
        assert [each for each, _ in objects] == [each for each, _ in second[name]]
        boxes = [np.array([box for _, box in found]).reshape(-1, 4) for found in (objects, second[name])]
        np.testing.assert_allclose(boxes[0], boxes[1], rtol=0, atol=tolerance)
    return sum(map(len, first.values()))


# ---- round trips


@pytest.mark.parametrize("width", [37, 640, 1000, 8191])
def test_yolo_labels_give_the_very_boxes_of_the_original(width: int, tmp_path: Path) -> None:
    """As float32, which training sees; with the two decimals that annotations have, at the edges and inside."""
    draws = np.random.default_rng(width)
    corners = np.sort(np.round(draws.uniform(0, (width, 20), (300, 2, 2)), 2), axis=1)
    corners[::3, 0, 0], corners[::5, 0, 1], corners[::7, 1, 0] = 0, 0, width
    boxes = [[*low, *(high - low)] for low, high in corners if (high > low + 0.1).all()]
    write_coco(tmp_path / "coco", "train", {"a.png": 1}, [box(n, 1, 3, *xywh) for n, xywh in enumerate(boxes, start=1)])
    file = tmp_path / "coco" / "annotations" / "instances_train.json"
    file.write_text(file.read_text().replace('"width": 40', f'"width": {width}'))
    Image.new("RGB", (width, 20)).save(tmp_path / "coco" / "train" / "a.png")
    convert(tmp_path / "coco", tmp_path / "yolo", "--format", "yolo")
    original, copy = (load_split(str(tmp_path / name), "train") for name in ("coco", "yolo"))
    assert len(original.boxes(0)) > 200
    assert np.array_equal(original.boxes(0), copy.boxes(0))


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
def test_a_yolo_copy_trains_to_the_same_losses(tmp_path: Path) -> None:
    """On some images of BCCD, bit for bit."""
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    for split, count in (("train", 8), ("val", 4)):
        content = content_of(SHARED / "bccd", split)
        content["images"] = content["images"][:count]
        kept = {entry["id"] for entry in content["images"]}
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] in kept]
        (tmp_path / "coco" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        (tmp_path / "coco" / split).mkdir()
        for entry in content["images"]:
            name = Path(split, entry["file_name"])
            shutil.copy(SHARED / "bccd" / name, tmp_path / "coco" / name)
    convert(tmp_path / "coco", tmp_path / "yolo", "--format", "yolo")
    options = ["--image_size=64", "--batch_size=4", "--train.nominal_batch_size=4", "--epochs=2", "--workers=0"]
    found = []
    for name in ("coco", "yolo"):
        out = tmp_path / f"run_{name}"
        assert main(["train", f"--data={tmp_path / name}", f"--out={out}", "--loggers=[]", *options]) == 0
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        found.append([{key: row[key] for key in row if key not in ("seconds", "images_per_second")} for row in rows])
    assert found[0] == found[1]


@pytest.mark.parametrize("between", ["yolo", "voc"])
def test_round_trips_keep_boxes_and_say_what_is_lost(
    coco: Path, tmp_path: Path, between: str, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(coco, tmp_path / "there", "--format", between)
    report = capsys.readouterr().out
    convert(tmp_path / "there", tmp_path / "back", "--format", "coco")
    for split, count in (("train", 2), ("val", 1)):
        assert assert_same_objects(coco, tmp_path / "back", split, 1e-5) == count  # type: ignore[arg-type]
        crowds = objects_of(tmp_path / "back", split, crowds=True)  # type: ignore[arg-type]
        assert sum(map(len, crowds.values())) == (between == "voc" and split == "train")
    lost = {
        "image ids, numbered anew when read: 4",
        "annotation ids, numbered anew when read: 4",
        f"category ids, numbered anew when read: {3 if between == 'yolo' else 2}",
        "masks (segmentation): 1",
        "areas other than their box's: 1",
        "the key 'score' of annotations: 1",
        "the key 'license' of images: 4",
        "the key 'info' of COCO files: 2",
        "the key 'licenses' of COCO files: 2",
        "boxes that reach out of their image, cut at its edge: 1",
    }
    lost |= {"iscrowd regions, not written: 1"} if between == "yolo" else {"classes without objects: 1"}
    lost |= {"names of images that another image has, written as NAME-2 and so on: 1"} if between == "voc" else set()
    assert {line.removeprefix("not carried: ") for line in report.splitlines() if line.startswith("not c")} == lost


def test_coco_to_coco_loses_nothing(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(coco, tmp_path / "out", "--format", "coco")
    assert "not carried: nothing" in capsys.readouterr().out
    for split in ("train", "val"):
        before, after = content_of(coco, split), content_of(tmp_path / "out", split)
        for annotation in before["annotations"]:
            annotation.setdefault("iscrowd", 0)
        assert before == after


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("between", ["yolo", "voc"])
def test_a_round_trip_of_coco_tiny(tmp_path: Path, between: str) -> None:
    root = SHARED / "coco-tiny"
    convert(root, tmp_path / "there", "--format", between, "--images", "link")
    convert(tmp_path / "there", tmp_path / "back", "--format", "coco", "--images", "link")
    assert [assert_same_objects(root, tmp_path / "back", split, 0.01) for split in ("train", "val")] == [699, 804]


# ---- images


def test_images_are_copied_or_linked(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(coco, tmp_path / "copied", "--format", "coco")
    assert "4 images copied" in capsys.readouterr().out
    convert(coco, tmp_path / "linked", "--format", "yolo", "--images", "link")
    assert "4 images hard-linked" in capsys.readouterr().out
    original, copied = coco / "train" / "b.jpg", tmp_path / "copied" / "train" / "b.jpg"
    assert copied.read_bytes() == original.read_bytes()
    assert not copied.samefile(original)
    assert (tmp_path / "linked" / "images" / "train" / "b.jpg").samefile(original)


def test_images_without_a_file_are_skipped_and_counted(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (coco / "train" / "b.jpg").unlink()
    convert(coco, tmp_path / "out", "--format", "yolo")
    report = capsys.readouterr().out
    assert "not carried: images whose file is missing: 1" in report
    assert "not carried: objects in them: 2" in report
    assert "written: train, 2 images with 1 objects" in report
    shutil.rmtree(coco / "train")
    assert "image" in refused(capsys, coco, tmp_path / "again", "--format", "yolo")


def test_images_that_are_spelled_otherwise_are_kept_where_another_is_missing(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names as Windows writes them, and one file that is gone."""
    file = coco / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    for entry in content["images"]:
        entry["file_name"] = f"images\\{entry['file_name']}"
    file.write_text(json.dumps(content))
    (coco / "train" / "b.jpg").unlink()
    convert(coco, tmp_path / "out", "--format", "coco")
    report = capsys.readouterr().out
    assert "not carried: images whose file is missing: 1" in report
    assert "written: train, 2 images with 1 objects" in report


def test_turned_boxes_become_upright_once(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = coco / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    for entry in content["annotations"]:
        entry.pop("segmentation", None)
        entry["attributes"] = {"occluded": False, "rotation": 90}
    content["annotations"][0]["bbox"] = [8, 6, 8, 4]
    file.write_text(json.dumps(content))
    boxes = load_split(str(coco), "train").boxes(0)
    convert(coco, tmp_path / "once", "--format", "coco")
    assert "not carried: angles of turned boxes, written as the upright boxes around them: 3" in capsys.readouterr().out
    convert(tmp_path / "once", tmp_path / "twice", "--format", "coco")
    assert "angles" not in capsys.readouterr().out
    for name in ("once", "twice"):
        after = load_split(str(tmp_path / name), "train")
        np.testing.assert_allclose(after.boxes(0), boxes, atol=1e-4)
        assert not any("attributes.rotation" in line for line in after.problems)


def test_an_image_whose_boxes_ignore_its_exif_orientation_is_no_yolo_image(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(coco / "train" / "c.jpg", exif=exif)
    convert(coco, tmp_path / "yolo", "--format", "yolo")
    assert "images whose annotations have another size or EXIF orientation, not written: 1" in capsys.readouterr().out
    assert len(load_split(str(tmp_path / "yolo"), "train")) == 2
    convert(coco, tmp_path / "voc", "--format", "voc")
    assert load_split(str(tmp_path / "voc"), "train").size(2) == (40, 20)


def test_names_that_would_share_a_label_file_are_changed(tmp_path: Path) -> None:
    names = {"a.jpg": 1, "A.png": 2, "images/a.jpg": 3, "sub/a.jpg": 4}
    write_coco(tmp_path / "in", "train", names, [box(n, n, 3, n, 1, 2, 3) for n in range(1, 5)])
    convert(tmp_path / "in", tmp_path / "out", "--format", "yolo")
    found = objects_of(tmp_path / "out", "train")
    lefts = {name: boxes[0][1][0] for name, boxes in found.items()}
    assert lefts == pytest.approx({"a.jpg": 1, "A-2.png": 2, "a-3.jpg": 3, "sub/a.jpg": 4})


# ---- nothing half-written


def test_an_existing_folder_is_refused(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert refused(capsys, coco, out, "--format", "voc").startswith(f"error: out: {out} exists; name a new folder")
    assert "there is no such dataset" in refused(capsys, tmp_path / "gone", tmp_path / "new", "--format", "voc")
    assert "missing: --format" in refused(capsys, coco, tmp_path / "new")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), ValueError("a fault")])
def test_what_fails_leaves_nothing(
    coco: Path, tmp_path: Path, error: BaseException | type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(shutil, "copyfileobj", fail)
    before = sorted(tmp_path.iterdir())
    arguments = ["convert", str(coco), str(tmp_path / "new" / "out"), "--format", "coco"]
    if isinstance(error, ValueError):
        with pytest.raises(ValueError, match="a fault"):
            main(arguments)
    else:
        assert main(arguments) == 2
    assert sorted(path for path in tmp_path.rglob("*") if ".unfinished." in path.name) == []
    assert not (tmp_path / "new" / "out").exists()
    assert [path for path in before if not path.exists()] == []


# ---- splits


def many(root: Path, clips: int = 30, frames: int = 10) -> Path:
    """Images of clips; every image holds a cat, every clip of three a dog, one of ten a rat."""
    names = {f"clip{clip:02}_{frame:02}.jpg": clip * frames + frame for clip in range(clips) for frame in range(frames)}
    annotations: list[dict[str, Any]] = []
    for image in names.values():
        clip = image // frames
        for category, holds in ((3, True), (7, clip % 3 == 0), (9, clip % 10 == 0)):
            if holds:
                annotations.append(box(len(annotations) + 1, image, category, 1, 1, 5, 5))
    write_coco(root, "default", names, annotations)
    return root


def shares(root: Path) -> Iterator[tuple[Split, int, Counter[str]]]:
    """The number of images of each split, and of those that hold each class."""
    for split in SPLITS:
        found = objects_of(root, split)
        yield split, len(found), Counter(name for boxes in found.values() for name in {name for name, _ in boxes})


@pytest.mark.slow
def test_a_split_has_its_share_of_every_class(tmp_path: Path) -> None:
    data = many(tmp_path / "in")
    assert splits_in(data) == [None]
    fractions = {"train": Fraction(7, 10), "val": Fraction(2, 10), "test": Fraction(1, 10)}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        convert(data, tmp_path / name, "--format", "yolo", "--split", "0.7,0.2,0.1", "--seed", seed)
    for split, images, classes in shares(tmp_path / "a"):
        assert images == 300 * fractions[split]
        assert classes == {"cat": images, "dog": 100 * fractions[split], "rat": 30 * fractions[split]}
    for split in SPLITS:
        assert objects_of(tmp_path / "a", split) == objects_of(tmp_path / "b", split)
    assert objects_of(tmp_path / "a", "test").keys() != objects_of(tmp_path / "c", "test").keys()


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["^clip\\d+", "(\\d+)_", "^(clip)(\\d\\d)"])
def test_a_split_keeps_groups_together(tmp_path: Path, pattern: str, capsys: pytest.CaptureFixture[str]) -> None:
    convert(many(tmp_path / "in"), tmp_path / "out", "--format", "coco", "--split", "0.5,0.5", "--group", pattern)
    assert "--group: 300 images in 30 groups" in capsys.readouterr().out
    clips = [{name[:6] for name in objects_of(tmp_path / "out", split)} for split in ("train", "val")]  # type: ignore[arg-type]
    assert clips[0].isdisjoint(clips[1])
    assert [len(each) for each in clips] == [15, 15]
    for split in ("train", "val"):
        content = content_of(tmp_path / "out", split)
        assert 45 <= sum(each["category_id"] == 7 for each in content["annotations"]) <= 55
        assert 10 <= sum(each["category_id"] == 9 for each in content["annotations"]) <= 20


def test_splits_that_cannot_be_made_are_refused(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for value in ("0.5", "0.8,0.1", "0.8,-0.1,0.3", "a,b", "0.4,0.3,0.2,0.1", "nan,nan"):
        line = refused(capsys, coco, tmp_path / "out", "--format", "coco", f"--split={value}")
        assert "split: invalid value" in line
        assert "with the sum 1: 0.8,0.1,0.1" in line
    rest = (coco, tmp_path / "out", "--format", "coco")
    assert "images are too few: none is in the val split" in refused(capsys, *rest, "--split", "0.98,0.01,0.01")
    assert "'z' fits no file name" in refused(capsys, *rest, "--split", "0.5,0.5", "--group", "z")
    assert "expected a regular expression" in refused(capsys, *rest, "--split", "0.5,0.5", "--group", "(")
    assert "expected --split beside it" in refused(capsys, *rest, "--group", "a")


def test_a_dataset_that_is_divided_anew_has_unique_ids(coco: Path, tmp_path: Path) -> None:
    convert(coco, tmp_path / "out", "--format", "coco", "--split", "0.5,0.5")
    contents = [content_of(tmp_path / "out", split) for split in ("train", "val")]
    assert [len(content["images"]) for content in contents] == [2, 2]
    for content in contents:
        ids = [entry["id"] for entry in content["images"]]
        assert len(set(ids)) == len(ids)
        names = [entry["file_name"] for entry in content["images"]]
        assert len(set(names)) == len(names)


# ---- undivided datasets


@pytest.mark.slow
def test_a_dataset_that_is_not_divided_in_any_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "coco"
    write_coco(root, "default", {f"{n}.jpg": n for n in range(1, 9)}, [box(n, n, 3, n, 1, 2, 3) for n in range(1, 9)])
    convert(root / "annotations" / "instances_default.json", tmp_path / "voc", "--format", "voc")
    assert "datasets that are not divided are written as train" in capsys.readouterr().out
    convert(root, tmp_path / "yolo", "--format", "yolo")
    flat_voc, flat_yolo, beside = (tmp_path / name for name in ("flat_voc", "flat_yolo", "beside"))
    for folder in ("Annotations", "JPEGImages"):
        shutil.copytree(tmp_path / "voc" / folder, flat_voc, dirs_exist_ok=True)
    for folder in ("images", "labels"):
        shutil.copytree(tmp_path / "yolo" / folder / "train", flat_yolo / folder)
        shutil.copytree(tmp_path / "yolo" / folder / "train", beside, dirs_exist_ok=True)
    for folder in (flat_yolo, beside):
        (folder / "classes.txt").write_text("cat\ndog\nrat\n")
    for source in (root, flat_voc, flat_yolo, beside):
        out = tmp_path / f"divided_{source.name}"
        convert(source, out, "--format", "coco", "--split", "0.75,0.25")
        found = {**objects_of(out, "train"), **objects_of(out, "val")}
        assert len(objects_of(out, "train")) == 6
        lefts = {name: boxes[0][1][0] for name, boxes in found.items()}
        assert lefts == pytest.approx({f"{n}.jpg": n for n in range(1, 9)})


def test_a_folder_with_several_files_or_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert "no key 'images'" in refused(capsys, tmp_path, tmp_path / "out", "--format", "yolo")
    (tmp_path / "b.json").write_text("{}")
    assert "give the file instead of the folder" in refused(capsys, tmp_path, tmp_path / "out", "--format", "yolo")
    described = tmp_path / "described"
    described.mkdir()
    (described / "data.yaml").write_text("names: [cat]\n")
    assert "data.yaml names no split, and there is no images/" in refused(
        capsys, described, tmp_path / "out", "--format", "voc"
    )
    (tmp_path / "empty").mkdir()
    assert "no dataset: looked for" in refused(capsys, tmp_path / "empty", tmp_path / "out", "--format", "yolo")


# ---- merged datasets and classes


def test_merged_datasets_have_classes_by_name(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    (other / "images" / "train").mkdir(parents=True)
    (other / "labels" / "train").mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(other / "images" / "train" / "b.jpg")
    (other / "labels" / "train" / "b.txt").write_text("0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.25 0.25\n")
    (other / "data.yaml").write_text("train: images/train\nnames: [dog, cow]\n")
    convert(coco, other, tmp_path / "out", "--format", "coco")
    content = content_of(tmp_path / "out", "train")
    assert {entry["name"]: entry["id"] for entry in content["categories"]} == {"cat": 3, "dog": 7, "rat": 9, "cow": 1}
    assert [entry["file_name"] for entry in content["images"]] == ["b.jpg", "sub/a.png", "c.jpg", "b-2.jpg"]
    assert [entry["category_id"] for entry in content["annotations"]] == [7, 3, 3, 7, 1]
    assert not any("license" in entry for entry in content["images"])
    report = capsys.readouterr().out
    assert "not carried: the key 'info' of COCO files that differ in it: 1" in report
    assert content_of(tmp_path / "out", "val")["licenses"] == [{"id": 1}]


def test_a_class_map_and_a_subset(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(coco, tmp_path / "out", "--format", "coco", "--class_map", "{dog: pet, cat: pet}")
    content = content_of(tmp_path / "out", "train")
    assert content["categories"] == [{"id": 3, "name": "pet"}, {"id": 9, "name": "rat"}]
    assert [entry["category_id"] for entry in content["annotations"]] == [3, 3, 3]
    capsys.readouterr()
    convert(coco, tmp_path / "dogs", "--format", "coco", "--classes", "dog")
    content = content_of(tmp_path / "dogs", "train")
    assert content["categories"] == [{"id": 7, "name": "dog"}]
    assert [entry["file_name"] for entry in content["images"]] == ["b.jpg", "c.jpg"]
    assert [entry["id"] for entry in content["annotations"]] == [11]
    report = capsys.readouterr().out
    assert "not carried: objects of other classes than --classes: 2" in report
    assert "not carried: images with objects of other classes only: 1" in report
    rest = (coco, tmp_path / "new", "--format", "coco")
    assert "classes: there is no class 'dgo'; did you mean 'dog'?" in refused(capsys, *rest, "--classes", "dgo")
    assert "there is no class 'x'; the classes are 'cat', 'dog', 'rat'" in refused(
        capsys, *rest, "--class_map", "{x: y}"
    )
    assert "no image of its val split has objects of --classes" in refused(capsys, *rest, "--classes", "cat")
    renamed = (*rest, "--class_map", "{dog: 'pet, tame'}")
    hint = """names that hold commas are given as a list: '["red, ripe", green]'"""
    assert refused(capsys, *renamed, "--classes", "pet, tame").endswith(hint)
    convert(*renamed, "--classes", '["pet, tame"]')


def test_flags_of_voc_survive_coco(tmp_path: Path) -> None:
    folder = tmp_path / "voc" / "train"
    folder.mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(folder / "a.jpg")
    corners = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"
    flags = "<truncated>1</truncated><difficult>1</difficult>"
    (folder / "a.xml").write_text(f"<annotation><object><name>a&lt;b</name>{flags}{corners}</object></annotation>")
    convert(tmp_path / "voc", tmp_path / "coco", "--format", "coco")
    (annotation,) = content_of(tmp_path / "coco", "train")["annotations"]
    assert {key: annotation[key] for key in ("bbox", "iscrowd", "truncated")} == {
        "bbox": [1, 2, 2, 2],
        "iscrowd": 1,
        "truncated": 1,
    }
    convert(tmp_path / "coco", tmp_path / "again", "--format", "voc")
    text = (tmp_path / "again" / "Annotations" / "a.xml").read_text()
    assert "<truncated>1</truncated>" in text
    assert "<difficult>1</difficult>" in text
    assert "<xmax>3</xmax>" in text


@pytest.mark.parametrize(("name", "format"), [("a\\u001bb", "voc"), ("a\\u2028b", "yolo"), (" a", "voc"), ("", "voc")])
def test_class_names_that_a_format_cannot_hold_are_refused(
    coco: Path, tmp_path: Path, name: str, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = coco / "annotations" / "instances_train.json"
    file.write_text(file.read_text().replace('"rat"', f'"{name}"'))
    (coco / "annotations" / "instances_val.json").unlink()
    line = refused(capsys, coco, tmp_path / "out", "--format", format)
    assert "can't be written in this format: rename it with --class_map" in line


def test_every_format_has_a_writer() -> None:
    assert set(WRITERS) == set(get_args(AnnotationFormat))
