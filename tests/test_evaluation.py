"""COCO metrics: perfect is 1, both evaluators agree, and the figures are those of pycocotools on the written file."""

import contextlib
import io
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lively_model import lively_model
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from detector.config import EvaluateConfig, PathsConfig
from detector.data.coco import CocoDataset
from detector.data.layouts import SplitPaths, find_split, split_paths
from detector.demo.scenes import make_dataset
from detector.errors import ConfigError, DataError
from detector.evaluation.coco_metrics import METRICS, category_names, coco_metrics
from detector.evaluation.evaluate import EvalDataset, Evaluation, evaluate, evaluate_model, report_limits
from detector.evaluation.reports import print_metrics
from detector.images.input_size import InputSize
from detector.images.letterbox import Letterbox
from detector.inference.detector import Detector
from detector.structures import Detections
from detector.weights.files import WeightsInfo, save_weights

SHARED = Path(__file__).parents[2] / "shared" / "data"
SETS = ["coco-tiny", "bccd", *(f"suite/{name}" for name in ("underwater", "pcb", "okra", "tables", "football"))]
COCO_TINY = SHARED / "coco-tiny"
SIDE = 96


def bare_annotations() -> dict[str, Any]:
    """What people's own files are like: ids from 0, one of them twice, no info, no area, iscrowd only on crowds."""
    rng = random.Random(0)
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(12)]
    annotations: list[dict[str, Any]] = []
    for image in images[1:]:  # the first one is empty
        for _ in range(rng.randrange(1, 12)):
            side = rng.choice((20, 60, 200))
            width, height = side * rng.uniform(0.5, 1.5), side * rng.uniform(0.5, 1.5)
            box = [rng.uniform(0, 640 - width), rng.uniform(0, 480 - height), width, height]
            annotation = {"image_id": image["id"], "category_id": rng.choice((0, 4, 9)), "bbox": box}
            annotations.append({"id": len(annotations), **annotation})
        crowd = {"image_id": image["id"], "category_id": 4, "bbox": [300, 100, 300, 300], "iscrowd": 1}
        annotations.append({"id": len(annotations), **crowd})
    annotations[7]["id"] = annotations[8]["id"]
    categories = [{"id": number, "name": name} for number, name in ((9, "cow"), (0, "cat"), (4, "dog"), (5, "unused"))]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bare") / "annotations.json"
    path.write_text(json.dumps(bare_annotations()))
    return path


@pytest.fixture(params=["bare", *SETS])
def annotations(request: pytest.FixtureRequest, bare: Path) -> Path:
    if request.param == "bare":
        return bare
    if not (SHARED / request.param).is_dir():
        pytest.skip("needs ../shared")
    return find_split(SHARED / request.param, "val").annotations


def perfect(truth: dict[str, Any]) -> list[dict[str, Any]]:
    """Every object found, surely and exactly; nothing is said of crowds."""
    return [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0}
        for a in truth["annotations"]
        if not a["iscrowd"]
    ]


def noisy(truth: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Some objects missed, moved, found twice or called by another name, crowds found too, and pure inventions.

    Scores have one digit, so that many are equal.
    """
    rng = random.Random(seed)
    categories = [category["id"] for category in truth["categories"]]
    results = []
    for a in truth["annotations"]:
        for _ in range(rng.choice((0, 1, 1, 1, 2))):
            x, y, width, height = a["bbox"]
            box = [
                x + rng.gauss(0, 0.1) * width,
                y + rng.gauss(0, 0.1) * height,
                width * rng.uniform(0.8, 1.2),
                height * rng.uniform(0.8, 1.2),
            ]
            category = rng.choice(categories) if rng.random() < 0.1 else a["category_id"]
            results.append({"image_id": a["image_id"], "category_id": category, "bbox": box})
    for image in truth["images"]:
        for _ in range(rng.randrange(4)):
            box = [rng.uniform(0, 300), rng.uniform(0, 300), rng.uniform(0, 200), rng.uniform(0, 200)]
            results.append({"image_id": image["id"], "category_id": rng.choice(categories), "bbox": box})
    return [{**entry, "score": round(rng.random(), 1)} for entry in results]


def dataset_of(annotations: Path) -> CocoDataset:
    """The dataset of an annotation file, with empty files as its images."""
    folder = Path(tempfile.mkdtemp())
    for image in json.loads(annotations.read_bytes())["images"]:
        (folder / image["file_name"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / image["file_name"]).touch()
    return CocoDataset.load(SplitPaths(annotations, folder))


def ground_truth(annotations: Path) -> dict[str, Any]:
    return dataset_of(annotations).ground_truth()


def with_own_ids(results: list[dict[str, Any]], dataset: CocoDataset) -> list[dict[str, Any]]:
    """Results for `CocoDataset.ground_truth` as results for the annotation file."""
    own = dataset.categories.ids
    image_ids = sorted(dataset.image_id(index) for index in range(len(dataset)))
    return [{**r, "image_id": image_ids[r["image_id"]], "category_id": own[r["category_id"]]} for r in results]


def by_hand(annotations: Path, results: list[dict[str, Any]] | Path, image_ids: list[int] | None = None) -> list[float]:
    """The 12 figures as anybody gets them who runs pycocotools on the two files."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        scores = COCOeval(truth, truth.loadRes(str(results) if isinstance(results, Path) else results), "bbox")
        if image_ids is not None:
            scores.params.imgIds = image_ids
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
    return [float(value) for value in scores.stats]


def figures(metrics: dict[str, Any]) -> list[float]:
    """The 12 figures, None as COCOeval's -1."""
    return [-1.0 if metrics[name] is None else metrics[name] for name in METRICS]


# The figures


@pytest.mark.parametrize("reference", [True, False])
def test_perfect_predictions_score_one(annotations: Path, reference: bool) -> None:
    truth = ground_truth(annotations)
    metrics = coco_metrics(truth, perfect(truth), reference=reference)
    present = {a["category_id"] for a in truth["annotations"] if not a["iscrowd"]}
    for name in ("AP", "AP50", "AP75", "AR100"):
        assert metrics[name] == pytest.approx(1, abs=1e-12)
    for name, (low, high) in {"APsmall": (0, 32**2), "APmedium": (32**2, 96**2), "APlarge": (96**2, 1e10)}.items():
        any_there = any(low <= a["area"] <= high for a in truth["annotations"] if not a["iscrowd"])
        assert metrics[name] == (pytest.approx(1, abs=1e-12) if any_there else None)
    for category in truth["categories"]:
        expected = pytest.approx(1) if category["id"] in present else None
        assert metrics["per_category"][category["name"]] == {"AP": expected, "AP50": expected}


@pytest.mark.parametrize("seed", range(3))
def test_both_evaluators_agree(annotations: Path, seed: int) -> None:
    truth = ground_truth(annotations)
    results = noisy(truth, seed)
    reference, fast = (coco_metrics(truth, results, reference=which) for which in (True, False))
    assert 0.05 < reference["AP"] < 0.9
    assert fast == reference


@pytest.mark.skipif(not COCO_TINY.is_dir(), reason="needs ../shared")
def test_the_figures_are_those_of_pycocotools_by_hand() -> None:
    dataset = CocoDataset.load(find_split(COCO_TINY, "val"))
    truth = dataset.ground_truth()
    results = noisy(truth, 5)
    own = with_own_ids(results, dataset)
    assert figures(coco_metrics(truth, results)) == by_hand(dataset.annotations_path, own)
    some = list(range(10, 30))
    own_some = sorted(dataset.image_id(index) for index in range(len(dataset)))[10:30]
    assert figures(coco_metrics(truth, results, some)) == by_hand(dataset.annotations_path, own, own_some)


def test_ids_beyond_what_a_double_holds_are_scored_as_any_others(bare: Path, tmp_path: Path) -> None:
    content = bare_annotations()
    for entry in chain.from_iterable(content.values()):
        entry |= {field: entry[field] + 2**60 for field in ("id", "image_id", "category_id") if field in entry}
    (tmp_path / "large.json").write_text(json.dumps(content))
    dataset = dataset_of(tmp_path / "large.json")
    assert dataset.image_id(1) == 2**60 + 1
    assert dataset.ground_truth() == ground_truth(bare)


def test_crowded_images_score_what_max_dets_lets_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """150 objects of a class in one image, all found: 100 of them count, or all."""
    content = bare_annotations()
    boxes = [[4 * (i % 15), 4 * (i // 15), 3, 3] for i in range(150)]
    content["annotations"] = [{"id": i, "image_id": 0, "category_id": 4, "bbox": box} for i, box in enumerate(boxes)]
    (tmp_path / "crowded.json").write_text(json.dumps(content))
    dataset = dataset_of(tmp_path / "crowded.json")
    truth = dataset.ground_truth()
    for reference in (True, False):
        assert coco_metrics(truth, perfect(truth), reference=reference)["AR100"] == pytest.approx(2 / 3)
        metrics = coco_metrics(truth, perfect(truth), reference=reference, max_dets=200)
        names = ("AP", "AP50", "APsmall", "AR200")
        assert [metrics[name] for name in names] == pytest.approx([1, 1, 1, 1])
        assert metrics["per_category"]["dog"]["AP"] == pytest.approx(1)
    for max_dets, max_detections, warned in ((100, 300, True), (150, 149, True), (150, 150, False)):
        report_limits(dataset, max_dets, max_detections)
        limits = f"150 of a class) than count with --max_dets {max_dets} and --max_detections {max_detections}"
        assert (limits in capsys.readouterr().out) == warned


def test_the_mean_over_categories_is_the_ap(bare: Path) -> None:
    truth = ground_truth(bare)
    metrics = coco_metrics(truth, noisy(truth, 1))
    values = [entry["AP"] for entry in metrics["per_category"].values() if entry["AP"] is not None]
    assert len(values) == 3
    assert np.mean(values) == pytest.approx(metrics["AP"], abs=1e-12)


@pytest.mark.parametrize("reference", [True, False])
def test_no_detections_score_zero(bare: Path, reference: bool) -> None:
    metrics = coco_metrics(ground_truth(bare), [], reference=reference)
    assert [metrics[name] for name in METRICS] == [0.0] * 12
    assert metrics["per_category"]["cat"] == {"AP": 0.0, "AP50": 0.0}
    assert metrics["per_category"]["unused"] == {"AP": None, "AP50": None}


@pytest.mark.parametrize("reference", [True, False])
def test_where_there_is_nothing_to_find_there_is_no_figure(bare: Path, reference: bool) -> None:
    truth = ground_truth(bare)
    for metrics in (
        coco_metrics({**truth, "annotations": []}, perfect(truth), reference=reference),
        coco_metrics(truth, perfect(truth), image_ids=[], reference=reference),
        coco_metrics(truth, perfect(truth), image_ids=[0], reference=reference),
    ):
        assert [metrics[name] for name in METRICS] == [None] * 12
    large = [a for a in truth["annotations"] if a["area"] > 96**2 and not a["iscrowd"]]
    metrics = coco_metrics({**truth, "annotations": large}, perfect(truth), reference=reference)
    assert (metrics["APsmall"], metrics["APmedium"], metrics["APlarge"]) == (None, None, pytest.approx(1))


def test_categories_of_one_name_are_kept_apart(bare: Path) -> None:
    dataset = dataset_of(bare)
    names = tuple("cat" if name == "dog" else name for name in dataset.categories.names)
    truth = dataset.ground_truth()
    metrics = coco_metrics(truth, perfect(truth), names=category_names(replace(dataset.categories, names=names)))
    assert metrics["per_category"].keys() == {"cat (id 0)", "cat (id 4)", "unused", "cow"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("reference", [True, False])
def test_scoring_prints_nothing_and_changes_nothing(
    bare: Path, capsys: pytest.CaptureFixture[str], reference: bool
) -> None:
    truth = ground_truth(bare)
    results = noisy(truth, 2)
    kept = json.dumps([truth, results])
    first = coco_metrics(truth, results, reference=reference)
    assert coco_metrics(truth, results, reference=reference) == first
    coco_metrics(truth, [], reference=reference)
    assert json.dumps([truth, results]) == kept
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "odd",
    [
        {"area": 0},
        {"area": 0.0, "iscrowd": 1},
        {"bbox": [5, 5, 0, 9]},
        {"bbox": [5, 5, 9, -4], "area": 36},
        {"bbox": [900, 5, 9, 9]},
    ],
)
def test_odd_objects_count_as_in_pycocotools(tmp_path: Path, odd: dict[str, Any]) -> None:
    content = bare_annotations()
    for index, annotation in enumerate(content["annotations"]):
        change = odd if index % 3 == 0 else {}
        x, *rest = change.get("bbox", annotation["bbox"])
        given = {"iscrowd": 0, "area": rest[1] * rest[2], **annotation, **change}
        content["annotations"][index] = {**given, "id": index + 1, "bbox": [x + index / 1e6, *rest]}  # no two are equal
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    dataset = dataset_of(path)
    truth = dataset.ground_truth()
    results = noisy(truth, 0)
    expected = by_hand(path, with_own_ids(results, dataset))
    assert expected[0] > 0
    for reference in (True, False):
        assert figures(coco_metrics(truth, results, reference=reference)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_annotation_files_of_other_encodings_are_scored(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(bare_annotations()), encoding=encoding)
    names = [category["name"] for category in sorted(bare_annotations()["categories"], key=lambda c: c["id"])]
    assert [category["name"] for category in ground_truth(path)["categories"]] == names


def test_an_area_that_is_no_number_is_that_of_the_box(tmp_path: Path) -> None:
    content = bare_annotations()
    content["annotations"][0] |= {"area": None, "bbox": [1, 2, 3, 4]}
    content["annotations"][1] |= {"area": 77.5}
    (tmp_path / "a.json").write_text(json.dumps(content))
    areas = [a["area"] for a in ground_truth(tmp_path / "a.json")["annotations"]]
    assert 12 in areas
    assert 77.5 in areas


# From images to figures


def found_in(evaluation: Evaluation, dataset: CocoDataset) -> list[dict[str, Any]]:
    """Its detections in the COCO results format."""
    return [entry for i, each in evaluation.detections.items() for entry in each.to_coco(dataset.image_id(i))]


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    make_dataset(tmp_path / "scenes", seed=1, train=3, val=5, test=3)
    return tmp_path / "scenes"


@pytest.fixture
def images(scenes: Path) -> CocoDataset:
    return CocoDataset.load(find_split(scenes, "val"))


@pytest.fixture
def detector(images: CocoDataset) -> Detector:
    return Detector(lively_model(len(images.categories)), images.categories, SIDE, conf=0.3, device="cpu")


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_scores_the_boxes_that_the_detector_gives(
    detector: Detector, images: CocoDataset, workers: int
) -> None:
    scored = evaluate_model(detector, images, workers=workers)
    paths = [images.path(i) for i in range(len(images))]
    expected = [
        entry for i, found in enumerate(detector(paths)) for entry in found.to_coco(images.image_id(i))
    ]  # infer = evaluate, to the last bit
    assert found_in(scored, images) == expected
    assert len(expected) > 100
    assert scored.unreadable == ()


class Oracle(Detector):
    """Finds exactly what the annotation file says, and letterboxes it there and back."""

    def __init__(self, images: CocoDataset) -> None:
        super().__init__(lively_model(len(images.categories)), images.categories, SIDE, device="cpu")
        self.images, self.next = images, 0

    def detect_inputs(self, inputs: Sequence[Tensor], letterboxes: Sequence[Letterbox]) -> list[Detections]:
        assert [each.shape for each in inputs] == [(3, SIDE, SIDE)] * len(letterboxes)
        found = []
        for letterbox in letterboxes:
            boxes = torch.from_numpy(self.images.boxes(self.next))
            labels = torch.from_numpy(self.images.labels(self.next))
            boxes = letterbox.to_original(letterbox.to_input(boxes))
            found.append(Detections(boxes, torch.ones(len(boxes)), labels, self.categories))
            self.next += 1
        return found


@pytest.mark.parametrize("data", ["scenes", "tiny"])
def test_a_perfect_detector_scores_one_in_original_pixels(data: str, images: CocoDataset) -> None:
    if data == "tiny":
        if not COCO_TINY.is_dir():
            pytest.skip("needs ../shared")
        images = CocoDataset.load(find_split(COCO_TINY, "val"))
    metrics = evaluate_model(Oracle(images), images, workers=0).metrics
    assert metrics["AP"] == pytest.approx(1, abs=1e-9)
    assert metrics["AR100"] == pytest.approx(1, abs=1e-9)


def test_an_image_is_fitted_into_a_rectangle(images: CocoDataset) -> None:
    for index, size in enumerate((InputSize(64, 160), InputSize(160, 64))):
        item = EvalDataset(images, size)[index]
        width, height = item.letterbox.resized
        assert item.pixels is not None
        assert item.pixels.shape == (3, *size)
        assert (width == size.width) != (height == size.height)


def write_weights(path: Path, images: CocoDataset) -> Path:
    info = WeightsInfo("yolo11n", images.categories, SIDE, {}, {}, "CC0-1.0")
    save_weights(path, lively_model(len(images.categories)), info)
    return path


def test_evaluate_writes_what_anybody_can_score_again(
    scenes: Path, images: CocoDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, out = write_weights(tmp_path / "w.safetensors", images), tmp_path / "out"
    settings = {"weights": str(weights), "data": str(scenes), "device": "cpu", "workers": 0}
    report = evaluate(EvaluateConfig(out=str(out), **settings))
    assert json.loads((out / "metrics.json").read_text()) == report
    assert figures(report) == by_hand(images.annotations_path, out / "detections.json")
    assert (report["images"], report["unreadable"], report["image_size"]) == (5, [], SIDE)
    assert (report["split"], report["weights"]) == ("val", str(weights))
    results = json.loads((out / "detections.json").read_text())
    assert {entry["category_id"] for entry in results} <= set(images.categories.ids)
    assert {entry["image_id"] for entry in results} <= {images.image_id(i) for i in range(5)}
    assert max(entry["score"] for entry in results) > 0.25 > min(entry["score"] for entry in results) >= 0.001
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*METRICS, *images.categories.names))
    more = evaluate(EvaluateConfig(out=str(tmp_path / "more"), max_dets=1000, **settings))
    assert more["AR1000"] >= report["AR100"]
    assert "AR1000" in capsys.readouterr().out


def test_an_unreadable_image_is_left_out_of_the_score(images: CocoDataset, detector: Detector) -> None:
    images.path(1).write_bytes(b"no image")
    scored = evaluate_model(detector, images, workers=0, max_unreadable=0.2)
    assert len(scored.unreadable) == 1
    assert str(images.path(1)) in scored.unreadable[0]
    assert set(scored.detections) == {0, 2, 3, 4}
    others = [images.image_id(i) for i in scored.detections]
    assert figures(scored.metrics) == by_hand(images.annotations_path, found_in(scored, images), others)


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_unreadable_images_stop_the_evaluation(images: CocoDataset, detector: Detector, workers: int) -> None:
    images.path(1).write_bytes(b"no image")
    images.path(2).unlink()
    with pytest.raises(DataError, match=r"2 of 5 images .*--max_unreadable") as caught:
        evaluate_model(detector, images, workers=workers, max_unreadable=0.2)
    assert str(images.path(1)) in str(caught.value)


def test_a_split_without_a_readable_image_has_no_figures(images: CocoDataset, detector: Detector) -> None:
    for i in range(len(images)):
        images.path(i).write_bytes(b"no image")
    scored = evaluate_model(detector, images, workers=0, max_unreadable=1.0)
    assert scored.metrics["AP"] is None
    assert len(scored.unreadable) == 5


def test_weights_of_other_classes_are_refused(scenes: Path, images: CocoDataset, tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "w.safetensors", images)
    path = images.annotations_path
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "submarine"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"instances_val\.json.*'submarine' here"):
        evaluate(EvaluateConfig(weights=str(weights), out=str(tmp_path / "out"), data=str(scenes), workers=0))


def test_weights_with_other_ids_of_the_same_names_are_scored_by_name(
    scenes: Path, images: CocoDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file's ids go into detections.json, so that its figures are those of the file."""
    reports = []
    for shift in (0, 100):
        categories = replace(images.categories, ids=tuple(number + shift for number in images.categories.ids))
        out = tmp_path / f"out{shift}"
        weights = write_weights(tmp_path / "w.safetensors", replace(images, categories=categories))
        reports.append(evaluate(EvaluateConfig(weights=str(weights), out=str(out), data=str(scenes), workers=0)))
        assert ("matched by name" in capsys.readouterr().out) == (shift > 0)
        assert figures(reports[-1]) == by_hand(images.annotations_path, out / "detections.json")
    assert reports[0] == reports[1]


def test_a_split_that_lacks_a_class_of_the_weights_is_scored(scenes: Path, images: CocoDataset, tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "w.safetensors", images)
    path = images.annotations_path
    content = json.loads(path.read_text())
    gone = content["categories"].pop(0)
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != gone["id"]]
    path.write_text(json.dumps(content))
    report = evaluate(EvaluateConfig(weights=str(weights), out=str(tmp_path / "out"), data=str(scenes), workers=0))
    assert report["per_category"][gone["name"]] == {"AP": None, "AP50": None}
    assert figures(report) == by_hand(path, tmp_path / "out" / "detections.json")


def test_a_dash_stands_where_there_is_no_figure(capsys: pytest.CaptureFixture[str]) -> None:
    print_metrics({"AP": 0.25, "APsmall": None}, {"[/red] cat": {"AP": None, "AP50": 1.0}})
    printed = capsys.readouterr().out
    assert "0.2500" in printed
    assert "–" in printed
    assert "[/red] cat" in printed


# Which files


def test_explicit_paths_win_over_the_folder(scenes: Path) -> None:
    paths = PathsConfig(val_json="x.json", val_images="images")
    assert split_paths(str(scenes), paths, "val") == SplitPaths(Path("x.json"), Path("images"))
    assert split_paths(str(scenes), paths, "train") == find_split(scenes, "train")


def test_without_any_paths_both_options_are_named() -> None:
    with pytest.raises(ConfigError, match=r"--data .*--paths\.test_json and --paths\.test_images"):
        split_paths(None, PathsConfig(), "test")
    with pytest.raises(ConfigError, match=r"--paths\.val_json and --paths\.val_images belong together"):
        split_paths(None, PathsConfig(val_json="x.json"), "val")
