"""COCO JSON as tools export it: read where the disk leaves one meaning, refused with both candidates where it leaves two."""

import copy
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from detector.data.coco import CocoDataset, read_categories
from detector.data.layouts import Split, SplitPaths, find_split
from detector.data.load import load_split
from detector.errors import DataError
from detector.structures import Categories

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
needs_shared_data = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs ../shared/data")
NFC, NFD = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")


def put_images(folder: Path, *names: str) -> None:
    """Images of 40x30 pixels, each of a color of its own."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        kind = Image.registered_extensions()[Path(name).suffix.lower()]
        Image.new("RGB", (40, 30), (50 * number, 0, 0)).save(folder / name, format=kind)


def content_of(*names: str) -> dict[str, Any]:
    """An image for each name, with one object."""
    return {
        "images": [{"id": 5 + i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": 5 + i, "category_id": 1 + i % 2, "bbox": [i, 2, 10, 5 + i], "area": 40 + i}
            for i in range(len(names))
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def paths_of(folder: Path, content: dict[str, Any]) -> SplitPaths:
    """The content in a file beside the folder of images."""
    annotations = folder.parent / "annotations.json"
    annotations.write_text(json.dumps(content))
    folder.mkdir(parents=True, exist_ok=True)
    return SplitPaths(annotations, folder)


def load(folder: Path, content: dict[str, Any]) -> tuple[CocoDataset, list[str]]:
    paths = paths_of(folder, content)
    dataset = CocoDataset.load(paths)
    return dataset, [line.removeprefix(f"{paths.annotations}: ") for line in dataset.problems]


def error_of(folder: Path, content: dict[str, Any]) -> str:
    paths = paths_of(folder, content)
    with pytest.raises(DataError) as caught:
        CocoDataset.load(paths)
    text = str(caught.value)
    assert "\n" not in text
    assert str(paths.annotations) in text
    return text


# ---- names of images

ODD_NAMES = {
    "Windows separators": ("images", "1/sub/x.jpg", "1\\sub\\x.jpg"),
    "percent-encoded": ("images", "my photo ü.jpg", "my%20photo%20%C3%BC.jpg"),
    "percent-encoded folder": ("images", "a b/x.jpg", "a%20b%2Fx.jpg"),
    "suffix upper": ("images", "x.jpg", "x.JPG"),
    "suffix lower": ("images", "x.JPG", "x.jpg"),
    "suffix mixed": ("images", "x.Jpeg", "x.jpeg"),
    "NFC for NFD": ("images", f"{NFD}/{NFD}.jpg", f"{NFC}/{NFC}.jpg"),
    "NFD for NFC": ("images", f"{NFC}/{NFC}.jpg", f"{NFD}/{NFD}.jpg"),
    "absolute, into the folder": ("images", "1/x.jpg", "FOLDER/1/x.jpg"),
    "absolute, of another computer": ("images", "x.jpg", "/home/me/data/images/x.jpg"),
    "absolute, with a folder": ("train", "1/x.jpg", "/home/me/data/images/1/x.jpg"),
    "absolute, of Windows": ("images", "1/x.jpg", "C:\\Users\\me\\images\\1\\x.jpg"),
    "absolute, of a share": ("images", "x.jpg", "\\\\server\\share\\x.jpg"),
    "address": ("images", "my photo.jpg", "https://example.com/a/my%20photo.jpg"),
    "bucket": ("images", "1/x.jpg", "s3://bucket/data/1/x.jpg"),
    "images doubled": ("images", "1/x.jpg", "images/1/x.jpg"),
    "images doubled, other folder": ("train", "x.jpg", "images/x.jpg"),
    "own folder doubled": ("images/train", "x.jpg", "images/train/x.jpg"),
    "own folder doubled, once": ("images/train", "x.jpg", "train/x.jpg"),
    "images missing": (".", "images/1/x.jpg", "1/x.jpg"),
    "local files of Label Studio": ("images", "1/x y.jpg", "/data/local-files/?d=photos%2F1%2Fx%20y.jpg"),
    "local files of Label Studio, relative": ("images", "x.jpg", "data/local-files/?d=x.jpg"),
    "upload of Label Studio": ("images", "cb0618f6-x.jpg", "/data/upload/4/cb0618f6-x.jpg"),
    "several at once": ("images", f"1/{NFD} x.JPG", f"images\\1\\{NFC}%20x.jpg"),
}


@pytest.mark.parametrize("oddity", ODD_NAMES)
def test_a_name_is_found_where_it_can_mean_one_file(tmp_path: Path, oddity: str) -> None:
    place, on_disk, written = ODD_NAMES[oddity]
    folder = tmp_path / "data" / place
    put_images(folder, "first.jpg", on_disk)
    clean, lines = load(folder, content_of("first.jpg", on_disk))
    assert lines == []
    written = written.replace("FOLDER", str(folder))
    odd, lines = load(folder, content_of("first.jpg", written))
    assert odd.fingerprint() == clean.fingerprint()
    assert odd.ground_truth() == clean.ground_truth()
    assert odd.path(1) == folder / on_disk
    assert (odd.read(1).image == clean.read(1).image).all()
    assert lines == [
        "file names read as those of files on the disk that are spelled otherwise,"
        f" the first {written!r} as {on_disk!r}: 1"
    ]


def test_a_name_that_is_there_as_it_stands_is_not_searched_for(tmp_path: Path) -> None:
    names = ("a%20b.jpg", "a b.jpg", "x.jpg", "x.JPG", "1\\x.jpg", "1/x.jpg", "images/1/x.jpg")
    put_images(tmp_path / "images", *names)
    dataset, lines = load(tmp_path / "images", content_of(*names))
    assert [dataset.file_name(index) for index in range(len(names))] == list(names)
    assert [int(dataset.read(index).image[0, 0, 0]) // 45 for index in (0, 1, 4)] == [0, 1, 4]
    assert lines == []


@pytest.mark.parametrize(
    ("on_disk", "other", "written"),
    [
        ("images/x.jpg", "x.jpg", "images\\x.jpg"),
        ("1/x.jpg", "x.jpg", "FOLDER/1/x.jpg"),
        ("cb0618f6-x.jpg", "x.jpg", "/data/upload/4/cb0618f6-x.jpg"),
    ],
)
def test_what_is_closer_to_the_name_comes_first(tmp_path: Path, on_disk: str, other: str, written: str) -> None:
    """The same path, then other folders, then the name without its hash."""
    put_images(tmp_path / "images", on_disk, other)
    dataset, _ = load(tmp_path / "images", content_of(written.replace("FOLDER", str(tmp_path / "images"))))
    assert dataset.file_name(0) == on_disk


def test_hashes_of_label_studio_are_dropped_where_all_names_have_them(tmp_path: Path) -> None:
    names = ("x.jpg", "my photo.jpg", "00001111-z.jpg")
    put_images(tmp_path / "images", *names)
    clean, _ = load(tmp_path / "images", content_of(*names))
    hashes = ("cb0618f6", "12345678", "0a0b0c0d")
    written = [f"/data/upload/4/{number}-{quote(name)}" for number, name in zip(hashes, names, strict=True)]
    odd, lines = load(tmp_path / "images", content_of(*written))
    assert odd.fingerprint() == clean.fingerprint()
    assert lines[0].endswith(f"the first {written[0]!r} as 'x.jpg': 3")


@pytest.mark.parametrize("names", [("cb0618f6-x.jpg", "y.jpg"), ("20260101-x.jpg", "20260102-y.jpg")])
def test_what_may_be_no_hash_is_kept(tmp_path: Path, names: tuple[str, ...]) -> None:
    put_images(tmp_path / "images", "x.jpg", "y.jpg")
    assert f"the first: {names[0]!r}" in error_of(tmp_path / "images", content_of(*names))


AMBIGUOUS = {
    "suffix": ("images", ("x.Jpg", "x.jpg"), "x.JPG"),
    "percent": ("images", ("a b.jpg", "a%20b.jpg"), "a%20b.JPG"),
    "normalization": ("images", (f"{NFD}.jpg", f"{NFC}.jpg"), f"{NFC}.JPG"),
    "normalization of a folder": ("images", (f"{NFD}/x.jpg", f"{NFC}/x.jpg"), f"{NFC}\\x.jpg"),
    "ends of an absolute path": ("images", ("1/x.jpg", "x.jpg"), "/home/me/1/x.jpg"),
    "doubled": ("images", ("images/x.jpg", "x.jpg"), "images/images/x.jpg"),
    "doubled or missing": ("images/train", ("images/train/x.jpg", "x.jpg"), "train/x.jpg"),
    "hash": ("images", ("4/x.jpg", "x.jpg"), "/data/upload/4/cb0618f6-x.jpg"),
}


@pytest.mark.parametrize("doubt", AMBIGUOUS)
def test_a_name_that_may_mean_two_files_is_refused_with_both(tmp_path: Path, doubt: str) -> None:
    place, on_disk, written = AMBIGUOUS[doubt]
    folder = tmp_path / place
    put_images(folder, *on_disk)
    text = error_of(folder, content_of(written))
    one, other = sorted(on_disk)
    assert text.endswith(
        f"images[0].file_name is {written!r}: in {folder} this may be {one!r} or {other!r}; correct it"
    )


@pytest.mark.parametrize(
    "names",
    [
        ("/data/cam1/0001.jpg", "/data/cam2/0001.jpg"),
        ("0001.jpg", "0001.JPG"),
        ("images/0001.jpg", "0001.jpg"),
        ("aaaaaaaa-0001.jpg", "bbbbbbbb-0001.jpg"),
    ],
)
def test_two_names_for_one_file_are_refused_with_both(tmp_path: Path, names: tuple[str, str]) -> None:
    put_images(tmp_path / "images", "0001.jpg")
    text = error_of(tmp_path / "images", content_of(*names))
    assert f"images[0].file_name is {names[0]!r} and images[1].file_name is {names[1]!r}: in " in text
    assert text.endswith("both may only be '0001.jpg'; correct one of them, or add the missing image")


def test_one_odd_name_twice_is_one_image(tmp_path: Path) -> None:
    put_images(tmp_path / "images", "1/x.jpg")
    dataset, lines = load(tmp_path / "images", content_of("1\\x.jpg", "1\\x.jpg"))
    assert (len(dataset), len(dataset.boxes(0))) == (1, 2)
    assert "entries of images whose file an earlier one names, merged with it: 1" in lines


def test_links_to_one_file_are_no_doubt(tmp_path: Path) -> None:
    put_images(tmp_path / "images", "x.jpg")
    (tmp_path / "images" / "1").symlink_to(".", target_is_directory=True)
    dataset, _ = load(tmp_path / "images", content_of("/home/me/1/x.jpg"))
    assert dataset.read(0).image.shape == (30, 40, 3)


@pytest.mark.parametrize(
    "name",
    [
        "/home/me/gone.jpg",
        "C:\\gone.jpg",
        "\\gone.jpg",
        "file:///etc/passwd",
        "..\\..\\label-studio\\media\\upload\\4\\x.jpg",
        "../secret.jpg",
        "FOLDER/../secret.jpg",
        "/data/local-files/?d=../secret.jpg",
        "/data/local-files/?d=%2e%2e%2Fsecret.jpg",
        "..%2Fsecret.jpg",
        "%2e%2e/secret.jpg",
        "1/%2e%2e/%2e%2e/secret.jpg",
        "..%5Csecret.jpg",
        "x.jpg%00",
    ],
)
def test_a_name_that_leads_out_of_the_folder_stays_refused(tmp_path: Path, name: str) -> None:
    put_images(tmp_path, "secret.jpg", "images/x.jpg", "images/1/y.jpg")
    name = name.replace("FOLDER", str(tmp_path / "images"))
    text = error_of(tmp_path / "images", content_of("x.jpg", name))
    leads_out = f"images[1].file_name is {name!r}: it leads out of the image folder; write it relative to that folder"
    assert text.endswith(leads_out) or "1 of 2 images named in" in text
    assert ("%" in name and "?d=" not in name) != text.endswith(leads_out)


@pytest.mark.parametrize(
    "name", ["val/0001.jpg", "/data/val/0001.jpg", "C:\\Validation\\1\\0001.jpg", "s3://a/val2017/0001.jpg"]
)
def test_images_of_another_split_do_not_pass_for_those_in_the_folder(tmp_path: Path, name: str) -> None:
    put_images(tmp_path / "train", "0001.jpg")
    text = error_of(tmp_path / "train", content_of(name))
    assert "1 of 1 images" in text or "leads out of the image folder" in text


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("valid", "/data/val/0001.jpg"),
        ("train2017", "/home/test/Train/0001.jpg"),
        ("images", "/data/val/0001.jpg"),
        ("train", "/data/trains/valley/0001.jpg"),
    ],
)
def test_images_of_the_same_split_or_of_none_are_found(tmp_path: Path, folder: str, name: str) -> None:
    put_images(tmp_path / folder, "0001.jpg")
    dataset, _ = load(tmp_path / folder, content_of(name))
    assert dataset.file_name(0) == "0001.jpg"


def test_each_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "images"
    names = [f"{sub}/{number}.jpg" for sub in ("1", "2") for number in range(5)]
    put_images(folder, *names)
    listed: Counter[str] = Counter()
    scan = os.scandir

    def counted(path: Path) -> Any:
        listed[os.path.normpath(path)] += 1
        return scan(path)

    for written, above in ((names, {}), ([name.replace("/", "\\") for name in names], {str(folder): 1})):
        paths = paths_of(folder, content_of(*written))
        listed.clear()
        with monkeypatch.context() as patched:
            patched.setattr(os, "scandir", counted)
            CocoDataset.load(paths)
        assert listed == {str(folder / "1"): 1, str(folder / "2"): 1, **above}


@pytest.mark.parametrize("place", ["images", "images/train", "train", "."])
def test_the_folder_of_a_layout_is_that_which_holds_the_first_image_in_whatever_spelling(
    tmp_path: Path, place: str
) -> None:
    put_images(tmp_path / "labels" / "train", "nothing.jpg")
    for other in ("images", "images/train", "train"):
        put_images(tmp_path / other, "other.jpg")
    put_images(tmp_path / place, "1/x y.jpg")
    (tmp_path / "annotations").mkdir()
    for name in ("1\\x y.jpg", "1/x%20y.jpg", "/home/me/1/x%20y.JPG", str(tmp_path / place / "1" / "x y.jpg")):
        (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(content_of(name)))
        assert load_split(str(tmp_path), "train").path(0).samefile(tmp_path / place / "1" / "x y.jpg")


# ---- annotations and categories


def test_category_names_may_be_numbers(tmp_path: Path) -> None:
    put_images(tmp_path / "images", "x.jpg", "y.jpg")
    content = content_of("x.jpg", "y.jpg")
    content["categories"] = [{"id": 1, "name": 7}, {"id": 2, "name": 0.5}]
    dataset, lines = load(tmp_path / "images", content)
    assert dataset.categories == Categories((1, 2), ("7", "0.5"))
    assert lines == ["category names written as numbers: 2"]


@pytest.mark.parametrize("name", [7.0, True, None, float("nan"), [7]])
def test_a_category_name_of_two_meanings_or_none_is_refused(tmp_path: Path, name: Any) -> None:
    content = content_of("x.jpg")
    content["categories"][0]["name"] = name
    put_images(tmp_path / "images", "x.jpg")
    assert f"categories[0].name is {name!r}: must be a string" in error_of(tmp_path / "images", content)


def test_annotations_may_be_null(tmp_path: Path) -> None:
    put_images(tmp_path / "images", "x.jpg")
    dataset, lines = load(tmp_path / "images", content_of("x.jpg") | {"annotations": None})
    assert (len(dataset), len(dataset.boxes(0))) == (1, 0)
    assert lines == ["annotations is null, read as an empty list: 1"]


def with_annotation(**fields: Any) -> dict[str, Any]:
    """A file of one image with one annotation; `bbox="missing"` removes the field."""
    content = content_of("x.jpg")
    content["annotations"][0].update(fields)
    if fields.get("bbox") == "missing":
        del content["annotations"][0]["bbox"]
    return content


@pytest.mark.parametrize("box", [[], None, float("nan"), "missing"])
@pytest.mark.parametrize(
    "polygons",
    [
        [[3, 4, 13, 4, 13, 9.5, 3, 9.5]],
        [[3, 4, 5, 4, 5, 6], [13, 9.5, 12, 9, 12, 8]],
        [[3, 4], [13, 4], [8, 9.5]],
    ],
)
def test_a_missing_box_follows_from_the_polygon(tmp_path: Path, box: Any, polygons: Any) -> None:
    put_images(tmp_path / "images", "x.jpg")
    dataset, lines = load(tmp_path / "images", with_annotation(bbox=box, segmentation=polygons))
    assert dataset.boxes(0).tolist() == [[3, 4, 13, 9.5]]
    assert lines == ["boxes missing, taken from their polygons: 1"]


@pytest.mark.parametrize("box", [[], "missing"])
@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        None,
        [[]],
        [[3, 4, 13, 4]],
        [[3, 4, 13, 4, 13]],
        [[3, 4, 13, 4, 13, None]],
        [[3, 4, 13, 4, 13, float("nan")]],
        [[3, 4, 13, 4, 13, 10**400]],
        [3, 4, 13, 4, 13, 9],
        {"counts": [1, 2], "size": [30, 40]},
        "3 4",
    ],
)
def test_a_missing_box_without_a_polygon_is_refused(tmp_path: Path, box: Any, segmentation: Any) -> None:
    put_images(tmp_path / "images", "x.jpg")
    text = error_of(tmp_path / "images", with_annotation(bbox=box, segmentation=segmentation))
    assert ("must be 4 finite numbers" if box == [] else "annotations[0].bbox is missing") in text


def test_an_angle_of_0_is_dropped(tmp_path: Path) -> None:
    put_images(tmp_path / "images", "x.jpg")
    dataset, lines = load(tmp_path / "images", with_annotation(bbox=[3, 4, 10, 5.5, 0.0]))
    assert dataset.boxes(0).tolist() == [[3, 4, 13, 9.5]]
    assert lines == ["boxes of five numbers, the fifth an angle of 0: 1"]


@pytest.mark.parametrize("angle", [0, 0.3, 30])
def test_a_box_with_an_angle_follows_from_its_polygon(tmp_path: Path, angle: float) -> None:
    put_images(tmp_path / "images", "x.jpg")
    content = with_annotation(bbox=[8, 7, 10, 5.5, angle], segmentation=[[3, 4, 13, 4, 13, 9.5, 3, 9.5]])
    dataset, lines = load(tmp_path / "images", content)
    assert dataset.boxes(0).tolist() == [[3, 4, 13, 9.5]]
    assert lines == ["boxes of five numbers, the fifth an angle, taken from their polygons: 1"]


def turned_boxes(place: str, unit: str) -> tuple[dict[str, Any], np.ndarray]:
    """Bars of 16x4 pixels, upright and flat ones, that fill an image of 40x30, with five numbers a box; and the upright boxes."""
    centers = [(x, y) for x in (2, 38) for y in (8, 22)] + [(x, y) for x in (8, 32) for y in (2, 28)]
    angles = [90] * 4 + [0] * 4
    content = content_of("x.jpg")
    content["annotations"] = []
    upright = []
    for number, ((x, y), angle) in enumerate(zip(centers, angles, strict=True)):
        start = (x - 8, y - 2) if place == "corner" else (x, y)
        box = [*start, 16, 4, angle if unit == "degrees" else np.radians(angle)]
        content["annotations"].append({"id": number, "image_id": 5, "category_id": 1, "bbox": box, "area": 64})
        upright.append((x - 2, y - 8, x + 2, y + 8) if angle else (x - 8, y - 2, x + 8, y + 2))
    return content, np.array(upright)


@pytest.mark.parametrize("place", ["corner", "center"])
@pytest.mark.parametrize("unit", ["degrees", "radians"])
def test_turned_boxes_are_read_where_one_convention_fits_the_images(tmp_path: Path, place: str, unit: str) -> None:
    content, upright = turned_boxes(place, unit)
    put_images(tmp_path / "images", "x.jpg")
    dataset, lines = load(tmp_path / "images", content)
    np.testing.assert_allclose(dataset.boxes(0), upright, rtol=0, atol=1e-4)
    convention = f"x, y of the {place}, angle in {unit}"
    assert lines[0] == f"boxes of five numbers, {convention}, read as the upright boxes around them: 8"


def test_turned_boxes_of_two_meanings_are_refused_with_both(tmp_path: Path) -> None:
    put_images(tmp_path / "images", "x.jpg")
    text = error_of(tmp_path / "images", with_annotation(bbox=[18, 14, 4, 2, 90]))
    assert text.endswith(
        "annotations[0].bbox is [18, 14, 4, 2, 90] (annotation id 0): turned by its fifth number it may be"
        " [19.0, 13.0, 2.0, 4.0] (x, y of the corner, angle in degrees) or"
        " [17.0, 12.0, 2.0, 4.0] (x, y of the center, angle in degrees);"
        " write the upright box of 4 numbers, or a polygon beside it"
    )
    text = error_of(tmp_path / "images", with_annotation(bbox=[0, 14, 40, 2, 0.5]))
    assert "(x, y of the corner, angle in degrees) or [2.0, 4.5, 36.1, 20.9] (x, y of the corner, angle in rad" in text
    text = error_of(tmp_path / "images", with_annotation(bbox=[100, 100, 40, 2, 45]))
    assert "turned it is in its image in no reading; write the upright box" in text


@pytest.mark.parametrize(
    ("rotation", "upright"),
    [
        (0.0, [10, 10, 26, 14]),
        (360, [10, 10, 26, 14]),
        (90, [16, 4, 20, 20]),
        (270.0, [16, 4, 20, 20]),
        (-90, [16, 4, 20, 20]),
        (45, [18 - 10 / 2**0.5, 12 - 10 / 2**0.5, 18 + 10 / 2**0.5, 12 + 10 / 2**0.5]),
        (318.3, None),
    ],
)
def test_boxes_that_cvat_turned(tmp_path: Path, rotation: float, upright: list[float] | None) -> None:
    put_images(tmp_path / "images", "x.jpg")
    attributes = {"occluded": False, "rotation": rotation}
    content = with_annotation(bbox=[10, 10, 16, 4], attributes=attributes, segmentation=[], area=64)
    dataset, lines = load(tmp_path / "images", content)
    if upright is None:  # by another way: the corners turned about the center
        angle = np.radians(rotation)
        offsets = np.array([[-8, -2], [8, -2], [8, 2], [-8, 2]])
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        corners = offsets @ matrix.T + (18, 12)
        upright = [*corners.min(axis=0), *corners.max(axis=0)]
    np.testing.assert_allclose(dataset.boxes(0), [upright], rtol=0, atol=1e-5)
    turned = "boxes turned by attributes.rotation, as CVAT writes them, read as the upright boxes around them: 1"
    assert lines == ([turned] if rotation % 360 else [])
    assert dataset.annotations(0).areas.tolist() == [64]


@pytest.mark.parametrize("rotation", ["left", None, True, float("nan"), float("inf"), [90]])
def test_an_attribute_that_is_no_angle_turns_nothing(tmp_path: Path, rotation: Any) -> None:
    put_images(tmp_path / "images", "x.jpg")
    dataset, lines = load(tmp_path / "images", with_annotation(attributes={"rotation": rotation}))
    assert dataset.boxes(0).tolist() == [[0, 2, 10, 7]]
    assert lines == []


def test_a_box_around_a_polygon_is_not_turned_again(tmp_path: Path) -> None:
    put_images(tmp_path / "images", "x.jpg")
    content = with_annotation(attributes={"rotation": 90}, segmentation=[[0, 2, 10, 2, 10, 7]])
    dataset, lines = load(tmp_path / "images", content)
    assert dataset.boxes(0).tolist() == [[0, 2, 10, 7]]
    assert lines == []


# ---- as the tools write them


def roboflow(content: dict[str, Any], group: str = "cells") -> dict[str, Any]:
    """Categories with the one that Roboflow puts before them."""
    content = copy.deepcopy(content)
    for category in content["categories"]:
        category["supercategory"] = group
    content["categories"].insert(0, {"id": 0, "name": group, "supercategory": "none"})
    return content


def test_the_category_that_groups_all_others_is_no_class(tmp_path: Path) -> None:
    put_images(tmp_path / "images", "x.jpg", "y.jpg")
    dataset, lines = load(tmp_path / "images", roboflow(content_of("x.jpg", "y.jpg")))
    assert dataset.categories == Categories((1, 2), ("cat", "dog"))
    assert lines == ["category 'cells' without objects, the supercategory of all others, is no class: 1"]
    paths = SplitPaths(tmp_path / "annotations.json", tmp_path / "images")
    assert read_categories(paths.annotations).names == ("cells", "cat", "dog")  # a checkpoint may have it
    given = Categories((0, 1, 2), ("cells", "cat", "dog"))  # as weights have it that were trained with it
    assert CocoDataset.load(paths, given).categories == given
    assert CocoDataset.load(paths, given).problems == ()
    renumbered = CocoDataset.load(paths, Categories((0, 1), ("cat", "dog")))
    assert renumbered.categories == Categories((1, 2), ("cat", "dog"))


def test_a_group_may_be_called_as_its_class(tmp_path: Path) -> None:
    """The validation split is read with the categories of the training split."""
    put_images(tmp_path / "images", "x.jpg")
    content = content_of("x.jpg")
    del content["categories"][1]
    train, _ = load(tmp_path / "images", roboflow(content, group="cat"))
    assert train.categories == Categories((1,), ("cat",))
    paths = SplitPaths(tmp_path / "annotations.json", tmp_path / "images")
    assert CocoDataset.load(paths, train.categories).categories == train.categories
    with_group = Categories((0, 1), ("cat", "cat"))
    assert CocoDataset.load(paths, with_group).categories == with_group


@pytest.mark.parametrize("category_id", [0, "0", 0.0])
def test_a_grouping_category_with_objects_is_a_class(tmp_path: Path, category_id: Any) -> None:
    put_images(tmp_path / "images", "x.jpg", "y.jpg")
    content = roboflow(content_of("x.jpg", "y.jpg"))
    content["annotations"][0]["category_id"] = category_id
    assert load(tmp_path / "images", content)[0].categories.names == ("cells", "cat", "dog")


@pytest.mark.parametrize(
    "above", [("none", "none", "none"), ("none", "cells", "none"), ("cells", "cells", "animal"), (None, None, None)]
)
def test_a_category_that_groups_some_is_a_class(tmp_path: Path, above: tuple[str | None, ...]) -> None:
    put_images(tmp_path / "images", "x.jpg", "y.jpg")
    content = roboflow(content_of("x.jpg", "y.jpg"))
    for category, name in zip(content["categories"], above, strict=True):
        category["supercategory"] = name
    assert len(load(tmp_path / "images", content)[0].categories) == 3


def test_a_single_category_that_is_its_own_supercategory_is_a_class(tmp_path: Path) -> None:
    put_images(tmp_path / "images", "x.jpg")
    content = content_of("x.jpg") | {"categories": [{"id": 1, "name": "cat", "supercategory": "cat"}]}
    assert len(load(tmp_path / "images", content | {"annotations": []})[0].categories) == 1


Change = Callable[[dict[str, Any]], None]


def test_as_roboflow_writes_it(tmp_path: Path) -> None:
    for folder in ("train", "valid", "test"):
        name = f"photo_1_png.rf.0a1b2c3d4e5f.{folder}.jpg"
        put_images(tmp_path / folder, name)
        content = roboflow(content_of(name)) | {
            "info": {"year": "2026", "version": "1", "contributor": "", "date_created": "2026-01-01T00:00:00+00:00"},
            "licenses": [{"id": 1, "url": "https://creativecommons.org/licenses/by/4.0/", "name": "CC BY 4.0"}],
        }
        content["images"][0] |= {"license": 1, "date_captured": "2026-01-01T00:00:00+00:00", "extra": {"name": "p.png"}}
        content["annotations"][0] |= {"segmentation": [], "iscrowd": 0}
        (tmp_path / folder / "_annotations.coco.json").write_text(json.dumps(content))
    train, val = load_split(str(tmp_path), "train"), load_split(str(tmp_path), "val")
    assert train.categories == val.categories == Categories((1, 2), ("cat", "dog"))
    assert val.path(0).parent.name == "valid"
    assert val.boxes(0).tolist() == [[0, 2, 10, 7]]


@pytest.mark.parametrize("name", ["annotations/instances_default.json", "result.json"])
def test_a_file_of_no_split_is_named(tmp_path: Path, name: str) -> None:
    """CVAT writes the former without subsets, Label Studio the latter."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(
        DataError, match=r"no train split: .*; splits found: none; name the paths .*--paths\.train_json"
    ) as caught:
        load_split(str(tmp_path), "train")
    assert f"; {tmp_path / name} is of no split (detector convert --split 0.8,0.2 divides" in str(caught.value)


def test_as_cvat_writes_it(tmp_path: Path) -> None:
    """Subsets by the names of CVAT's interface, image names with the folders of the task, an attribute on each object."""
    for subset in ("Train", "Validation", "Test"):
        put_images(tmp_path / "images" / subset, "frames/frame_000000.PNG", "b.jpg")
        content = content_of("frames/frame_000000.PNG", "b.jpg") | {
            "licenses": [{"name": "", "id": 0, "url": ""}],
            "info": {"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""},
        }
        for image in content["images"]:
            image |= {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}
        for category in content["categories"]:
            category["supercategory"] = ""
        content["annotations"][0] |= {"segmentation": [], "attributes": {"occluded": False, "rotation": 0.0}}
        content["annotations"][1] |= {"bbox": [10.0, 10.0, 16.0, 4.0], "segmentation": [], "area": 64.0}
        content["annotations"][1]["attributes"] = {"occluded": True, "rotation": 90.0, "track_id": 3, "keyframe": True}
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{subset}.json").write_text(json.dumps(content))
    for split in ("train", "val", "test"):
        dataset = load_split(str(tmp_path), split)  # type: ignore[arg-type]
        np.testing.assert_allclose(dataset.boxes(0), [[0, 2, 10, 7]])
        np.testing.assert_allclose(dataset.boxes(1), [[16, 4, 20, 20]], atol=1e-5)
        (line,) = dataset.problems
        assert line.endswith("as CVAT writes them, read as the upright boxes around them: 1")


def label_studio(content: dict[str, Any], written: Callable[[str], str]) -> dict[str, Any]:
    """As Label Studio writes it: no sizes for images on a server, categories from 0, its own address in `file_name`."""
    content = copy.deepcopy(content)
    for image in content["images"]:
        del image["width"], image["height"]
        image["file_name"] = written(image["file_name"])
    numbers = {category["id"]: number for number, category in enumerate(content["categories"])}
    content["categories"] = [{"id": numbers[each["id"]], "name": each["name"]} for each in content["categories"]]
    for annotation in content["annotations"]:
        annotation |= {"category_id": numbers[annotation["category_id"]], "segmentation": [], "ignore": 0}
    return content | {"info": {"year": 2026, "version": "1.0", "contributor": "Label Studio", "url": ""}}


LABEL_STUDIO: dict[str, tuple[str, Callable[[str], str]]] = {
    "with images": ("images", lambda name: f"images/{name}"),
    "with images, on Windows": ("images", lambda name: f"images\\{name}"),
    "annotations only": ("photos", lambda name: f"/data/upload/4/{quote(name)}"),
    "local files": ("photos", lambda name: f"/data/local-files/?d={quote(f'set/photos/{name}', safe='')}"),
    "cloud": ("photos", lambda name: f"s3://bucket/set/{name}"),
}


@pytest.mark.parametrize("variant", LABEL_STUDIO)
@pytest.mark.parametrize("kept", [True, False])
def test_as_label_studio_writes_it(tmp_path: Path, variant: str, kept: bool) -> None:
    """kept: whether the images on the disk have the hashes that Label Studio gave them, or their first names."""
    place, written = LABEL_STUDIO[variant]
    hashed = ("cb0618f6-a b.jpg", "00aa11bb-ü.jpg")
    names = hashed if kept else tuple(name[9:] for name in hashed)
    put_images(tmp_path / place, *names)
    clean, _ = load(tmp_path / place, content_of(*names))
    dataset, lines = load(tmp_path / place, label_studio(content_of(*hashed), written))
    assert [dataset.path(index) for index in range(2)] == [clean.path(index) for index in range(2)]
    assert [dataset.boxes(index).tolist() for index in range(2)] == [clean.boxes(index).tolist() for index in range(2)]
    assert [dataset.size(index) for index in range(2)] == [(40, 30)] * 2
    assert dataset.categories == Categories((0, 1), ("cat", "dog"))
    assert "sizes of images missing or not positive, read from the images: 2" in lines
    assert sum("file names read as" in line for line in lines) == 1


# ---- real images

CHANGES: dict[str, Change] = {
    "Windows": lambda image: image.update(file_name="images\\" + image["file_name"]),
    "absolute": lambda image: image.update(file_name="/home/me/bccd/" + image["file_name"]),
    "percent": lambda image: image.update(file_name=f"%{ord(image['file_name'][0]):02X}{image['file_name'][1:]}"),
    "suffix": lambda image: image.update(file_name=image["file_name"].replace(".jpg", ".JPG")),
    "local files": lambda image: image.update(file_name="/data/local-files/?d=bccd%2F" + image["file_name"]),
    "upload": lambda image: image.update(file_name=f"/data/upload/1/{image['id']:07x}a-" + image["file_name"]),
}


@needs_shared_data
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("data", "split"), [("bccd", "test"), ("coco-tiny", "val")])
def test_odd_copies_load_to_the_same_dataset(tmp_path: Path, data: str, split: Split, change: str) -> None:
    paths = find_split(SHARED_DATA / data, split)
    clean = CocoDataset.load(paths)
    content = json.loads(paths.annotations.read_bytes())
    for image in content["images"]:
        CHANGES[change](image)
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    odd = CocoDataset.load(SplitPaths(tmp_path / "annotations.json", paths.images))
    assert odd.fingerprint() == clean.fingerprint()
    assert odd.ground_truth() == clean.ground_truth()
    assert len(odd.problems) == len(clean.problems) + 1
    (line,) = (line for line in odd.problems if "file names read as" in line)
    assert line.endswith(f": {len(clean)}")
