"""Metrics as tables in the terminal."""

from collections.abc import Mapping

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


def text(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
