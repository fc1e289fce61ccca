"""How far AP would be another on other images: the bootstrap over images (Efron & Tibshirani 1993, percentile interval)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int16, Int64

RESAMPLES = 1000
SEED = 0
INTERVAL = (2.5, 97.5)
"""Percentiles: in 95 of 100 datasets like this one the interval would hold the value."""
METHOD = {"resamples": RESAMPLES, "seed": SEED, "over": "images", "percentiles": INTERVAL}
"""How intervals are made, for JSON files."""
AREAS = ("AP", "APsmall", "APmedium", "APlarge")
"""AP of all objects and by their size, in COCOeval's order of ranges."""
AT_A_TIME = 1 << 22
"""Detections of all resamples that are ranked together, which bounds memory."""

Weights = Int16[np.ndarray, "resamples images"]
"""How often each image counts in each resample."""


def draw_images(images: int, resamples: int = RESAMPLES, seed: int = SEED) -> Weights:
    """Draw as many images as there are, with replacement, for each resample; before them in the first row each image once."""
    generator = np.random.default_rng(seed)
    drawn = (generator.integers(0, max(images, 1), images) for _ in range(resamples))
    counts = [np.bincount(each, minlength=images) for each in drawn]
    return np.stack([np.ones(images), *counts]).astype(np.int16)


@dataclass(frozen=True, eq=False)
class Ranking:
    """What COCOeval matched of one class in one range of areas, best detections first.

    images: place of each detection's image; counts: at each IoU threshold those that are not ignored; right: those that
    found an object; objects: how many there are to find in each image.
    """

    images: Int64[np.ndarray, " detections"]
    counts: Bool[np.ndarray, "thresholds detections"]
    right: Bool[np.ndarray, "thresholds detections"]
    objects: Int64[np.ndarray, " images"]


def rankings(scores: Any) -> Iterator[tuple[int, int, Ranking]]:
    """Label, area range (place in `AREAS`) and matches, from pycocotools' COCOeval after `evaluate`."""
    classes, areas, images = len(scores.params.catIds), len(scores.params.areaRng), len(scores.params.imgIds)
    for label in range(classes):
        for area in range(areas):
            start = (label * areas + area) * images
            found = [(i, each) for i, each in enumerate(scores.evalImgs[start : start + images]) if each is not None]
            objects = np.zeros(images, np.int64)
            for place, each in found:
                objects[place] = np.count_nonzero(np.asarray(each["gtIgnore"]) == 0)
            thresholds = len(scores.params.iouThrs)
            ranked = np.argsort([-s for _, each in found for s in each["dtScores"]], kind="stable").astype(np.int64)
            none = np.zeros((thresholds, 0))
            ignored = np.concatenate([none, *(each["dtIgnore"] for _, each in found)], axis=1)[:, ranked] != 0
            matched = np.concatenate([none, *(each["dtMatches"] for _, each in found)], axis=1)[:, ranked] != 0
            place_of = np.repeat([i for i, _ in found], [len(each["dtScores"]) for _, each in found])
            ranking = Ranking(place_of[ranked].astype(np.int64), ~ignored, matched & ~ignored, objects)
            yield label, area, ranking


def average_precisions(scores: Any, weights: Weights) -> Float64[np.ndarray, "resamples areas classes"]:
    """AP by COCO's rule, in each range of `AREAS` and of each class; NaN where no object is drawn."""
    values = np.full((len(weights), len(AREAS), len(scores.params.catIds)), np.nan)
    for label, area, ranking in rankings(scores):
        size = max(AT_A_TIME // max(len(ranking.images), 1), 1)
        for start in range(0, len(weights), size):
            some = slice(start, start + size)
            values[some, area, label] = average_precision(ranking, weights[some], scores.params.recThrs)
    return values


def average_precision(
    ranking: Ranking, weights: Weights, recalls: Float64[np.ndarray, " recalls"]
) -> Float64[np.ndarray, " resamples"]:
    """The mean over IoU thresholds and recalls of the best precision at that recall or a higher one; NaN without objects.

    An image that counts n times has each of its objects and detections n times.
    """
    objects = weights @ ranking.objects
    needed = objects_needed(objects, recalls)
    values = np.zeros(len(weights))
    for counts, right in zip(ranking.counts, ranking.right, strict=True):
        (counted,) = counts.nonzero()
        (places,) = right[counted].nonzero()
        if len(places):
            counted = counted[: places[-1] + 1]  # what comes behind changes nothing
            of_each = weights[:, ranking.images[counted]]
            found, detections = of_each[:, places].cumsum(axis=1), of_each.cumsum(axis=1)[:, places]
            values += best_precision(found, detections, needed).mean(axis=1)
    values /= len(ranking.counts)
    values[objects == 0] = np.nan
    return values


def objects_needed(
    objects: Int64[np.ndarray, " resamples"], recalls: Float64[np.ndarray, " recalls"]
) -> Int64[np.ndarray, "resamples recalls"]:
    """The least number of objects found whose fraction of all is at least the recall, in COCOeval's arithmetic."""
    total = np.maximum(objects, 1)[:, None]
    needed = np.ceil(total * recalls)
    needed -= (needed - 1) / total >= recalls
    needed += needed / total < recalls
    return np.asarray(needed, np.int64)


def best_precision(
    found: Int64[np.ndarray, "resamples ranks"],
    detections: Int64[np.ndarray, "resamples ranks"],
    needed: Int64[np.ndarray, "resamples recalls"],
) -> Float64[np.ndarray, "resamples recalls"]:
    """The best precision from the rank on at which `needed` objects are found; 0 where there is none."""
    precision = np.zeros(found.shape)
    np.divide(found, detections, out=precision, where=detections > 0)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    best = np.concatenate((best, np.zeros((len(best), 1))), axis=1)
    rows = np.arange(len(found))[:, None]
    apart = rows * (max(found.max(), needed.max()) + 1)  # so that all rows together are in order
    ranks = np.searchsorted((found + apart).ravel(), (needed + apart).ravel()).reshape(needed.shape)
    return np.asarray(best[rows, ranks - rows * found.shape[1]])


def interval(values: Float64[np.ndarray, " resamples"]) -> dict[str, float | None]:
    """`low` and `high` of the resamples that have a value; None if none has."""
    known = values[~np.isnan(values)]
    low, high = np.percentile(known, INTERVAL).tolist() if len(known) else (None, None)
    return {"low": low, "high": high}
