"""Matching, curves and confusions: against pycocotools, against counting by hand, and what must hold for any input."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detector.evaluation.coco_metrics import coco_metrics
from detector.evaluation.curves import CONFIDENCES, class_mean, confusion_matrix, over_confidence, precision_recall
from detector.evaluation.matching import ImageBoxes, ImageMatch, match_classes, match_image
from detector.structures import Categories

CATEGORIES = Categories((3, 7, 8, 90), ("cat", "dog", "fish", "nobody"))


def crowded(seed: int, per_image: int = 40) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Overlapping objects, some of them crowds; detections near them and anywhere, many of equal score."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    ids = rng.permutation(100)[:6].tolist()
    for image_id in ids:
        for _ in range(rng.integers(0, 12)):
            box = np.concatenate([rng.uniform(0, 60, 2), rng.uniform(8, 40, 2)]).round(1).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice(CATEGORIES.ids[:3])),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
        own = [a for a in annotations if a["image_id"] == image_id]
        for _ in range(per_image):
            near = own[rng.integers(len(own))] if own and rng.random() < 0.7 else None
            box = near["bbox"] if near else np.concatenate([rng.uniform(0, 60, 2), rng.uniform(8, 40, 2)]).tolist()
            category = near["category_id"] if near and rng.random() < 0.8 else int(rng.choice(CATEGORIES.ids[:3]))
            box = [float(value) for value in (np.array(box) + rng.normal(0, 2, 4)).clip(1).round(3)]
            score = float(rng.random().__round__(1 if rng.random() < 0.5 else 6))
            results.append({"image_id": image_id, "category_id": category, "bbox": box, "score": score})
    truth = {
        "info": {},
        "images": [{"id": image_id, "width": 100, "height": 100} for image_id in ids],
        "annotations": annotations,
        "categories": [{"id": i, "name": n} for i, n in zip(CATEGORIES.ids, CATEGORIES.names, strict=True)],
    }
    return truth, results


def images_of(truth: dict[str, Any], results: list[dict[str, Any]]) -> list[ImageBoxes]:
    label_of = {category_id: label for label, category_id in enumerate(CATEGORIES.ids)}
    images = []
    for index, image_id in enumerate(sorted(image["id"] for image in truth["images"])):
        true = [entry for entry in truth["annotations"] if entry["image_id"] == image_id]
        found = sorted((r for r in results if r["image_id"] == image_id), key=lambda entry: -entry["score"])
        images.append(
            ImageBoxes(
                index,
                np.array([entry["bbox"] for entry in true], np.float64).reshape(-1, 4),
                np.array([label_of[entry["category_id"]] for entry in true], np.int64),
                np.array([entry["iscrowd"] for entry in true], np.bool_),
                np.array([entry["bbox"] for entry in found], np.float64).reshape(-1, 4),
                np.array([label_of[entry["category_id"]] for entry in found], np.int64),
                np.array([entry["score"] for entry in found], np.float64),
            )
        )
    return images


@pytest.mark.parametrize(("seed", "per_image"), [(0, 40), (1, 40), (2, 5), (3, 400)])
def test_precision_over_recall_is_that_of_pycocotools(seed: int, per_image: int) -> None:
    truth, results = crowded(seed, per_image)
    curves = precision_recall(match_classes(images_of(truth, results), len(CATEGORIES), 0.5))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {**truth, "annotations": [dict(a) for a in truth["annotations"]]}
        coco.createIndex()
        scores = COCOeval(coco, coco.loadRes([dict(r) for r in results]), "bbox")
        scores.evaluate()
        scores.accumulate()
    expected = scores.eval["precision"][0, :, :, 0, -1].T
    assert np.isnan(curves[3]).all()
    assert (expected[3] == -1).all()
    assert np.abs(curves[:3] - expected[:3]).max() < 1e-9
    per_category = coco_metrics(truth, results)["per_category"]
    for label, name in enumerate(CATEGORIES.names[:3]):
        assert curves[label].mean() == pytest.approx(per_category[name]["AP50"], abs=1e-9)


def test_curves_over_the_confidence_count_what_is_above_it() -> None:
    truth, results = crowded(4)
    whole = over_confidence(match_classes(images_of(truth, results), 4, 0.5))
    for index in (0, 1, 137, 500, 900, 1000):
        strong = [r for r in results if r["score"] >= CONFIDENCES[index]]
        matches = match_classes(images_of(truth, strong), 4, 0.5)
        for label in range(3):
            found = int((matches.labels == label).sum())
            right = int((matches.right & (matches.labels == label)).sum())
            objects = matches.objects[label]
            assert whole.recall[label, index] == pytest.approx(right / objects)
            assert whole.f1[label, index] == pytest.approx(2 * right / (found + objects))
            if found:
                assert whole.precision[label, index] == pytest.approx(right / found)
            else:
                assert np.isnan(whole.precision[label, index])
    confidence, best = whole.best()
    assert best == pytest.approx(np.nanmean(whole.f1[:3], axis=0).max())
    assert np.nanmean(whole.f1[:3], axis=0)[round(confidence * 1000)] == best
    assert np.isnan(whole.f1[3]).all()


def test_nothing_found_and_nothing_to_find() -> None:
    truth, results = crowded(5)
    nothing_found = match_classes(images_of(truth, []), 4, 0.5)
    assert (precision_recall(nothing_found)[:3] == 0).all()
    assert over_confidence(nothing_found).best() == (0.0, 0.0)
    nothing_there = match_classes(images_of({**truth, "annotations": []}, results), 4, 0.5)
    assert np.isnan(precision_recall(nothing_there)).all()
    assert np.isnan(class_mean(precision_recall(nothing_there))).all()
    assert not nothing_there.right.any()


def one_image(truths: list[tuple[list[float], int, bool]], found: list[tuple[list[float], int, float]]) -> ImageBoxes:
    return ImageBoxes(
        1,
        np.array([box for box, _, _ in truths], np.float64).reshape(-1, 4),
        np.array([label for _, label, _ in truths], np.int64),
        np.array([crowd for _, _, crowd in truths], np.bool_),
        np.array([box for box, _, _ in found], np.float64).reshape(-1, 4),
        np.array([label for _, label, _ in found], np.int64),
        np.array([score for _, _, score in found], np.float64),
    )


def every_kind() -> ImageMatch:
    image = one_image(
        [
            ([0.0, 0.0, 10.0, 10.0], 0, False),
            ([20.0, 0.0, 10.0, 10.0], 1, False),
            ([40.0, 0.0, 10.0, 10.0], 1, False),
            ([0.0, 50.0, 100.0, 50.0], 2, True),
        ],
        [
            ([0.0, 0.0, 10.0, 10.0], 0, 0.9),  # right
            ([20.0, 0.0, 10.0, 8.0], 2, 0.8),  # the second object, as another class
            ([0.0, 0.0, 10.0, 9.0], 0, 0.7),  # the first object again
            ([20.0, 0.0, 10.0, 10.0], 1, 0.6),  # the second object again, of the right class but too late
            ([70.0, 0.0, 10.0, 10.0], 1, 0.5),  # nothing there
            ([30.0, 60.0, 10.0, 10.0], 0, 0.4),  # in the crowd
            ([40.0, 0.0, 10.0, 10.0], 1, 0.2),  # too weak to count
        ],
    )
    return match_image(image, confidence=0.25, min_iou=0.5)


def test_each_detection_is_of_one_kind() -> None:
    each = every_kind()
    assert each.right.tolist() == [True, False, False, False, False, False]
    assert each.wrong_class.tolist() == [False, True, False, False, False, False]
    assert each.duplicate.tolist() == [False, False, True, True, False, False]
    assert each.background.tolist() == [False, False, False, False, True, False]
    assert each.missed.tolist() == [False, False, True, False]
    assert each.quality() == pytest.approx(2 * 1.0 / (5 + 3))
    assert each.confusion() == pytest.approx(0.8 + 0.7 + 0.6 + 0.5)
    expected = [[1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [1, 2, 0, 0]]
    assert confusion_matrix([each], 3).tolist() == expected
    assert (confusion_matrix([each, each], 3) == 2 * np.array(expected)).all()


@pytest.mark.parametrize("seed", range(4))
def test_a_confusion_matrix_loses_nothing(seed: int) -> None:
    truth, results = crowded(seed)
    matches = [match_image(image, 0.25, 0.5) for image in images_of(truth, results)]
    matrix = confusion_matrix(matches, 4)
    objects = match_classes(images_of(truth, results), 4, 0.5).objects
    assert matrix[:4].sum(axis=1).tolist() == objects.tolist()
    in_crowds = 0
    for each in matches:
        kinds = np.stack([each.right, each.wrong_class, each.duplicate, each.background]).sum(axis=0)
        assert kinds.max() <= 1
        in_crowds += int((kinds == 0).sum())
        taken = each.taken[each.right | each.wrong_class]
        assert len(set(taken.tolist())) == len(taken)  # no object is taken twice
    assert matrix[:, :4].sum() == sum(r["score"] >= 0.25 for r in results) - in_crowds


def test_quality_is_f1_weighted_by_overlap() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    assert match_image(one_image([], []), 0.25, 0.5).quality() == 1
    assert match_image(one_image([(box, 0, False)], [(box, 0, 0.9)]), 0.25, 0.5).quality() == 1
    assert match_image(one_image([(box, 0, False)], []), 0.25, 0.5).quality() == 0
    assert match_image(one_image([], [(box, 0, 0.9)]), 0.25, 0.5).quality() == 0
    loose = [0.0, 0.0, 10.0, 8.0]
    assert match_image(one_image([(box, 0, False)], [(loose, 0, 0.9)]), 0.25, 0.5).quality() == pytest.approx(0.8)
