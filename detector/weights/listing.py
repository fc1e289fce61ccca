"""`detector weights`: the names that stand for weights, in a table."""

from collections.abc import Iterator
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from detector.errors import printable
from detector.utils.file_cache import HOME
from detector.utils.terminal import Terminal
from detector.weights.downloaded import cache_folder, weights_path
from detector.weights.files import load_weights
from detector.weights.published.coco_categories import COCO
from detector.weights.published.table import TABLE
from detector.weights.shipped import find_weights, shipped_names


def print_names() -> None:
    """One line a name, shipped ones first; then what the columns mean and where downloads go. Asks no server."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in ("name", "network", "classes", "AP", "license", "source", "MB", "here"):
        table.add_column(column, justify="right" if column in ("classes", "AP", "MB") else "left", no_wrap=True)
    for row in rows():
        table.add_row(*(Text(printable(cell)) for cell in row))
    Terminal().print(table)
    print()
    print(
        "AP of shipped weights: on their own validation images; of others: on COCO val2017 as published, not measured here"
    )
    print("MB of what is not here: an estimate")
    print(printable(f"downloads are kept in {cache_folder()}; the variable {HOME} names another folder"))
    print("detector weights get NAME downloads one; no other command does")


def rows() -> Iterator[tuple[str, ...]]:
    """The cells of each name's line."""
    for name in shipped_names():
        _, info = load_weights(name)
        ap = info.metrics.get("AP")
        yield row(name, info.model, len(info.categories), ap, info.license, "shipped", find_weights(name))
    for name, known in TABLE.items():
        path, estimate = weights_path(name), known.megabytes
        yield row(name, known.model, len(COCO), known.ap, known.license, known.publisher, path, estimate)


def row(
    name: str, model: str, classes: int, ap: float | None, license: str, source: str, path: Path, estimate: float = 0
) -> tuple[str, ...]:
    """A line's cells; `estimate`: MB of what is not at `path`."""
    here = path.is_file()
    megabytes = path.stat().st_size / 1e6 if here else estimate
    ap_text = "–" if ap is None else f"{ap:.3f}"
    return name, model, f"{classes}", ap_text, license, source, f"{megabytes:.0f}", "yes" if here else "no"
