"""What is behind the metrics: each figure against a second formulation, by counting in integers or by scoring changed data."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from test_curves import CATEGORIES, crowded, images_of

from detector.evaluation.bootstrap import AREAS, average_precisions, draw_images, interval
from detector.evaluation.calibration import BINS, reliability
from detector.evaluation.coco_metrics import METRICS, coco_metrics, run_cocoeval
from detector.evaluation.curves import CONFIDENCES, class_mean, over_confidence
from detector.evaluation.matching import match_classes
from detector.evaluation.tide import KINDS, RIGHT, SPECIAL, find_errors, kinds_of

Entry = dict[str, Any]
MAX_DETS = 100


def in_whole_pixels(seed: int, per_image: int = 40) -> tuple[Entry, list[Entry]]:
    """A crowded dataset in which all boxes are integers, so that overlaps are fractions, and no two scores are equal."""
    truth, results = crowded(seed, per_image)
    for entry in (*truth["annotations"], *results):
        entry["bbox"] = [max(round(value), 1) for value in entry["bbox"]]
    for entry in truth["annotations"]:
        entry["area"] = entry["bbox"][2] * entry["bbox"][3]
    order = np.random.default_rng(seed).permutation(len(results)) + 1
    return truth, [{**entry, "score": int(rank) / 1000} for entry, rank in zip(results, order, strict=True)]


# TIDE


def iou(one: Entry, other: Entry) -> Fraction:
    """By counting; with a crowd region, the fraction of `one` that lies in it."""
    (x, y, w, h), (left, top, width, height) = one["bbox"], other["bbox"]
    wide, high = min(x + w, left + width) - max(x, left), min(y + h, top + height) - max(y, top)
    shared = max(wide, 0) * max(high, 0)
    return Fraction(shared, w * h if other["iscrowd"] else w * h + width * height - shared)


def judged(truth: Entry, results: list[Entry]) -> tuple[list[tuple[str, Entry | None]], list[Entry]]:
    """For each result its kind and the object that it finds or would find, and the objects that are found."""
    verdicts: dict[int, tuple[str, Entry | None]] = {}
    found: list[Entry] = []
    for image in truth["images"]:
        own = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        here = sorted((r for r in results if r["image_id"] == image["id"]), key=lambda r: -r["score"])
        for result in here:
            verdicts[id(result)] = verdict(result, own, found)
    return [verdicts[id(result)] for result in results], found


def verdict(result: Entry, own: list[Entry], found: list[Entry]) -> tuple[str, Entry | None]:
    """What a result is, after all better ones; what it finds is added to `found`."""
    mine = [a for a in own if a["category_id"] == result["category_id"]]
    for crowd in (0, 1):
        enough = [a for a in mine if a["iscrowd"] == crowd and a not in found and iou(result, a) >= Fraction(1, 2)]
        if enough:
            chosen = max(reversed(enough), key=lambda a: iou(result, a))
            if crowd:
                return "crowd", None
            found.append(chosen)
            return "right", chosen
    objects = [a for a in own if not a["iscrowd"]]
    same = max((a for a in objects if a in mine), key=lambda a: iou(result, a), default=None)
    other = max((a for a in objects if a not in mine), key=lambda a: iou(result, a), default=None)
    of_same = Fraction(0) if same is None else iou(result, same)
    of_other = Fraction(0) if other is None else iou(result, other)
    if Fraction(1, 10) <= of_same < Fraction(1, 2):
        return "localization", same
    if of_other >= Fraction(1, 2):
        return "classification", other
    if of_same >= Fraction(1, 2):
        return "duplicate", None
    return ("background" if max(of_same, of_other) < Fraction(1, 10) else "both"), None


def mended(truth: Entry, results: list[Entry], kind: str) -> tuple[Entry, list[Entry]]:
    """The dataset in which the errors of a kind are mended, as data."""
    verdicts, found = judged(truth, results)
    if kind in ("missed", "false negative"):
        reached = [a for each, a in verdicts if each in ("localization", "classification") and a is not None]
        kept = found if kind == "false negative" else [*found, *reached]
        gone = [a for a in truth["annotations"] if not a["iscrowd"] and a not in kept]
        return {**truth, "annotations": [a for a in truth["annotations"] if a not in gone]}, results
    changed: list[Entry] = []
    taken: list[Entry] = []
    for result, (each, target) in sorted(zip(results, verdicts, strict=True), key=lambda pair: -pair[0]["score"]):
        if kind == "false positive":
            changed += [result] if each in ("right", "crowd") else []
        elif each != kind:
            changed.append(result)
        elif target is not None and target not in found and target not in taken:
            taken.append(target)
            changed.append({**result, "category_id": target["category_id"], "bbox": target["bbox"]})
    return truth, changed


def ap50(truth: Entry, results: list[Entry], classes: set[str]) -> float:
    """The mean of pycocotools' AP50 of these classes; 0 for one without objects."""
    per_category = coco_metrics(truth, results)["per_category"]
    return float(np.mean([per_category[name]["AP50"] or 0.0 for name in sorted(classes)]))


SEEDS = [(0, 12), (1, 40), (2, 3), (3, 100), (4, 25), (5, 0)]


@pytest.mark.parametrize(("seed", "per_image"), SEEDS)
def test_kinds_of_errors_are_those_of_counting_by_hand(seed: int, per_image: int) -> None:
    truth, results = in_whole_pixels(seed, per_image)
    errors = find_errors(images_of(truth, results), len(CATEGORIES), MAX_DETS)
    verdicts, found = judged(truth, results)
    expected = {result["score"]: kind for result, (kind, _) in zip(results, verdicts, strict=True) if kind != "crowd"}
    names = ["right" if kind == RIGHT else KINDS[kind] for kind in errors.kinds]
    assert dict(zip(errors.scores.tolist(), names, strict=True)) == expected
    assert errors.scores.tolist() == sorted(expected, reverse=True)
    assert errors.found.sum() == len(found)
    counts = errors.counts()
    assert counts["false positive"].sum() == sum(kind != "right" for kind in expected.values())
    assert counts["false negative"].sum() == len(errors.found) - len(found)
    fewer, _ = mended(truth, results, "missed")
    assert counts["missed"].sum() == len(truth["annotations"]) - len(fewer["annotations"])


@pytest.mark.parametrize("kind", [*KINDS, *SPECIAL])
@pytest.mark.parametrize(("seed", "per_image"), SEEDS)
def test_an_oracle_gives_the_ap50_of_mended_data(kind: str, seed: int, per_image: int) -> None:
    truth, results = in_whole_pixels(seed, per_image)
    errors = find_errors(images_of(truth, results), len(CATEGORIES), MAX_DETS)
    of_id = {category["id"]: category["name"] for category in truth["categories"]}
    classes = {of_id[a["category_id"]] for a in truth["annotations"] if not a["iscrowd"]}
    before = ap50(truth, results, classes)
    assert errors.ap50() == pytest.approx(before, abs=1e-12)
    after = ap50(*mended(truth, results, kind), classes)
    assert errors.ap50_without(kind) == pytest.approx(after, abs=1e-12)
    assert after >= before - 1e-12


def test_every_kind_occurs_in_what_is_compared() -> None:
    """So that the comparisons above are of something."""
    totals = dict.fromkeys((*KINDS, *SPECIAL), 0)
    for seed, per_image in SEEDS:
        for kind, counts in find_errors(images_of(*in_whole_pixels(seed, per_image)), 4, MAX_DETS).counts().items():
            totals[kind] += int(counts.sum())
    assert min(totals.values()) > 5


def test_of_kinds_that_fit_the_first_counts() -> None:
    """Rows: overlap with an object of the detection's class, and with one of another class."""
    overlap = np.array([[0.3, 0.9], [0.6, 0.9], [0.6, 0.2], [0.05, 0.05], [0.05, 0.3], [0.1, 0.0], [0.09, 0.5]])
    kinds, targets = kinds_of(overlap, np.zeros(7, np.int64), np.array([0, 1]), np.zeros(7, np.bool_))
    expected = ["localization", "classification", "duplicate", "background", "both", "localization", "classification"]
    assert [KINDS[kind] for kind in kinds] == expected
    assert targets.tolist() == [0, 1, -1, -1, -1, 0, 1]


# Calibration and confidences


@pytest.mark.parametrize("seed", range(3))
def test_calibration_is_that_of_counting_in_thousandths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    thousandths = np.concatenate((rng.integers(0, 1001, 500), np.arange(0, 1001, 100)))
    right = rng.random(len(thousandths)) < thousandths / 1500
    got = reliability(thousandths / 1000, right)
    gaps = 0
    for number in range(BINS):
        mine = [k for k in range(len(right)) if min(thousandths[k] // 100, 9) == number]
        scores, correct = int(thousandths[mine].sum()), int(right[mine].sum())
        assert got.detections[number] == len(mine)
        assert got.confidence[number] == pytest.approx(scores / 1000 / len(mine), abs=1e-12)
        assert got.precision[number] == pytest.approx(correct / len(mine), abs=1e-12)
        gaps += abs(1000 * correct - scores)
    assert got.ece == pytest.approx(gaps / 1000 / len(right), abs=1e-12)


def test_calibration_of_nothing_and_of_certainty() -> None:
    nothing = reliability(np.zeros(0), np.zeros(0, np.bool_))
    assert nothing.ece is None
    assert nothing.to_json()["bins"][3] == {
        "from": 0.3,
        "to": 0.4,
        "detections": 0,
        "confidence": None,
        "precision": None,
    }
    assert reliability(np.ones(5), np.ones(5, np.bool_)).ece == 0
    assert reliability(np.ones(5), np.zeros(5, np.bool_)).ece == 1


@pytest.mark.parametrize("seed", range(3))
def test_the_best_confidence_is_amid_the_first_that_have_the_largest_f1(seed: int) -> None:
    truth, results = crowded(seed, 15)
    matches = match_classes(images_of(truth, results), 4, 0.5)
    for label, best in enumerate(over_confidence(matches).best_of_each()):
        mine = matches.labels == label
        scores, right = matches.scores[mine].tolist(), matches.right[mine].tolist()
        objects = int(matches.objects[label])

        def f1(confidence: float) -> Fraction:
            kept = [correct for score, correct in zip(scores, right, strict=True) if score >= confidence]  # noqa: B023
            return Fraction(2 * sum(kept), len(kept) + objects)  # noqa: B023

        if not any(right):
            assert best is None
            continue
        values = [f1(confidence) for confidence in CONFIDENCES.tolist()]
        assert best is not None
        first = last = values.index(max(values))
        while last + 1 < len(values) and values[last + 1] == max(values):
            last += 1
        assert best[0] == CONFIDENCES[(first + last) // 2]
        assert best[1] == pytest.approx(float(max(values)), abs=1e-12)


# The bootstrap


def drawn_data(truth: Entry, results: list[Entry], weights: list[int]) -> tuple[Entry, list[Entry]]:
    """The dataset in which each image is there as often as its weight says, as data."""
    images: list[Entry] = []
    annotations: list[Entry] = []
    found: list[Entry] = []
    for image, weight in zip(sorted(truth["images"], key=lambda image: image["id"]), weights, strict=True):
        for _ in range(weight):
            number = len(images)
            images.append({**image, "id": number})
            for entry in truth["annotations"]:
                if entry["image_id"] == image["id"]:
                    annotations.append({**entry, "image_id": number, "id": len(annotations) + 1})
            found += [{**entry, "image_id": number} for entry in results if entry["image_id"] == image["id"]]
    return {**truth, "images": images, "annotations": annotations}, found


def sized(seed: int) -> tuple[Entry, list[Entry]]:
    """Objects of all sizes."""
    truth, results = in_whole_pixels(seed, 30)
    for place, entry in enumerate(truth["annotations"]):
        entry["area"] *= (1, 4, 20)[place % 3]
    return truth, results


def value(figure: float | None) -> float:
    return float("nan") if figure is None else figure


@pytest.mark.parametrize("seed", range(3))
def test_ap_of_a_resample_is_pycocotools_ap_of_the_images_it_holds(seed: int) -> None:
    truth, results = sized(seed)
    weights = draw_images(len(truth["images"]), resamples=5, seed=seed)
    got = average_precisions(run_cocoeval(truth, results), weights)
    assert got.shape == (6, len(AREAS), len(CATEGORIES))
    for row, of_each in zip(got, weights.tolist(), strict=True):
        metrics = coco_metrics(*drawn_data(truth, results, of_each))
        for area, name in enumerate(AREAS):
            expected = value(metrics[name])
            assert class_mean(row[area][:, None])[0] == pytest.approx(expected, abs=1e-12, nan_ok=True)
        for label, name in enumerate(CATEGORIES.names):
            expected = value(metrics["per_category"][name]["AP"])
            assert row[0, label] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_resamples_do_not_depend_on_how_many_are_ranked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, results = sized(0)
    scores, weights = run_cocoeval(truth, results), draw_images(len(truth["images"]), resamples=9)
    together = average_precisions(scores, weights)
    monkeypatch.setattr("detector.evaluation.bootstrap.AT_A_TIME", 1)
    alone = average_precisions(scores, weights)
    assert np.array_equal(together, alone, equal_nan=True)


def test_resamples_are_as_large_as_the_split_and_always_the_same() -> None:
    weights = draw_images(20)
    assert weights.shape == (1001, 20)
    assert (weights[0] == 1).all()
    assert (weights.sum(axis=1) == 20).all()
    assert (weights == draw_images(20)).all()
    assert (weights != draw_images(20, seed=1))[1:].any(axis=1).all()
    assert weights.mean(axis=0) == pytest.approx(1, abs=0.2)
    assert draw_images(0).shape == (1001, 0)


def test_an_interval_holds_95_of_100_resamples() -> None:
    assert interval(np.append(np.arange(1001.0), np.nan)) == {"low": 25.0, "high": 975.0}
    assert interval(np.full(5, np.nan)) == {"low": None, "high": None}


NOTHING: dict[str, Callable[[Entry, list[Entry]], tuple[Entry, list[Entry]]]] = {
    "no detections": lambda truth, results: (truth, []),  # noqa: ARG005
    "no objects": lambda truth, results: ({**truth, "annotations": []}, results),
    "neither": lambda truth, results: ({**truth, "annotations": []}, []),  # noqa: ARG005
}


@pytest.mark.parametrize("what", NOTHING)
def test_nothing_found_and_nothing_to_find(what: str) -> None:
    truth, results = NOTHING[what](*sized(0))
    got = average_precisions(run_cocoeval(truth, results), draw_images(len(truth["images"]), resamples=3))
    metrics = coco_metrics(truth, results)
    assert {metrics[name] for name in METRICS} == ({0.0} if what == "no detections" else {None})
    assert np.isnan(got).all() == (what != "no detections")
    assert np.nan_to_num(got).max() == 0
