"""Annotation files, directory layouts and image files: what is read, and what is said when they are wrong."""

import copy
import json
import os
import subprocess
import sys
import warnings
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch.multiprocessing
from PIL import Image

from detector.data.annotation_file import AnnotationFile
from detector.data.coco import CocoDataset
from detector.data.compare import doubts
from detector.data.layouts import SplitPaths, find_split
from detector.errors import DataError
from detector.images import read
from detector.images.read import UnreadableImageError, read_image
from detector.structures import Categories

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
needs_shared_data = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs ../shared/data")

# Two images of 40x30, ids with gaps, category 7 listed before 3, one crowd, one annotation without iscrowd.
CONTENT: dict[str, Any] = {
    "images": [
        {"id": 12, "file_name": "a.jpg", "width": 40, "height": 30},
        {"id": 5, "file_name": "sub/b.jpg", "width": 40, "height": 30},
        {"id": 90, "file_name": "c.jpg", "width": 40, "height": 30},
    ],
    "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 11, "name": "unused"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 5,
            "category_id": 7,
            "bbox": [1, 2, 10, 5],
            "area": 40,
            "iscrowd": 0,
            "segmentation": "any",
        },
        {"id": 2, "image_id": 12, "category_id": 3, "bbox": [0.5, 0.25, 3, 4.5], "area": 13.5},
        {"id": 9, "image_id": 5, "category_id": 3, "bbox": [4, 4, 20, 20], "area": 300, "iscrowd": 1},
        {"id": 4, "image_id": 5, "category_id": 3, "bbox": [2, 2, 2, 2], "area": 4, "iscrowd": 0},
    ],
}


def write_data_set(root: Path, content: Any = CONTENT) -> SplitPaths:
    paths = SplitPaths(root / "annotations" / "instances_train.json", root / "train")
    paths.annotations.parent.mkdir(parents=True)
    paths.annotations.write_text(content if isinstance(content, str) else json.dumps(content))
    (paths.images / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.jpg", "c.jpg"):
        Image.new("RGB", (40, 30), (200, 100, 50)).save(paths.images / name)
    return paths


def changed(section: str, index: int, **fields: Any) -> dict[str, Any]:
    content = copy.deepcopy(CONTENT)
    content[section][index].update(fields)
    return content


def without(section: str, index: int, field: str) -> dict[str, Any]:
    content = copy.deepcopy(CONTENT)
    del content[section][index][field]
    return content


def error_of(root: Path, content: Any) -> str:
    paths = write_data_set(root, content)
    with pytest.raises(DataError) as caught:
        CocoDataset.load(paths)
    text = str(caught.value)
    assert "\n" not in text
    assert str(paths.annotations) in text
    return text


# ---- annotation files


def test_annotations_of_another_format_make_the_same_dataset(tmp_path: Path) -> None:
    """As a module for folders of text files would: `label x y width height` a line."""
    paths = write_data_set(tmp_path)
    lines = {"sub/b.jpg": ["7 1 2 10 5", "3 2 2 2 2"], "a.jpg": ["3 0.5 0.25 3 4.5"], "c.jpg": []}
    image_of = {entry["file_name"]: entry for entry in CONTENT["images"]}
    annotations = []
    for name, rows in lines.items():
        for label, *box in (map(float, row.split()) for row in rows):
            entry = {"id": len(annotations), "image_id": image_of[name]["id"], "category_id": int(label), "bbox": box}
            annotations.append(entry)
    content = {"images": CONTENT["images"], "categories": CONTENT["categories"], "annotations": annotations}
    other, loaded = CocoDataset.from_annotations(AnnotationFile(tmp_path, content), paths), CocoDataset.load(paths)
    for index in range(3):
        assert other.boxes(index).tolist() == loaded.boxes(index).tolist()
        assert other.labels(index).tolist() == loaded.labels(index).tolist()
    assert other.fingerprint() != loaded.fingerprint()  # no crowd region
    again = CocoDataset.from_annotations(AnnotationFile(tmp_path / "elsewhere", copy.deepcopy(content)), paths)
    assert again.fingerprint() == other.fingerprint()


def test_ids_with_gaps_become_labels_in_the_order_of_the_category_ids(tmp_path: Path) -> None:
    images = CocoDataset.load(write_data_set(tmp_path))
    assert images.categories == Categories((3, 7, 11), ("cat", "dog", "unused"))
    assert [images.image_id(index) for index in range(len(images))] == [12, 5, 90]
    assert [images.file_name(index) for index in range(3)] == ["a.jpg", "sub/b.jpg", "c.jpg"]
    assert images.path(1) == tmp_path / "train" / "sub" / "b.jpg"
    assert images.size(0) == (40, 30)
    assert images.problems == ()
    np.testing.assert_array_equal(images.boxes(0), [[0.5, 0.25, 3.5, 4.75]])
    np.testing.assert_array_equal(images.boxes(1), [[1, 2, 11, 7], [2, 2, 4, 4]])
    np.testing.assert_array_equal(images.labels(1), [1, 0])


def test_crowds_are_kept_apart_from_objects(tmp_path: Path) -> None:
    images = CocoDataset.load(write_data_set(tmp_path))
    np.testing.assert_array_equal(images.crowd_boxes(1), [[4, 4, 24, 24]])
    assert len(images.crowd_boxes(0)) == 0


def test_an_image_without_objects_has_empty_arrays_of_the_right_kind(tmp_path: Path) -> None:
    sample = CocoDataset.load(write_data_set(tmp_path)).read(2)
    assert (sample.image.shape, sample.image.dtype) == ((30, 40, 3), np.uint8)
    assert (sample.boxes.shape, sample.boxes.dtype) == ((0, 4), np.float32)
    assert (sample.labels.shape, sample.labels.dtype) == ((0,), np.int64)
    assert (sample.crowd_boxes.shape, sample.crowd_boxes.dtype) == ((0, 4), np.float32)


def test_a_data_set_without_annotations_loads(tmp_path: Path) -> None:
    images = CocoDataset.load(write_data_set(tmp_path, {**CONTENT, "annotations": []}))
    assert [len(images.boxes(index)) for index in range(len(images))] == [0, 0, 0]


def test_what_is_handed_out_is_a_copy(tmp_path: Path) -> None:
    images = CocoDataset.load(write_data_set(tmp_path))
    for rows in (images.boxes(1), images.labels(1), images.crowd_boxes(1)):
        rows[:] = 77
    assert not (images.boxes(1) == 77).any()
    assert not (images.labels(1) == 77).any()
    assert not (images.crowd_boxes(1) == 77).any()


def test_boxes_are_clipped_to_the_image_and_empty_ones_dropped_and_both_are_counted(tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    boxes = [[-5, -5, 10, 10], [35, 20, 10, 20], [50, 5, 5, 5], [3, 3, 0, 4], [3, 3, 4, -1], [30, 20, 10.005, 10]]
    content["annotations"] = [
        {"id": index, "image_id": 12, "category_id": 3, "bbox": box, "area": 25} for index, box in enumerate(boxes)
    ]
    paths = write_data_set(tmp_path, content)
    images = CocoDataset.load(paths)
    np.testing.assert_array_equal(images.boxes(0), [[0, 0, 5, 5], [35, 20, 40, 30], [30, 20, 40, 30]])
    assert [line.removeprefix(f"{paths.annotations}: ") for line in images.problems] == [
        "areas that are all 25, so APsmall, APmedium, APlarge tell nothing: 6",
        "boxes clipped to their image: 2",
        "boxes of no area in their image, not learned; AP counts their objects as missed, as pycocotools does: 3",
    ]


def test_polygons_are_outlines_where_they_fit_their_box(tmp_path: Path) -> None:
    """In the order of the objects, which a crowd region does not disturb; what has none is outlined by its box."""
    image = {"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}
    triangle, square = [10, 10, 30.5, 10, 20, 40], [60, 60, 70, 60, 70, 70, 60, 70]
    rle: Any = {"size": [80, 100], "counts": [8000]}
    entries: list[tuple[list[float], Any, int]] = [
        ([0, 0, 50, 50], [[0, 0, 50, 0, 50, 50]], 1),
        ([10, 10, 20.5, 30], [triangle], 0),
        ([10, 10, 60, 60], [triangle, square], 0),  # an object in two pieces
        ([5, 5, 20, 20], [square], 0),  # somebody else's
        ([40, 40, 10, 10], rle, 0),
        ([90, 70, 15, 15], [[90, 70, 105, 70, 105, 85, 90, 85]], 0),  # clipped to the image: more than 2 px are gone
        ([89, 70, 12, 9], [[89, 70, 101, 70, 101, 79]], 0),  # less are gone
        ([1, 1, 8, 8], [], 0),
    ]
    annotations = [
        {"id": number, "image_id": 1, "category_id": 1, "bbox": box, "segmentation": polygons, "iscrowd": crowd}
        for number, (box, polygons, crowd) in enumerate(entries, start=1)
    ]
    content = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    paths = write_data_set(tmp_path, content)
    dataset = CocoDataset.from_annotations(AnnotationFile.parse(paths.annotations), paths, polygons=True)
    outlines = dataset.outlines(0)

    def rings(index: int) -> list[list[list[float]]]:
        own = outlines.owners == index
        return [outlines.points[own & (outlines.polygons == p)].tolist() for p in np.unique(outlines.polygons[own])]

    def pairs(numbers: list[float]) -> list[list[float]]:
        return np.array(numbers, np.float32).reshape(-1, 2).tolist()

    def corners(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
        return [[left, top], [right, top], [right, bottom], [left, bottom]]

    assert rings(0) == [pairs(triangle)]
    assert rings(1) == [pairs(triangle), pairs(square)]
    assert rings(2) == [corners(5, 5, 25, 25)]
    assert rings(3) == [corners(40, 40, 50, 50)]
    assert rings(4) == [corners(90, 70, 100, 80)]
    assert rings(5) == [pairs([89, 70, 100, 70, 100, 79])]
    assert rings(6) == [corners(1, 1, 9, 9)]
    bare = CocoDataset.from_annotations(AnnotationFile.parse(paths.annotations), paths)
    assert bare.outlines(0).points.tolist() == [point for box in bare.boxes(0).tolist() for point in corners(*box)]
    assert bare.fingerprint() != dataset.fingerprint()  # a resumed run must see the same polygons


def test_corners_are_added_in_double_precision(tmp_path: Path) -> None:
    content = changed("annotations", 0, bbox=[16000.7, 3, 8000.15, 5])
    content["images"][1]["width"] = 30000
    images = CocoDataset.load(write_data_set(tmp_path, content))
    assert images.boxes(1)[0, 2] == np.float32(16000.7 + 8000.15)


def test_unusual_file_names_survive(tmp_path: Path) -> None:
    paths = write_data_set(tmp_path, changed("images", 0, file_name="./Ünï 日本.jpg"))
    (paths.images / "a.jpg").rename(paths.images / "Ünï 日本.jpg")
    images = CocoDataset.load(paths)
    assert images.file_name(0) == "./Ünï 日本.jpg"
    assert images.read(0).image.shape == (30, 40, 3)


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    paths = write_data_set(tmp_path)
    paths.annotations.write_bytes(b"\xef\xbb\xbf" + paths.annotations.read_bytes())
    assert len(CocoDataset.load(paths)) == 3


def test_given_categories_decide_the_labels_and_a_subset_of_them_agrees(tmp_path: Path) -> None:
    given = Categories((1, 3, 7, 11), ("first", "cat", "dog", "unused"))
    images = CocoDataset.load(write_data_set(tmp_path), given)
    assert images.categories == given
    np.testing.assert_array_equal(images.labels(1), [2, 1])


def test_given_categories_need_no_order(tmp_path: Path) -> None:
    images = CocoDataset.load(write_data_set(tmp_path), Categories((11, 7, 3), ("unused", "dog", "cat")))
    np.testing.assert_array_equal(images.labels(1), [1, 2])


def test_the_same_names_with_other_ids_are_matched_by_name_with_a_line(tmp_path: Path) -> None:
    """CONTENT numbers cat 3, dog 7 and unused 11."""
    paths = write_data_set(tmp_path)
    images = CocoDataset.load(paths, Categories((0, 1, 2), ("cat", "dog", "unused")))
    assert images.categories == Categories((3, 7, 11), ("cat", "dog", "unused"))
    np.testing.assert_array_equal(images.labels(1), [1, 0])
    (line,) = (line for line in images.problems if "by name" in line)
    assert line.startswith(f"{paths.annotations}: classes of other ids than in ")


@pytest.mark.parametrize(
    ("own", "theirs"),
    [
        (("cat", "dog", "unused"), ("dog", "cat", "unused")),
        (("cat", "dog", "unused"), ("Cat", "dog", "unused")),
        (("cat", "dog", "unused"), ("cat", "dog", "unused", "cow")),
        (("cat", "dog", "dog"), ("cat", "dog", "dog")),
        (("cat", "dog", "Dog"), ("cat", "dog", "Dog")),
    ],
)
def test_other_ids_are_refused_where_names_leave_a_doubt(
    tmp_path: Path, own: tuple[str, ...], theirs: tuple[str, ...]
) -> None:
    categories = [
        {**category, "name": name}
        for category, name in zip(sorted(CONTENT["categories"], key=lambda c: c["id"]), own, strict=True)
    ]
    paths = write_data_set(tmp_path, {**CONTENT, "categories": categories})
    with pytest.raises(DataError, match=r"its categories are not those .*import a checkpoint with --annotations"):
        CocoDataset.load(paths, Categories(tuple(range(len(theirs))), theirs))


def test_categories_that_disagree_are_refused_with_the_difference(tmp_path: Path) -> None:
    paths = write_data_set(tmp_path)
    with pytest.raises(DataError) as caught:
        CocoDataset.load(paths, Categories((3, 7), ("cat", "horse")))
    text = str(caught.value)
    assert text.startswith(f"{paths.annotations}: its categories are not those of ")
    assert text.endswith("id 7 is 'dog' here and 'horse' there; id 11 is 'unused' here and unknown there")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"images": [],\n "annotations": [}', "this is not JSON: Expecting value at line 2, column 18"),
        ("", "this is not JSON: Expecting value at line 1, column 1"),
        ("[" * 200_000, "this can't be read as JSON: "),
        (
            json.dumps(CONTENT)[:-1] + ', "annotations": []}',
            "this can't be read as JSON: the key 'annotations' appears twice in one object; export it again",
        ),
        ("[]", "this is not a COCO annotation file: it holds a list, not an object"),
        ({"images": [], "annotations": []}, "this is not a COCO annotation file: it has no key 'categories'"),
        ({"images": [], "categories": []}, "this is not a COCO annotation file: it has no key 'annotations'"),
        ({"annotations": [], "categories": []}, "this is not a COCO annotation file: it has no key 'images'"),
        ({**CONTENT, "images": {"1": 2}}, "this is not a COCO annotation file: 'images' is not a list"),
        ({**CONTENT, "annotations": [None]}, "annotations[0] is not an object"),
        ({**CONTENT, "categories": []}, "'categories' is empty"),
        ({**CONTENT, "images": []}, "'images' is empty"),
        (without("annotations", 2, "bbox"), "annotations[2].bbox is missing"),
        (without("annotations", 1, "image_id"), "annotations[1].image_id is missing"),
        (without("images", 1, "file_name"), "images[1].file_name is missing"),
        (without("categories", 0, "name"), "categories[0].name is missing"),
        (changed("annotations", 2, image_id=6), "annotations[2].image_id is 6 (annotation id 9): no entry of 'images'"),
        (
            changed("annotations", 2, image_id="5a"),
            "annotations[2].image_id is '5a' (annotation id 9): must be an integer",
        ),
        (changed("annotations", 3, category_id=99), "annotations[3].category_id is 99 (annotation id 4): no entry of"),
        (changed("annotations", 3, iscrowd=2), "annotations[3].iscrowd is 2 (annotation id 4): must be 0 or 1"),
        (changed("annotations", 3, iscrowd=[]), "annotations[3].iscrowd is [] (annotation id 4): must be an integer"),
        (changed("images", 1, id=12), "images[1].id is 12: an earlier entry has the same"),
        (changed("images", 1, id=1.5), "images[1].id is 1.5: must be an integer"),
        (changed("images", 1, id=10**30), "must be an integer"),
        (changed("categories", 2, id=7), "categories[2].id is 7: an earlier entry has the same"),
        (changed("categories", 2, name=None), "categories[2].name is None: must be a string"),
        (changed("images", 0, height=30.5), "images[0].height is 30.5: must be an integer"),
        (changed("images", 0, height=True), "images[0].height is True: must be an integer"),
        (changed("images", 0, file_name=3), "images[0].file_name is 3: must be the name of a file"),
        (changed("images", 0, file_name="a\0"), "images[0].file_name is 'a\\x00': must be the name of a file"),
    ],
)
def test_a_wrong_annotation_file_is_refused_with_the_place(tmp_path: Path, content: Any, told: str) -> None:
    assert told in error_of(tmp_path, content)


@pytest.mark.parametrize(
    "box",
    [
        [1, 2, 3],
        [1, 2, 3, 4, 5, 6],
        [1, 2, 3, "4"],
        [1, 2, 3, None],
        [1, 2, 3, True],
        [1, 2, 3, float("nan")],
        [float("inf"), 2, 3, 4],
        [1, 2, 3, 10**400],
        None,
        {},
        "1234",
        [],
    ],
)
def test_a_box_is_four_finite_numbers(tmp_path: Path, box: Any) -> None:
    text = error_of(tmp_path, changed("annotations", 2, bbox=box))
    assert "annotations[2].bbox is " in text
    assert "(annotation id 9): must be 4 finite numbers" in text


@pytest.mark.parametrize("name", ["../a.jpg", "sub/../../a.jpg", "/etc/passwd", "..", "..\\a.jpg", "C:\\d.jpg", "\\a"])
def test_a_file_name_that_leaves_the_image_folder_is_refused(tmp_path: Path, name: str) -> None:
    text = error_of(tmp_path, changed("images", 1, file_name=name))
    assert f"images[1].file_name is {name!r}: it leads out of the image folder" in text


def test_a_missing_annotation_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: this annotation file does not exist"):
        CocoDataset.load(SplitPaths(tmp_path / "none.json", tmp_path))


def test_images_absent_on_disk_are_counted_and_the_first_named(tmp_path: Path) -> None:
    paths = write_data_set(tmp_path)
    (paths.images / "sub" / "b.jpg").unlink()
    (paths.images / "c.jpg").unlink()
    with pytest.raises(DataError) as caught:
        CocoDataset.load(paths)
    assert f"2 of 3 images named in {paths.annotations} are not in {paths.images}, the first: 'sub/b.jpg'" in str(
        caught.value
    )


def test_a_folder_in_place_of_an_image_counts_as_absent(tmp_path: Path) -> None:
    assert "1 of 3 images" in error_of(tmp_path, changed("images", 0, file_name="sub"))


def test_linked_images_are_found_and_broken_links_are_not(tmp_path: Path) -> None:
    paths = write_data_set(tmp_path)
    (paths.images / "a.jpg").rename(tmp_path / "elsewhere.jpg")
    (paths.images / "a.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    assert CocoDataset.load(paths).read(0).image.shape == (30, 40, 3)
    (tmp_path / "elsewhere.jpg").unlink()
    with pytest.raises(DataError, match="1 of 3 images"):
        CocoDataset.load(paths)


def test_a_missing_image_folder_is_named(tmp_path: Path) -> None:
    paths = write_data_set(tmp_path)
    with pytest.raises(DataError, match=r"gone: this image folder of .* does not exist.*--paths\.train_images"):
        CocoDataset.load(SplitPaths(paths.annotations, tmp_path / "gone"))


@pytest.mark.slow
def test_pickling_for_a_worker_is_small_however_many_annotations(tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    content["annotations"] = [
        {"id": index, "image_id": 12, "category_id": 3, "bbox": [1.5, 2, 3, 4 + index / 1e5]}
        for index in range(100_000)
    ]
    images = CocoDataset.load(write_data_set(tmp_path, content))
    assert len(images.boxes(0)) == 100_000
    assert len(bytes(ForkingPickler.dumps(images))) < 10_000


def read_in_worker(images: CocoDataset, answers: Any) -> None:
    answers.put((images.file_name(1), images.boxes(1).tolist(), images.read(1).image.shape))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_workers_read_the_same_as_the_parent(tmp_path: Path, method: str) -> None:
    images = CocoDataset.load(write_data_set(tmp_path))
    context = torch.multiprocessing.get_context(method)
    answers = context.SimpleQueue()
    worker = context.Process(target=read_in_worker, args=(images, answers))
    worker.start()
    worker.join(120)
    assert worker.exitcode == 0
    assert answers.get() == ("sub/b.jpg", images.boxes(1).tolist(), (30, 40, 3))


@needs_shared_data
def test_coco_loads_with_its_gaps_and_crowds() -> None:
    paths = find_split(SHARED_DATA / "coco-tiny", "val")
    assert paths.images.name == "val2017"
    images = CocoDataset.load(paths)
    assert (len(images), len(images.categories), images.categories.ids[-1]) == (80, 80, 90)
    annotations = json.loads(paths.annotations.read_bytes())["annotations"]
    crowds = sum(len(images.crowd_boxes(index)) for index in range(80))
    assert crowds == sum(annotation["iscrowd"] for annotation in annotations) > 0
    assert crowds + sum(len(images.boxes(index)) for index in range(80)) == len(annotations)
    sample = images.read(0)
    assert sample.image.shape[1::-1] == images.size(0)


@needs_shared_data
def test_bccd_loads_all_three_splits() -> None:
    root = SHARED_DATA / "bccd"
    train = CocoDataset.load(find_split(root, "train"))
    val = CocoDataset.load(find_split(root, "val"), train.categories)
    test = CocoDataset.load(find_split(root, "test"), train.categories)
    assert [len(split) for split in (train, val, test)] == [205, 87, 72]
    assert val.read(3).image.shape == (480, 640, 3)


# ---- what is read otherwise than it is written


def lines_of(paths: SplitPaths) -> tuple[CocoDataset, list[str]]:
    dataset = CocoDataset.load(paths)
    assert all(line.startswith(f"{paths.annotations}: ") for line in dataset.problems)
    return dataset, [line.removeprefix(f"{paths.annotations}: ") for line in dataset.problems]


COMPUTED = "areas missing, negative or not finite, computed from polygon or box: 1"
UNUSABLE = [-1, float("inf"), float("nan"), True, None, "40", 1e11, 10**400, [], "missing"]


@pytest.mark.parametrize("area", UNUSABLE, ids=[repr(area)[:9] for area in UNUSABLE])
@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        (None, 50.0),
        ({"counts": "abc", "size": [30, 40]}, 50.0),
        ("1234", 50.0),
        ([[0, 0, 1e300, 0, 1e300, 1e300]], 50.0),
        ([[1, 2, 11, 2, 11, 7]], 25.0),
        ([[1, 2, 5, 2, 5, 7, 1, 7], [7, 2, 7, 7, 11, 7]], 30.0),
    ],
)
def test_an_area_that_cannot_be_used_is_computed(tmp_path: Path, area: Any, segmentation: Any, expected: float) -> None:
    content = changed("annotations", 0, area=area, segmentation=segmentation)
    if area == "missing":
        del content["annotations"][0]["area"]
    dataset, lines = lines_of(write_data_set(tmp_path, content))
    assert dataset.annotations(1).areas.tolist() == [expected, 300, 4]
    assert lines == [COMPUTED]


def test_an_area_of_0_stays_with_a_line(tmp_path: Path) -> None:
    dataset, lines = lines_of(write_data_set(tmp_path, changed("annotations", 0, area=0)))
    assert dataset.annotations(1).areas.tolist() == [0, 300, 4]
    assert lines == ["areas of 0 beside a larger box, so APsmall counts the object: 1"]


@pytest.mark.parametrize("area", [0, 1])
def test_an_area_that_is_the_same_for_all_stays_with_a_line(tmp_path: Path, area: int) -> None:
    content = copy.deepcopy(CONTENT)
    content["annotations"] = [{**annotation, "area": area} for annotation in content["annotations"]]
    dataset, lines = lines_of(write_data_set(tmp_path, content))
    assert dataset.annotations(1).areas.tolist() == [area] * 3
    assert lines == [f"areas that are all {area}, so APsmall, APmedium, APlarge tell nothing: 4"]


def same(one: CocoDataset, other: CocoDataset) -> bool:
    return one.fingerprint() == other.fingerprint() and one.ground_truth() == other.ground_truth()


def test_whole_numbers_are_read_in_any_dress(tmp_path: Path) -> None:
    plain = CocoDataset.load(write_data_set(tmp_path / "plain"))
    content = copy.deepcopy(CONTENT)
    content["images"][0].update(id="12", width=40.0, height="30.0")
    content["categories"][0].update(id=7.0)
    for annotation, crowd in zip(content["annotations"], (None, 0.0, "1", False), strict=True):
        annotation.update(image_id=str(annotation["image_id"]), iscrowd=crowd)
    dataset, lines = lines_of(write_data_set(tmp_path / "dressed", content))
    assert same(dataset, plain)
    assert lines == ['integers written as decimal number or text, such as 1.0 or "1": 10']


@pytest.mark.parametrize(
    "number", [1.5, "1.5", "", " 5", "5 ", "0x5", "1_2", "٥", "1e3", float("nan"), float("inf"), 1e30]
)
def test_what_is_no_whole_number_is_refused(tmp_path: Path, number: Any) -> None:
    assert "must be an integer" in error_of(tmp_path, changed("images", 0, id=number))


@pytest.mark.parametrize("width", [-1, 0, None, float("nan"), "-1", "missing"])
def test_a_size_that_is_missing_or_not_positive_is_read_from_the_image(tmp_path: Path, width: Any) -> None:
    content = changed("images", 0, width=width)
    if width == "missing":
        del content["images"][0]["width"]
    paths = write_data_set(tmp_path, content)
    oriented_image(paths.images / "a.jpg", 6)
    dataset, lines = lines_of(paths)
    assert dataset.size(0) == (48, 64)
    assert dataset.read(0).image.shape == (64, 48, 3)
    assert "sizes of images missing or not positive, read from the images: 1" in lines
    (paths.images / "a.jpg").write_bytes(b"")
    with pytest.raises(UnreadableImageError, match=r"a\.jpg: this image is empty"):
        CocoDataset.load(paths)


def test_entries_of_one_file_are_one_image(tmp_path: Path) -> None:
    """As tools write them that make an entry of `images` for each annotation; ids may be repeated too."""
    content = copy.deepcopy(CONTENT)
    content["images"] += [{**CONTENT["images"][1], "id": 91, "file_name": "./sub/b.jpg"}, dict(CONTENT["images"][0])]
    content["annotations"][2]["image_id"] = content["annotations"][3]["image_id"] = 91
    dataset, lines = lines_of(write_data_set(tmp_path / "many", content))
    assert same(dataset, CocoDataset.load(write_data_set(tmp_path / "one")))
    assert lines == ["entries of images whose file an earlier one names, merged with it: 2"]


def test_two_sizes_of_one_file_are_refused(tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    content["images"].append({"id": 91, "file_name": "a.jpg", "width": 30, "height": 40})
    text = error_of(tmp_path, content)
    assert "images[3] is 'a.jpg' of 30x40, images[0] is the same file of 40x30: correct width and height" in text


def test_equal_annotations_count_once(tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    content["annotations"] += [{**annotation, "id": 100} for annotation in CONTENT["annotations"]]
    content["annotations"].append({**CONTENT["annotations"][0], "category_id": 3})  # another object
    content["annotations"].append({**CONTENT["annotations"][0], "iscrowd": 1})
    dataset, lines = lines_of(write_data_set(tmp_path / "twice", content))
    del content["annotations"][4:8]
    assert same(dataset, CocoDataset.load(write_data_set(tmp_path / "once", content)))
    assert lines == ["annotations with image, category and box of an earlier one, counted once: 4"]


def many_boxes(form: Any) -> dict[str, Any]:
    """A file of 60 random objects, wholly inside their image, with boxes as `form` writes them."""
    random = np.random.default_rng(0)
    annotations = []
    for index in range(60):
        size = random.uniform(3, 20, 2)
        corner = random.uniform(0, 1, 2) * ((40, 30) - size)
        box = form(corner, size).tolist()
        annotations.append({"id": index, "image_id": 12, "category_id": 3, "bbox": box, "area": float(size.prod())})
    return {**CONTENT, "annotations": annotations}


FORMATS_OF_BOXES = {
    "fractions of the image: multiply": lambda corner, size: np.concatenate([corner / (40, 30), size / (40, 30)]),
    "corners x1, y1, x2, y2: write": lambda corner, size: np.concatenate([corner, corner + size]),
    "center x, center y, width, height: take": lambda corner, size: np.concatenate([corner + size / 2, size]),
    "corners y1, x1, y2, x2: write x1, y1, x2 - x1": lambda corner, size: np.concatenate(
        [corner[::-1], (corner + size)[::-1]]
    ),
    "fractions of the image and corners x1, y1, x2, y2 or y1, x1, y2, x2: multiply them by its width and height,"
    " then write x1, y1, x2 - x1": lambda corner, size: np.concatenate([corner / (40, 30), (corner + size) / (40, 30)]),
    "fractions of the image and center x, center y, width, height: multiply them by its width and height,"
    " then take": lambda corner, size: np.concatenate([(corner + size / 2) / (40, 30), size / (40, 30)]),
}


@pytest.mark.parametrize("told", FORMATS_OF_BOXES)
def test_boxes_of_another_format_are_refused(tmp_path: Path, told: str) -> None:
    content = many_boxes(FORMATS_OF_BOXES[told])
    content["annotations"].append(
        {**content["annotations"][0], "bbox": [-3, 5, 0, 0]}
    )  # one without area tells nothing
    assert f"bbox must be x, y, width, height in pixels, but nearly all boxes are {told}" in error_of(tmp_path, content)


def test_boxes_of_the_right_format_are_not_refused(tmp_path: Path) -> None:
    for name, slip in (("exact", 0.0), ("with_rims", 1.0)):
        content = many_boxes(lambda corner, size, slip=slip: np.concatenate([corner - slip, size + 2 * slip]))
        CocoDataset.load(write_data_set(tmp_path / name, content))


def test_every_annotation_a_crowd_is_told(tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    content["annotations"] = [{**annotation, "iscrowd": 1} for annotation in content["annotations"]]
    _, lines = lines_of(write_data_set(tmp_path, content))
    assert lines == ["annotations, all of them iscrowd: there is no object to learn or to find: 4"]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "huge"])
def test_an_annotation_file_without_end_is_refused(tmp_path: Path, kind: str) -> None:
    paths = write_data_set(tmp_path)
    paths.annotations.unlink()
    if kind == "pipe":
        os.mkfifo(paths.annotations)
    elif kind == "device":
        paths.annotations.symlink_to("/dev/zero")
    elif kind == "folder":
        paths.annotations.mkdir()
    else:
        with paths.annotations.open("wb") as file:
            file.truncate(2**43)  # takes no room on the disk
    told = r"the free memory" if kind == "huge" else r"not a regular file"
    assert find_split(tmp_path, "train").images == paths.images
    with pytest.raises(DataError, match=rf"instances_train\.json: .*{told}; name another with --paths"):
        CocoDataset.load(paths)


def test_classes_without_objects_and_images_of_both_splits_are_told(tmp_path: Path) -> None:
    train = CocoDataset.load(write_data_set(tmp_path / "train"))
    other = write_data_set(tmp_path / "val")
    for name, color in (("a.jpg", 1), ("sub/b.jpg", 2)):
        Image.new("RGB", (40, 30), (color, 0, 0)).save(other.images / name)
    (other.images / "a.jpg").unlink()
    (other.images / "a.jpg").symlink_to(train.path(0))
    lines = list(doubts(train, CocoDataset.load(other)))
    assert lines == [
        f"{train.annotations_path}: classes without objects, which can't be learned: 1 ('unused')",
        f"{other.annotations}: validation images that are training images too, so that AP is too high: 2 of 3,"
        " the first: 'a.jpg'",
    ]
    (other.images / "a.jpg").unlink()
    Image.new("RGB", (40, 30), (3, 0, 0)).save(other.images / "a.jpg")
    Image.new("RGB", (40, 30), (4, 0, 0)).save(other.images / "c.jpg")
    assert len(list(doubts(train, CocoDataset.load(other)))) == 1


# ---- layouts


def put_split(root: Path, annotations: str, images: str, name: str = "a.jpg") -> SplitPaths:
    paths = SplitPaths(root / annotations, root / images)
    paths.annotations.parent.mkdir(parents=True, exist_ok=True)
    paths.images.mkdir(parents=True, exist_ok=True)
    paths.annotations.write_text(json.dumps({"images": [{"id": 1, "file_name": name}]}))
    (paths.images / name).write_bytes(b"")
    return paths


@pytest.mark.parametrize("images", ["train2017", "images/train2017", "train", "images/train", "images", "."])
def test_the_coco_layout_has_its_images_in_one_of_several_folders(tmp_path: Path, images: str) -> None:
    paths = put_split(tmp_path, "annotations/instances_train2017.json", images)
    assert find_split(tmp_path, "train") == paths


def test_a_folder_that_holds_the_first_image_is_preferred(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    paths = put_split(tmp_path, "annotations/instances_train.json", "images/train", "é\\b.jpg")
    assert find_split(tmp_path, "train") == paths


@pytest.mark.parametrize("text", ["no json at all", '{"file_name": "\\ud8"}', '{"file_name": "a\\u0000b"}', "", "\xff"])
def test_without_a_first_image_the_first_folder_that_exists_is_taken(tmp_path: Path, text: str) -> None:
    paths = put_split(tmp_path, "annotations/instances_val.json", "images")
    paths.annotations.write_text(text)
    assert find_split(tmp_path, "val") == paths


@pytest.mark.parametrize(("split", "folder"), [("train", "train"), ("val", "valid"), ("test", "test")])
def test_the_roboflow_layout_has_its_images_beside_the_annotations(tmp_path: Path, split: Any, folder: str) -> None:
    paths = put_split(tmp_path, f"{folder}/_annotations.coco.json", folder)
    assert find_split(tmp_path, split) == paths


def layout_error(root: Path, split: Any) -> str:
    with pytest.raises(DataError) as caught:
        find_split(root, split)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(root))
    options = f"--paths.{split}_json and --paths.{split}_images (train and evaluate take them)"
    assert text.endswith(f"name the paths with {options}")
    return text


def test_several_splits_of_one_name_are_listed(tmp_path: Path) -> None:
    first = put_split(tmp_path, "annotations/instances_train2014.json", "train2014")
    second = put_split(tmp_path, "annotations/instances_train2017.json", "train2017")
    third = put_split(tmp_path, "train/_annotations.coco.json", "train")
    text = layout_error(tmp_path, "train")
    assert f"several train splits: {first.annotations}, {second.annotations}, {third.annotations}; " in text


def test_a_missing_split_is_told_with_the_splits_there_are(tmp_path: Path) -> None:
    put_split(tmp_path, "annotations/instances_train.json", "train")
    put_split(tmp_path, "annotations/instances_test.json", "test")
    text = layout_error(tmp_path, "val")
    assert "no val split: looked for annotations/instances_val*.json and valid/_annotations.coco.json" in text
    assert "; splits found: train, test; " in text


def test_a_folder_without_a_layout_or_no_folder_at_all_is_told(tmp_path: Path) -> None:
    assert "; splits found: none; " in layout_error(tmp_path, "train")
    assert "this dataset folder does not exist" in layout_error(tmp_path / "gone", "test")


# ---- images

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# Corner colors, top left, top right, bottom right, bottom left, as a person sees the image, when the stored
# pixels have red, green, blue, white there (the EXIF standard's table of where row 0 and column 0 belong).
SEEN_CORNERS = {
    1: (RED, GREEN, BLUE, WHITE),
    2: (GREEN, RED, WHITE, BLUE),
    3: (BLUE, WHITE, RED, GREEN),
    4: (WHITE, BLUE, GREEN, RED),
    5: (RED, WHITE, BLUE, GREEN),
    6: (WHITE, RED, GREEN, BLUE),
    7: (BLUE, GREEN, RED, WHITE),
    8: (GREEN, BLUE, WHITE, RED),
}


def oriented_image(path: Path, orientation: int, width: int = 64, height: int = 48) -> Path:
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, width // 2 :], pixels[height // 2 :, : width // 2] = BLUE, WHITE
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}
    Image.fromarray(pixels).save(path, exif=exif, **options)
    return path


def corners(pixels: np.ndarray) -> tuple[tuple[int, ...], ...]:
    points = pixels[[4, 4, -5, -5], [4, -5, -5, 4]]
    return tuple(tuple(color) for color in np.where(points > 127, 255, 0).tolist())


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_without_a_size_and_where_the_turned_image_fits(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    path = oriented_image(tmp_path / f"a{suffix}", orientation)
    size = (48, 64) if orientation >= 5 else (64, 48)
    for pixels in (read_image(path), read_image(path, size)):
        assert (pixels.shape[1], pixels.shape[0]) == size
        assert corners(pixels) == SEEN_CORNERS[orientation]
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(5, 9))
def test_orientation_is_left_off_where_only_the_stored_image_fits(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    pixels = read_image(oriented_image(tmp_path / f"a{suffix}", orientation), (64, 48))
    assert pixels.shape == (48, 64, 3)
    assert corners(pixels) == SEEN_CORNERS[1]
    assert pixels.flags.c_contiguous


def test_a_square_image_is_turned(tmp_path: Path) -> None:
    pixels = read_image(oriented_image(tmp_path / "a.png", 6, 40, 40), (40, 40))
    assert corners(pixels) == SEEN_CORNERS[6]


@pytest.mark.parametrize(("orientation", "exif"), [(6, " (EXIF orientation 6)"), (1, "")])
def test_a_size_that_fits_neither_way_is_told(tmp_path: Path, orientation: int, exif: str) -> None:
    path = oriented_image(tmp_path / "a.jpg", orientation)
    with pytest.raises(UnreadableImageError) as caught:
        read_image(path, (80, 60))
    assert str(caught.value) == (
        f"{path}: the image is 64x48{exif}, the annotation file says 80x60: "
        "correct width and height of this image there"
    )


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_does_not_exist_is_none(tmp_path: Path, orientation: int) -> None:
    assert corners(read_image(oriented_image(tmp_path / "a.jpg", orientation))) == SEEN_CORNERS[1]


def test_broken_metadata_do_not_spoil_an_image(tmp_path: Path) -> None:
    path = oriented_image(tmp_path / "a.jpg", 6)
    path.write_bytes(path.read_bytes().replace(b"Exif\0\0MM", b"Exif\0\0??").replace(b"Exif\0\0II", b"Exif\0\0??"))
    assert corners(read_image(path)) == SEEN_CORNERS[1]


GRAY_16 = np.full((6, 9), 0x80FF, np.uint16)
IMAGES = {
    "gray.png": (Image.new("L", (9, 6), 128), (128, 128, 128)),
    "gray.jpg": (Image.new("L", (9, 6), 128), (128, 128, 128)),
    "bits.png": (Image.new("1", (9, 6), 1), (255, 255, 255)),
    "gray_alpha.png": (Image.new("LA", (9, 6), (128, 0)), (128, 128, 128)),
    "rgb.png": (Image.new("RGB", (9, 6), (10, 20, 30)), (10, 20, 30)),
    "rgb.bmp": (Image.new("RGB", (9, 6), (10, 20, 30)), (10, 20, 30)),
    "alpha.png": (Image.new("RGBA", (9, 6), (10, 20, 30, 0)), (10, 20, 30)),
    "palette.png": (Image.new("RGB", (9, 6), (10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE), (10, 20, 30)),
    "palette.gif": (Image.new("RGB", (9, 6), (10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE), (10, 20, 30)),
    "cmyk.tif": (Image.new("CMYK", (9, 6), (0, 255, 255, 0)), (255, 0, 0)),
    "cmyk.jpg": (Image.new("CMYK", (9, 6), (0, 255, 255, 0)), (254, 0, 0)),
    "gray_16.png": (Image.fromarray(GRAY_16), (128, 128, 128)),
    "gray_16.tif": (Image.fromarray(GRAY_16), (128, 128, 128)),
    "gray_32.tif": (Image.fromarray(GRAY_16.astype(np.int32)), (128, 128, 128)),
    "gray_16.pgm": (Image.fromarray(GRAY_16), (128, 128, 128)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_every_kind_of_image_comes_as_8_bit_rgb(tmp_path: Path, name: str) -> None:
    image, color = IMAGES[name]
    image.save(tmp_path / name)
    pixels = read_image(tmp_path / name, (9, 6))
    assert (pixels.shape, pixels.dtype, pixels.flags.c_contiguous) == ((6, 9, 3), np.uint8, True)
    np.testing.assert_allclose(pixels.astype(int), np.broadcast_to(color, (6, 9, 3)), atol=1)


def test_16_bit_color_keeps_the_high_byte(tmp_path: Path) -> None:
    blue_green_red = np.broadcast_to(np.array([0x1EFF, 0x14FF, 0x0AFF], np.uint16), (6, 9, 3))
    for name in ("a.png", "a.tif"):
        cv2.imwrite(str(tmp_path / name), blue_green_red)
        assert (read_image(tmp_path / name) == (10, 20, 30)).all()


def test_a_transparent_palette_brings_no_warning(tmp_path: Path) -> None:
    image = Image.new("RGB", (9, 6), (10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    image.save(tmp_path / "a.png", transparency=bytes([0] * 256))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (read_image(tmp_path / "a.png") == (10, 20, 30)).all()


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((6, 9), 0.5, np.float32), "floating-point numbers"),
        (np.full((6, 9), 70_000, np.int32), "beyond 0..65535"),
    ],
)
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, pixels: np.ndarray, reason: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    assert reason in image_error(tmp_path / "a.tif")


COUNTED = np.arange(6 * 9, dtype=np.uint16).reshape(6, 9)


@pytest.mark.parametrize(
    ("suffix", "dtype", "step", "bits"),
    [(".png", np.uint16, 77, 12), (".tif", np.uint16, 77, 12), (".tif", np.int32, 4, 8), (".png", np.uint16, 1200, 16)],
)
@pytest.mark.parametrize("bands", [1, 3])
def test_deep_values_are_scaled_by_the_bits_they_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, dtype: type, step: int, bits: int, bands: int
) -> None:
    read._said.clear()
    values = (COUNTED * step).astype(dtype)
    if bands == 1:
        Image.fromarray(values).save(tmp_path / f"a{suffix}")
    else:
        cv2.imwrite(str(tmp_path / f"a{suffix}"), np.repeat(values.astype(np.uint16)[..., None], 3, axis=2))
    for _ in range(2):
        pixels = read_image(tmp_path / f"a{suffix}")
        assert np.array_equal(pixels, np.repeat((values >> (bits - 8))[..., None], 3, axis=2))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (bits < 16)
    assert all(f"{bits} bits" in line and str(tmp_path) in line for line in lines)


def test_the_range_that_a_tiff_file_declares_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(COUNTED).save(tmp_path / "a.tif", tiffinfo={281: 1023})
    assert np.array_equal(read_image(tmp_path / "a.tif")[..., 0], COUNTED >> 2)
    assert capsys.readouterr().err == ""


def test_further_pages_are_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read._said.clear()
    pages = [Image.new("L", (9, 6), shade) for shade in (10, 20, 30)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert (read_image(tmp_path / "a.tif") == 10).all()
    read_image(tmp_path / "a.tif")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path / 'a.tif'}: this image has 3 pages")


def test_a_tiff_image_that_pillow_does_not_know_is_described(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.tif"), np.zeros((6, 9, 3), np.float32))
    assert "3 bands of 32-bit floating-point values" in image_error(tmp_path / "a.tif")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB")
def test_a_large_image_takes_few_bytes_a_pixel(tmp_path: Path) -> None:
    Image.new("RGBA", (8000, 8000)).save(tmp_path / "a.png")
    script = (
        "import sys, resource, pathlib, detector.images.read as read\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); read.read_image(pathlib.Path(sys.argv[1])); print((peak() - before) * 1024 / 64e6)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.png")], capture_output=True, text=True)
    assert float(done.stdout) < 8.5, done.stderr


def image_error(path: Path) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        read_image(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    return text


def noise_image(path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_a_truncated_image_is_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    path = noise_image(tmp_path / f"a{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    image_error(path)


def test_every_length_a_jpeg_or_png_can_be_cut_to_is_survived(tmp_path: Path) -> None:
    for suffix in (".jpg", ".png"):
        content = oriented_image(tmp_path / f"whole{suffix}", 6, 16, 16).read_bytes()
        path = tmp_path / f"cut{suffix}"
        for length in range(0, len(content) - 20, 3):
            path.write_bytes(content[:length])
            image_error(path)


def test_missing_empty_and_foreign_files_are_told_apart(tmp_path: Path) -> None:
    assert image_error(tmp_path / "gone.jpg").endswith("this image does not exist")
    (tmp_path / "empty.jpg").touch()
    assert image_error(tmp_path / "empty.jpg").endswith("this image is empty (0 bytes)")
    (tmp_path / "text.jpg").write_text("hello")
    assert "this is not an image of a known format (JPEG, PNG, " in image_error(tmp_path / "text.jpg")
    assert "can't be read: Is a directory" in image_error(tmp_path)


def test_postscript_is_not_handed_to_an_interpreter(tmp_path: Path) -> None:
    Image.new("RGB", (9, 6)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    assert "not an image of a known format" in image_error(tmp_path / "a.jpg")
