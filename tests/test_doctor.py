"""The doctor: each planted fault is found, a clean dataset has none, the mended copy is what was meant."""

import copy
import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from planted_faults import FAULTS, LABEL_FAULTS, Planter, missed_faults, only_test, plant_all, plant_labels

from detector import cli
from detector.config import DoctorConfig, TrainConfig
from detector.data.annotation_file import AnnotationFile
from detector.data.layouts import SplitPaths
from detector.data.load import load_split
from detector.demo.scenes import make_dataset
from detector.doctor.annotations import check_annotations
from detector.doctor.classes import check_classes
from detector.doctor.columns import Columns
from detector.doctor.doctor import check_dataset, doctor
from detector.doctor.fix import Source, mended
from detector.doctor.hashes import LARGEST_DISTANCE, close_pairs, fingerprint
from detector.doctor.labels import check_labels
from detector.doctor.object_sizes import check_object_sizes
from detector.doctor.overlaps import coinciding_pairs
from detector.errors import ConfigError, DataError
from detector.images.input_size import InputSize
from detector.structures import Detections
from detector.training.distributed import World
from detector.training.setup import load_datasets

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "data"
    make_dataset(root, seed=3, train=60, val=12, test=3)
    return root


@pytest.fixture
def clean(drawn: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(drawn, tmp_path / "data"))


def findings(root: Path, out: Path, **options: Any) -> dict[str, dict[str, Any]]:
    """The findings by code, as doctor.json has them."""
    doctor(DoctorConfig(data=str(root), out=str(out), **options))
    return {each["code"]: each for each in json.loads((out / "doctor.json").read_text())["findings"]}


def columns_of(**lists: Any) -> Columns:
    """A split of images of 100x80 px, whose files are not there, with two classes."""
    content = {
        "images": [{"id": number, "file_name": f"{number}.jpg", "width": 100, "height": 80} for number in range(1, 5)],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    file = AnnotationFile(Path("train.json"), {**content, **lists})
    return Columns.of("train", file, SplitPaths(Path("train.json"), Path("nowhere")))


def annotations(*boxes: Any, images: Any = None, **fields: Any) -> list[dict[str, Any]]:
    return [
        {"id": number, "image_id": image, "category_id": 1, "bbox": box, **fields}
        for number, (box, image) in enumerate(zip(boxes, images or itertools.repeat(1), strict=False), start=1)
    ]


def codes(columns: Columns) -> dict[str, int]:
    return {each.code: each.count for each in check_annotations(columns) if each.code != "image-missing"}


# ---- planted faults


@pytest.mark.slow
@pytest.mark.parametrize("name", ["drawn", "bccd", "coco-tiny", "suite/underwater", "suite/tables"])
@pytest.mark.slow
def test_planted_faults_are_found(name: str, drawn: Path, tmp_path: Path) -> None:
    """A finding that the dataset has already must count more, or name what was planted."""
    clean = drawn if name == "drawn" else SHARED_DATA / name
    if not clean.is_dir():
        pytest.skip("needs ../shared/data")
    root = Path(shutil.copytree(clean, tmp_path / "data"))
    before = findings(clean, tmp_path / "before")
    plant_all(root)
    after = findings(root, tmp_path / "after")
    assert missed_faults(before, after) == []
    assert len(FAULTS) >= 25
    if name == "drawn":
        assert {each["severity"] for each in before.values()} == {"note"}
        assert set(after) <= {*FAULTS, *before, "refused"}


# ---- boxes


def test_each_fault_of_a_box_is_found() -> None:
    split = columns_of(
        annotations=annotations(
            [10, 10, 20, 20],
            [90, 10, 20, 20],  # outside
            [30, 30, -5, 9],  # negative
            [200, 10, 20, 20],  # empty
            [40, 40, 1, 20],  # tiny
            [10, 10, 20, 20],  # doubled
            [10, 10, 20, 19.5],  # nearly doubled
            [5, 5, None, 20],  # none
        )
    )
    assert codes(split) == {
        "box-missing": 1,
        "box-negative": 1,
        "box-empty": 1,
        "box-outside": 1,
        "box-tiny": 1,
        "box-doubled": 1,
        "box-nearly-doubled": 1,
    }


def test_crowds_and_boxes_a_little_outside_are_no_findings() -> None:
    crowds = annotations([10, 10, 20, 20], [10, 10, 20, 19.5], iscrowd=1)
    assert codes(columns_of(annotations=[*crowds, *annotations([79.5, 10, 21, 20])])) == {"annotation-id": 1}


@pytest.mark.parametrize(
    ("convert", "code", "name", "mended"),
    [
        (lambda x, y, w, h: [x, y, x + w, y + h], "box-format", "corners x1, y1, x2, y2", True),
        (lambda x, y, w, h: [y, x, y + h, x + w], "box-format", "corners y1, x1, y2, x2", True),
        (lambda x, y, w, h: [x + w / 2, y + h / 2, w, h], "box-format", "center x, center y, width, height", True),
        (lambda x, y, w, h: [x / 100, y / 80, w / 100, h / 80], "box-fractions", "fractions of the image", True),
        (lambda x, y, w, h: [x / 100, y / 80, (x + w) / 100, (y + h) / 80], "box-fractions", "fractions", False),
    ],
)
def test_boxes_of_another_format_are_named_and_converted(convert: Any, code: str, name: str, mended: bool) -> None:
    """All boxes of a file; corners in fractions may have x or y first."""
    rng = np.random.default_rng(0)
    corners = [sorted(rng.uniform(0, side, 2)) for _ in range(20) for side in (100, 80)]
    pairs = zip(corners[::2], corners[1::2], strict=True)
    boxes = [[float(side) for side in (x1, y1, x2 - x1, y2 - y1)] for (x1, x2), (y1, y2) in pairs]
    split = columns_of(annotations=annotations(*(convert(*box) for box in boxes)))
    (finding,) = (
        each for each in check_annotations(split) if each.severity == "error" and each.code != "image-missing"
    )
    assert (finding.code, finding.mended, finding.count) == (code, mended, 20)
    assert name in finding.what
    if mended:
        shown = [view.boxes[0] for example in finding.examples for view in example.views]
        np.testing.assert_allclose(sorted(shown), sorted([x, y, x + w, y + h] for x, y, w, h in boxes), atol=1e-9)


def test_corners_in_some_images_are_found() -> None:
    """In images 1 and 2 of 4; without them nothing is."""
    right = annotations(*([x, 5, 30, 30] for x in range(0, 60, 5)), images=itertools.cycle([3, 4]))
    wrong = annotations([60, 20, 90, 70], [5, 40, 50, 75], [70, 5, 95, 30], [40, 40, 90, 70], images=[1, 1, 2, 2])
    assert codes(columns_of(annotations=right)) == {}
    assert codes(columns_of(annotations=[*right, *wrong])) == {"annotation-id": 4, "box-format": 4}


def test_coinciding_pairs_are_those_that_brute_force_finds() -> None:
    rng = np.random.default_rng(1)
    boxes = rng.integers(0, 40, (300, 4)) + np.array([0, 0, 10, 10])
    near = boxes[rng.integers(0, 300, 200)] + rng.integers(0, 2, (200, 4))
    boxes = np.concatenate([boxes, near])
    images = rng.integers(0, 6, 500)

    def iou(a: Any, b: Any) -> Fraction:
        wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
        high = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
        common = max(wide, 0) * max(high, 0)
        return Fraction(int(common), int(a[2] * a[3] + b[2] * b[3] - common))

    for threshold in (0.75, 0.5):  # exact in binary
        expected = [
            [i, j]
            for i, j in itertools.combinations(range(500), 2)
            if images[i] == images[j] and iou(boxes[i], boxes[j]) >= Fraction(threshold)
        ]
        assert len(expected) > 20
        assert coinciding_pairs(images, boxes.astype(np.float64), threshold).tolist() == expected


# ---- entries and classes


def test_what_the_loader_refuses_first_hides_nothing_else() -> None:
    """An entry that can't be read counts once, the others are looked at."""
    wrong = annotations([10, 10, 20, 20], "no box", [90, 10, 30, 30], [1, 2, 3], images=[1, 77, 2, 3])
    wrong[0]["category_id"] = {"id": 1}
    assert codes(columns_of(annotations=wrong)) == {
        "image-unknown": 1,
        "class-unknown": 1,
        "box-missing": 2,
        "box-outside": 1,
    }


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        (("traffic light", "Traffic_Light"), True),
        (("cell", "cells"), True),
        (("motorcycle", "motorcyle"), True),
        (("platelets", "paltelets"), True),
        (("boat", "goat"), False),
        (("type a", "type b"), False),
        (("class1", "class2"), False),
        (("red cell", "white cell"), False),
    ],
)
def test_classes_spelled_alike(names: tuple[str, str], alike: bool) -> None:
    split = columns_of(categories=[{"id": number, "name": name} for number, name in enumerate(names, start=1)])
    assert ("class-alike" in {each.code for each in check_classes([split], numbered=False)}) == alike


def test_the_image_size_that_cures_small_objects_does() -> None:
    """Sides of 2 to 40 px in images of 100 px, which 64 px make smaller."""
    boxes = [[10, 10, side, side + 5] for side in np.linspace(2, 40, 200).tolist()]
    split = columns_of(annotations=annotations(*boxes))
    (finding,) = check_object_sizes([split], InputSize(64, 64))
    assert finding.counts == {"train": sum(side[2] * 0.64 < 8 for side in boxes)}
    size = int(re.search(r"--image_size (\d+) leaves 2%", finding.remedy)[1])  # type: ignore[index]
    assert sum(side[2] * size / 100 < 8 for side in boxes) <= 0.02 * len(boxes)
    assert sum(side[2] * (size - 32) / 100 < 8 for side in boxes) > 0.02 * len(boxes)
    assert list(check_object_sizes([split], InputSize(size, size))) == []


def test_tiles_pay_where_images_are_larger_than_the_input() -> None:
    images = [{"id": 1, "file_name": "1.jpg", "width": 4000, "height": 3000}]
    split = columns_of(images=images, annotations=annotations(*([x, 50, 24, 20] for x in range(0, 3000, 60))))
    (finding,) = check_object_sizes([split], InputSize(640, 640))
    advice = (
        "tiles pay, as images are 4000 px long: --train.tiles 640 (train) with --tiles 640 (infer, evaluate) leaves 0%"
    )
    assert f"only --image_size 1600 would leave 2%; {advice}" in finding.remedy
    assert list(check_object_sizes([split], InputSize(640, 640), tiles=640)) == []  # a training through them is fine
    assert list(check_object_sizes([split], InputSize(640, 640), tiles=2000)) != []


# ---- images


def test_close_pairs_are_those_that_brute_force_finds() -> None:
    rng = np.random.default_rng(2)
    hashes = rng.integers(0, 2**64, 300, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in rng.choice(64, number, replace=False)) for number in rng.integers(0, 12, 300)]
    hashes = np.concatenate([hashes, hashes ^ np.array(flips, np.uint64)])
    for distance in (0, 3, LARGEST_DISTANCE):
        expected = [
            [i, j]
            for i, j in itertools.combinations(range(len(hashes)), 2)
            if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= distance
        ]
        assert len(expected) > 10
        assert close_pairs(hashes, distance).tolist() == expected
    assert close_pairs(hashes[:0], 3).tolist() == []


@pytest.mark.slow
def test_images_of_another_folder_are_compared(clean: Path, tmp_path: Path) -> None:
    other = tmp_path / "photos" / "below"
    other.mkdir(parents=True)
    with Image.open(clean / "val" / "000005.jpg") as image:
        image.resize((150, 120)).save(other / "copy.png")
    found = findings(clean, tmp_path / "out", against=str(tmp_path / "photos"))
    assert found["overlap-same"]["splits"] == {"val": 1}
    assert "below/copy.png" in found["overlap-same"]["examples"][0]["text"]
    with pytest.raises(DataError, match="--against"):
        findings(clean, tmp_path / "out", against=str(clean / "annotations"))


@pytest.mark.slow
def test_a_fingerprint_is_that_of_the_image_as_shown(clean: Path) -> None:
    with Image.open(clean / "train" / "000003.jpg") as image:
        pixels = np.asarray(image)
    brighter = (pixels * 0.8 + 30).astype(np.uint8)
    assert int(fingerprint(pixels).bits ^ fingerprint(brighter).bits).bit_count() <= 4
    assert int(fingerprint(pixels).bits ^ fingerprint(np.rot90(pixels).copy()).bits).bit_count() > 10


# ---- labels against weights


@pytest.mark.slow
def test_labels_that_a_network_contradicts(drawn: Path) -> None:
    """A network that finds all objects but one, one as another class, and one where nothing is labeled."""
    dataset = load_split(str(drawn), "train")
    detections = {}
    for index in range(len(dataset)):
        boxes, classes = torch.from_numpy(dataset.boxes(index)), torch.from_numpy(dataset.labels(index))
        scores = torch.full((len(boxes),), 0.9)
        if index == 0:
            boxes, classes, scores = boxes[1:], classes[1:], scores[1:]
        if index == 3:
            classes[0] = (classes[0] + 1) % len(dataset.categories)
        if index == 1:  # an image without objects
            boxes, classes, scores = torch.tensor([[5.0, 5, 50, 50]]), torch.tensor([2]), torch.tensor([0.8])
        detections[index] = Detections(boxes, scores, classes, dataset.categories)
    findings = list(check_labels(dataset, detections, "train"))
    assert {each.code: each.count for each in findings} == {"label-missing": 1, "label-class": 1, "label-not-found": 1}
    by_code = {each.code: each.examples[0] for each in findings}
    assert dataset.file_name(1) in by_code["label-missing"].text
    assert dataset.file_name(3) in by_code["label-class"].text
    (shown,) = by_code["label-not-found"].views
    x, y, width, height = dataset.annotations(0).boxes[0]
    np.testing.assert_allclose(shown.boxes[0], [x, y, x + width, y + height])


@pytest.mark.slow
def test_suspicious_labels_in_real_data(tmp_path: Path) -> None:
    """A label removed, one added that is like no cell, one of another class."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs ../shared/data")
    root = Path(shutil.copytree(SHARED_DATA / "bccd", tmp_path / "data"))
    only_test(root)
    before = findings(root, tmp_path / "before", weights="yolo11n-bccd", device="cpu")
    plant_labels(root)
    after = findings(root, tmp_path / "after", weights="yolo11n-bccd", device="cpu")
    assert missed_faults(before, after, LABEL_FAULTS) == []


# ---- the mended copy


MENDABLE = [
    code
    for code in FAULTS
    if code.startswith(("box-outside", "box-empty", "box-negative", "box-doubled", "box-f", "class-background"))
    or code in ("image-unknown", "image-listed-twice", "image-size-missing", "annotation-id")
]


@pytest.mark.slow
def test_the_mended_copy_is_what_was_meant(drawn: Path, clean: Path, tmp_path: Path) -> None:
    plant = Planter(clean)
    for code in MENDABLE:
        FAULTS[code](plant)
    plant.save()
    digests = digests_of(clean)
    found = findings(clean, tmp_path / "before", annotations_only=True, fix=str(tmp_path / "mended"))
    assert {code for code, each in found.items() if each["fix"]} == set(MENDABLE)
    assert digests_of(clean) == digests
    assert not {*findings(tmp_path / "mended", tmp_path / "after")} & {*MENDABLE, "refused", "image-missing"}
    meant, mended = (load_split(str(root), "train") for root in (drawn, tmp_path / "mended"))
    assert mended.problems == ()
    assert mended.categories == meant.categories
    added = 0
    for index in range(len(meant)):
        boxes, expected = mended.boxes(index).tolist(), meant.boxes(index).tolist()
        added += len(boxes) - len(expected)
        np.testing.assert_allclose(
            np.reshape(boxes[: len(expected)], (-1, 4)), np.reshape(expected, (-1, 4)), atol=2e-4
        )
    assert added == 2  # the one clipped, the one turned round
    assert "licenses" in json.loads((tmp_path / "mended" / "annotations" / "instances_train.json").read_text())


def digests_of(root: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_mended_copy_takes_the_place_of_nothing(clean: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exists already"):
        doctor(DoctorConfig(data=str(clean), fix=str(clean)))
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ConfigError, match="exists already"):
        doctor(DoctorConfig(data=str(clean), fix=str(blocked)))


# ---- the command


def test_any_document_gets_findings_and_a_mended_copy() -> None:
    """Wrong values of any kind at random places: no error, no warning of NumPy."""
    rng = np.random.default_rng(5)
    far = [
        1e308,
        float("nan"),
        float("inf"),
        -1,
        2**62,
        2**70,
        [0, 0, 1e-320, 1e-300],
        [0, 0, 2**62, 2**62],
        [-5, -5, 3, 3],
    ]
    values = [None, "x", "", "../../a", "a\0b", [], {}, True, [1, 2, None, 4], "\ud800", ["1", "2", "3", "4"], *far]
    paths = SplitPaths(Path("train"), Path("nowhere"))
    for _ in range(150):
        boxes = annotations(*([each, each, 20, 20] for each in range(12)), images=itertools.cycle([1, 2, 3, 4]))
        content = {
            "images": [{"id": each, "file_name": f"{each}.jpg", "width": 100, "height": 80} for each in range(1, 5)],
            "annotations": boxes,
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        }
        for _ in range(rng.integers(1, 6)):
            section = content[list(content)[rng.integers(3)]]
            entry = section[rng.integers(len(section))]
            entry[list(entry)[rng.integers(len(entry))]] = copy.deepcopy(values[rng.integers(len(values))])
        file = AnnotationFile(paths.annotations, content)
        columns = Columns.of("train", file, paths)
        with np.errstate(all="raise", under="ignore"):
            found = list(check_dataset([columns, columns], InputSize(640, 640), numbered=False))
        assert json.dumps([each.to_json() for each in found])
        mended(Source("train", file, paths), columns, set())


@pytest.mark.slow
def test_exit_codes(clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", str(clean)]) == 0
    plant = Planter(clean)
    FAULTS["box-tiny"](plant)
    plant.save()
    assert cli.main(["doctor", str(clean), "--annotations_only"]) == 1
    FAULTS["box-missing"](plant)
    plant.save()
    assert cli.main(["doctor", str(clean), "--annotations_only"]) == 3
    assert "box-missing" in capsys.readouterr().out
    assert cli.main(["doctor", str(tmp_path / "nothing")]) == 2
    (clean / "annotations" / "instances_val.json").write_text("{")
    assert cli.main(["doctor", str(clean)]) == 2
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.slow
def test_foreign_names_run_nothing_and_lead_nowhere(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file outside the image folder is neither opened nor copied; names are shown, not obeyed."""
    secret = clean.parent / "secret.jpg"
    shutil.copy(clean / "train" / "000003.jpg", secret)
    plant = Planter(clean)
    for name in ("../../secret.jpg", str(secret), "..\\..\\secret.jpg"):
        plant.add_image(name, 320, 240, "train")
    plant.add_class("<script>alert(1)</script>\x1b[2J")
    plant.save()
    found = findings(clean, tmp_path / "out", fix=str(tmp_path / "mended"))
    assert found["image-name"]["count"] == 3
    assert not any(image["path"].endswith("secret.jpg") for image in images_in(found))
    assert not [path for path in tmp_path.rglob("secret.jpg") if path != secret]
    page = (tmp_path / "out" / "doctor.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert" in page
    assert "\x1b" not in page + capsys.readouterr().out


def images_in(found: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for finding in found.values():
        for example in finding["examples"]:
            yield from example["images"]


@pytest.mark.slow
def test_the_page_needs_nothing_else(clean: Path, tmp_path: Path) -> None:
    plant = Planter(clean)
    for code in ("box-tiny", "box-outside", "leak-same", "image-exif"):
        FAULTS[code](plant)
    plant.save()
    findings(clean, tmp_path / "out")
    page = (tmp_path / "out" / "doctor.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(source.startswith(("data:image/jpeg;base64,", "#")) for source in sources)
    assert sum(source.startswith("data:") for source in sources) >= 4
    assert "http" not in re.sub(r'src="[^"]*"', "", page)


def test_yolo_labels_with_faults_in_lines(tmp_path: Path) -> None:
    """Each line that training refuses is counted, and the rest is looked at."""
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (tmp_path / "data" / folder / split).mkdir(parents=True)
        for number in range(4):
            colors = np.random.default_rng((number, split == "val")).integers(0, 255, (6, 6, 3), np.uint8)
            Image.fromarray(colors).resize((100, 80)).save(tmp_path / "data" / "images" / split / f"{number}.png")
            label = tmp_path / "data" / "labels" / split / f"{number}.txt"
            label.write_text("0 0.5 0.5 0.2 0.3\n1 0.3 0.3 0.2 0.2\n")
    (tmp_path / "data" / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    assert cli.main(["doctor", str(tmp_path / "data")]) == 0
    faulty = tmp_path / "data" / "labels" / "train" / "2.txt"
    faulty.write_text("0 0.5 0.5 0.2 0.3\n7 0.5 0.5 0.2 0.3\n0 50 50 20 30\n0 0.9 0.5 0.002 0.3\n0 0.5 0.5 0.2 0.3\n")
    found = findings(tmp_path / "data", tmp_path / "out")
    assert {code: each["count"] for code, each in found.items() if each["severity"] != "note"} == {
        "label-unreadable": 2,
        "box-tiny": 1,
        "box-doubled": 1,
    }


def test_voc_files_with_faults(tmp_path: Path) -> None:
    """Each object and file that training refuses is counted in its own split, once, and the rest is looked at."""
    for split in ("train", "valid"):
        (tmp_path / "data" / split).mkdir(parents=True)
        for number in range(5):
            colors = np.random.default_rng((number, split == "valid")).integers(0, 255, (6, 6, 3), np.uint8)
            Image.fromarray(colors).resize((100, 80)).save(tmp_path / "data" / split / f"{number}.png")
            write_xml(tmp_path / "data" / split / f"{number}.xml", ("cat", 40, 30, 60, 50), ("dog", 5, 5, 30, 25))
    assert cli.main(["doctor", str(tmp_path / "data")]) == 0
    train, valid = tmp_path / "data" / "train", tmp_path / "data" / "valid"
    write_xml(train / "1.xml", ("cat", 60, 30, 40, 50), ("dog", 5, 5, 30, 25), ("dog", 5, 5, 30, 25))
    (train / "2.xml").write_text("<annotation")
    (valid / "3.xml").write_text("<other/>")
    found = findings(tmp_path / "data", tmp_path / "out")
    assert {code: each["splits"] for code, each in found.items() if each["severity"] != "note"} == {
        "label-unreadable": {"train": 2, "val": 1},
        "box-doubled": {"train": 1},
    }
    for path in (*train.glob("*.xml"), *valid.glob("*.xml")):
        path.write_text("<annotation")
    with pytest.raises(DataError, match="xml"):
        findings(tmp_path / "data", tmp_path / "out")


def write_xml(path: Path, *objects: tuple[str, int, int, int, int]) -> None:
    def box(*corners: int) -> str:
        return "".join(
            f"<{side}>{corner}</{side}>" for side, corner in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        )

    listed = "".join(f"<object><name>{name}</name><bndbox>{box(*rest)}</bndbox></object>" for name, *rest in objects)
    path.write_text(f"<annotation><size><width>100</width><height>80</height></size>{listed}</annotation>")


def test_a_dataset_that_is_not_divided_is_looked_at_as_train(clean: Path, tmp_path: Path) -> None:
    for split in ("val", "test"):
        (clean / "annotations" / f"instances_{split}.json").unlink()
    (clean / "annotations" / "instances_train.json").rename(clean / "annotations" / "all.json")
    (clean / "train").rename(clean / "images")
    for number, source in enumerate((clean, clean / "annotations" / "all.json")):
        fixed = tmp_path / f"mended{number}"
        found = findings(source, tmp_path / "out", annotations_only=True, fix=str(fixed))
        assert found["undivided"]["splits"] == {"train": 1}
        assert {each["severity"] for each in found.values()} == {"note"}
        assert len(load_split(str(fixed), "train")) == 60


def test_names_and_boxes_are_those_that_the_loader_reads(tmp_path: Path) -> None:
    """Names that are spelled otherwise, boxes from polygons and turned ones; the mended copy needs no second reading."""
    boxes = annotations([10, 10, 30, 20], [5, 5, 60, 40, 10], None, [30, 30, 20, 10], images=[1, 2, 3, 4])
    boxes[2]["segmentation"] = [[10, 10, 40, 10, 40, 30]]
    boxes[3]["attributes"] = {"rotation": 90}
    names = ["/home/me/data/a.png", "images\\b.png", "c%20d.png", "e.PNG", "f.png", "/somewhere/g.png"]
    content = {
        "images": [
            {"id": number, "file_name": name, "width": 100, "height": 80} for number, name in enumerate(names, start=1)
        ],
        "annotations": boxes,
        "categories": [
            {"id": 0, "name": "all", "supercategory": "none"},
            {"id": 1, "name": "cat", "supercategory": "all"},
        ],
    }
    (tmp_path / "data" / "annotations").mkdir(parents=True)
    (tmp_path / "data" / "train").mkdir()
    for name in ("a.png", "b.png", "c d.png", "e.png"):
        Image.new("RGB", (100, 80)).save(tmp_path / "data" / "train" / name)
    annotations_file = tmp_path / "data" / "annotations" / "instances_train.json"
    annotations_file.write_text(json.dumps(content))
    found = findings(tmp_path / "data", tmp_path / "out", annotations_only=True)
    assert {code: each["count"] for code, each in found.items() if each["severity"] == "error"} == {
        "refused": 1,
        "image-missing": 1,
        "image-name": 1,
    }
    assert not {"box-missing", "box-outside", "class-unused"} & set(found)
    content["images"] = content["images"][:4]
    annotations_file.write_text(json.dumps(content))
    found = findings(tmp_path / "data", tmp_path / "out", annotations_only=True, fix=str(tmp_path / "mended"))
    assert set(found) == {"noticed"}
    lines = (tmp_path / "out" / "doctor.json").read_text()
    assert "file names read as those of files on the disk" in lines
    assert "taken from their polygons" in lines
    before, after = (load_split(str(root), "train") for root in (tmp_path / "data", tmp_path / "mended"))
    assert [after.file_name(index) for index in range(4)] == ["a.png", "b.png", "c d.png", "e.png"]
    for index in range(4):
        np.testing.assert_allclose(after.boxes(index), before.boxes(index), atol=1e-3)
    assert not any("read as" in line or "taken from" in line for line in after.problems)


def test_two_names_that_can_only_be_one_file_are_not_there(tmp_path: Path) -> None:
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    images = [{"id": number, "file_name": name} for number, name in enumerate(("x/a.png", "/y/a.png", "/z/a.png"))]
    file = AnnotationFile(tmp_path / "train.json", {"images": images, "annotations": [], "categories": [{"id": 1}]})
    columns = Columns.of("train", file, SplitPaths(file.path, tmp_path))
    assert columns.names == ["x/a.png", "", ""]
    assert columns.missing == [0]


@pytest.mark.slow
def test_training_says_what_the_cheap_checks_find(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TrainConfig(data=str(clean))
    load_datasets(config, World())
    assert "doctor" not in capsys.readouterr().out
    plant = Planter(clean)
    FAULTS["box-tiny"](plant)
    FAULTS["box-nearly-doubled"](plant)
    plant.save()
    load_datasets(config, World())
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "doctor" in line)
    assert line == f"doctor: 2 warnings: box-tiny 1, box-nearly-doubled 1; detector doctor {clean} tells more"
