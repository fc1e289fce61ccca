"""Two weights on one split: the difference of their AP, how sure it is, and the images where they differ most."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from rich.table import Table
from rich.text import Text

from detector.config import CompareConfig
from detector.data.coco import CocoDataset
from detector.data.load import load_split
from detector.errors import WeightsError, printable
from detector.evaluation.bootstrap import AREAS, METHOD, RESAMPLES, average_precisions, draw_images, interval
from detector.evaluation.coco_metrics import category_names, coco_input, run_cocoeval
from detector.evaluation.curves import class_mean
from detector.evaluation.evaluate import evaluate_model
from detector.evaluation.matching import ImageMatch, image_boxes, match_image
from detector.evaluation.tide import FOREGROUND
from detector.images.draw import label_color
from detector.images.grids import LEGEND_CLASSES
from detector.images.read import UnreadableImageError
from detector.inference.detector import Detector
from detector.reporting.examples import draw_found, draw_truth, side_by_side
from detector.structures import Detections
from detector.utils import page
from detector.utils.drawing import Drawing
from detector.utils.fileio import require_apart, require_writable, write_json, write_text
from detector.utils.terminal import Terminal

CONFIDENCE = 0.25
"""Lowest score of the detections in the images."""
MAX_EXAMPLES = 6
IMAGES = "images"
"""Folder of the images inside `--out`."""

Found = Mapping[int, Detections]


class Pair(NamedTuple):
    """What became of the objects of one image with either weights."""

    first: ImageMatch
    second: ImageMatch

    def gain(self) -> float:
        """By how much `ImageMatch.quality` is better with the second weights."""
        return self.second.quality() - self.first.quality()


def compare(config: CompareConfig) -> dict[str, Any]:
    """Evaluate `config.first` and `config.second` on a split; writes compare.json and compare.html into `config.out` and
    prints the table.

    Returns the content of compare.json: `metrics`, AP and AP by object size, and `per_category`: name -> {first, second,
    difference, low, high}, where the last three are of second - first. Raises DetectorError kinds.
    """
    out = Path(config.out)
    require_writable(out)
    weights = [config.first, config.second]
    detectors = [Detector.load(each, config) for each in weights]
    first, second = (detector.categories.names for detector in detectors)
    if first != second:
        raise WeightsError(
            f"{config.first} and {config.second} have different classes ({len(first)} and {len(second)}, or in another"
            " order); compare weights that were trained on the same ones"
        )
    dataset = load_split(config.data, config.split, detectors[0].categories)
    require_apart([*weights, dataset.annotations_path], [out / "compare.json", out / "compare.html"])
    for line in dataset.problems:
        print(printable(line))
    evaluations = [evaluate_model(each, dataset, config.workers, config.max_unreadable) for each in detectors]
    for line in evaluations[0].unreadable:
        print(f"skipped: {printable(line)}")
    a, b = (evaluation.detections for evaluation in evaluations)
    given = {"first": config.first, "second": config.second, "annotations": str(dataset.annotations_path)}
    report = {**given, "split": config.split, "images": len(a), **differences(dataset, a, b), "bootstrap": METHOD}
    write_json(out / "compare.json", report)
    print_differences(report)
    write_text(out / "compare.html", compare_page(report, dataset, pairs(dataset, a, b), Drawing(out / IMAGES)))
    print(f"written: {out / 'compare.json'}, {out / 'compare.html'}, with its images in {out / IMAGES}")
    return report


def differences(dataset: CocoDataset, first: Found, second: Found) -> dict[str, Any]:
    """`metrics` and `per_category` of `compare`: both are scored on the same resamples of the images."""
    weights = draw_images(len(first))
    one, other = (average_precisions(run_cocoeval(*coco_input(dataset, found)), weights) for found in (first, second))
    metrics = {
        name: difference(class_mean(one[:, area].T), class_mean(other[:, area].T)) for area, name in enumerate(AREAS)
    }
    per_category = {
        name: difference(one[:, 0, label], other[:, 0, label])
        for label, name in category_names(dataset.categories).items()
    }
    return {"metrics": metrics, "per_category": per_category}


def difference(
    first: Float64[np.ndarray, " resamples"], second: Float64[np.ndarray, " resamples"]
) -> dict[str, float | None]:
    """The values of the split, which come first, their difference, and its interval."""
    values = {"first": first[0], "second": second[0], "difference": second[0] - first[0]}
    known = {key: None if np.isnan(value) else float(value) for key, value in values.items()}
    return {**known, **interval((second - first)[1:])}


def pairs(dataset: CocoDataset, first: Found, second: Found) -> list[Pair]:
    """The images, matched with either weights; those that gain most come first."""
    matched = [
        [match_image(image, CONFIDENCE, FOREGROUND) for image in image_boxes(dataset, found)]
        for found in (first, second)
    ]
    return sorted((Pair(*both) for both in zip(*matched, strict=True)), key=lambda pair: -pair.gain())


def verdict(values: Mapping[str, Any]) -> str:
    """What the interval of a difference says, in words."""
    if values["difference"] is None or values["low"] is None:
        return "nothing to measure"
    if values["low"] > 0:
        return "second is better"
    return "first is better" if values["high"] < 0 else "may be chance"


def print_differences(report: Mapping[str, Any]) -> None:
    """The table of the terminal."""
    print(printable(f"first: {report['first']}; second: {report['second']}; {report['images']} images"))
    table = Table("", "first", "second", "difference", "95 % interval", "", title="AP")
    for name, each in rows(report):
        values = *(page.number(each[key]) for key in ("first", "second")), page.number(each["difference"], "+")
        table.add_row(Text(printable(name)), *values, page.interval(each), verdict(each))
    Terminal().print(table)


def rows(report: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """AP, AP by size, then the AP of each class."""
    return [*report["metrics"].items(), *report["per_category"].items()]


def compare_page(report: Mapping[str, Any], dataset: CocoDataset, images: list[Pair], drawing: Drawing) -> str:
    """The HTML page."""
    ap = report["metrics"]["AP"]
    html = page.metrics(
        [
            ("AP of the first", page.number(ap["first"])),
            ("AP of the second", page.number(ap["second"])),
            (f"difference: {verdict(ap)}", page.number(ap["difference"], "+")),
        ]
    )
    keys = ("first", "second", "annotations", "split")
    html += page.table(("", ""), [*((key, report[key]) for key in keys), ("images", f"{report['images']:,}")])
    html += page.paragraph(
        f"The intervals hold 95 % of {RESAMPLES} differences, each measured with both weights on the same resample of the"
        " images. Where an interval holds 0, the difference may be chance."
    )
    table = [
        (
            name,
            *(page.number(each[key]) for key in ("first", "second")),
            page.number(each["difference"], "+"),
            page.interval(each),
            verdict(each),
        )
        for name, each in rows(report)
    ]
    html += page.table(("AP", "first", "second", "difference", "95 % interval", ""), table, numbers=5)
    if len(dataset.categories) <= LEGEND_CLASSES:
        html += page.color_keys((label_color(label), name) for label, name in enumerate(dataset.categories.names))
    sections = [("Difference", html)]
    for title, chosen in (
        ("Images where the second is better", [pair for pair in images if pair.gain() > 0][:MAX_EXAMPLES]),
        ("Images where the first is better", [pair for pair in images[::-1] if pair.gain() < 0][:MAX_EXAMPLES]),
    ):
        sections.append((title, examples(chosen, dataset, drawing)))
    return page.page("Comparison of two weights", sections)


def examples(chosen: list[Pair], dataset: CocoDataset, drawing: Drawing) -> str:
    """Each image with its truth and what either weights found in it."""
    if not chosen:
        return page.paragraph("There is none.")
    html = page.paragraph(
        f"Largest difference of F1 in which a right detection counts by its IoU, at a score of {CONFIDENCE} or more. Left"
        " the truth, with a chip on what both missed; then what the first and the second found."
    )
    for place, pair in enumerate(chosen, start=1):
        index = pair.first.image.index
        try:
            image = dataset.read(index).image
        except UnreadableImageError:  # since a minute ago
            continue
        missed = replace(pair.first, missed=pair.first.missed & pair.second.missed)
        plot = side_by_side(
            ("truth", draw_truth(image, missed, dataset.categories)),
            ("first", draw_found(image, pair.first, dataset.categories)),
            ("second", draw_found(image, pair.second, dataset.categories)),
        )
        values = f"F1 by IoU {pair.first.quality():.2f} and {pair.second.quality():.2f}"
        name = f"{'second' if pair.gain() > 0 else 'first'}-better-{place}"
        html += drawing.photograph(name, plot, f"{dataset.file_name(index)}: {values}")
    return html
