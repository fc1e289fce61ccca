"""Metrics as tables in the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from detector.errors import printable
from detector.utils.terminal import Terminal


def print_metrics(metrics: Mapping[str, float | None], per_category: Mapping[str, Mapping[str, float | None]]) -> None:
    """The 12 COCO metrics, then AP and AP50 of each category; a dash where there was nothing to find."""
    console = Terminal()
    table = Table("metric", "value", title="COCO metrics")
    for name, value in metrics.items():
        table.add_row(name, text(value))
    console.print(table)
    categories = Table("category", "AP", "AP50", title="AP per category")
    for name, values in per_category.items():
        categories.add_row(Text(printable(name)), text(values["AP"]), text(values["AP50"]))
    console.print(categories)


def print_explanation(explanation: Mapping[str, Any]) -> None:
    """What `explain` returns: intervals of AP, the cost of errors, calibration, and each category's best confidence."""
    console = Terminal()
    sizes = Table("metric", "value", "95 % interval", title="AP by object size")
    for name, values in explanation["sizes"].items():
        sizes.add_row(name, text(values["AP"]), interval_text(values))
    console.print(sizes)
    errors = Table("error", "count", "dAP50", title="Errors (TIDE)")
    for kind, each in explanation["errors"].items():
        if kind != "AP50":
            errors.add_row(kind, f"{each['count']:,}", text(each["dAP50"]))
    console.print(errors)
    ece = text(explanation["calibration"]["ECE"])
    bins = Table("score", "detections", "mean score", "right", title=f"Calibration: ECE {ece}")
    for each in explanation["calibration"]["bins"]:
        scores = f"{each['from']:.1f} to {each['to']:.1f}"
        bins.add_row(scores, f"{each['detections']:,}", text(each["confidence"]), text(each["precision"]))
    console.print(bins)
    headings = ("category", "AP", "95 % interval", "best confidence", "F1 there", "ECE")
    categories = Table(*headings, title="Per category")
    for name, values in explanation["per_category"].items():
        best = "–" if values["confidence"] is None else f"{values['confidence']:.3f}"
        row = text(values["AP"]), interval_text(values), best, text(values["F1"]), text(values["ECE"])
        categories.add_row(Text(printable(name)), *row)
    console.print(categories)


def interval_text(values: Mapping[str, float | None]) -> str:
    """`low` and `high` as text."""
    return "–" if values["low"] is None else f"{text(values['low'])} to {text(values['high'])}"


def text(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
