"""The benchmark's results as a table in the terminal and as a plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.table import Table

from detector.benchmarking.measure import BenchmarkResult
from detector.utils.charts import COLORS, new_chart, plain, save_chart
from detector.utils.terminal import Terminal

MARKERS = ("o", "s", "^")


class Row(NamedTuple):
    """A runtime: its name, the size of its file in bytes, its results."""

    name: str
    size: int
    result: BenchmarkResult


def print_rows(rows: Sequence[Row]) -> None:
    """One line a runtime; p95 behind the median, a dash for what a file doesn't tell."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("\nruntime", no_wrap=True)
    for column in (
        "file\nMB",
        "\nAP",
        "end to end\nms (p95)",
        "network\nms (p95)",
        "batches\nimages/s",
        "memory\nMiB",
        "start\ns",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for name, size, result in rows:
        table.add_row(
            name,
            f"{size / 1e6:.1f}",
            f"{result.ap:.4f}",
            spread(result.latency_ms, result.latency_p95_ms),
            spread(result.network_ms, result.network_p95_ms),
            f"{result.images_per_second:.1f}",
            "–" if result.memory_mib is None else f"{result.memory_mib:.0f}",
            f"{result.start_seconds:.1f}",
        )
    print()
    Terminal().print(table)
    print()


def spread(median: float | None, p95: float | None) -> str:
    return "–" if median is None else f"{median:.1f} ({p95:.1f})"


def draw(rows: Sequence[Row], path: Path, weights: str, data: str) -> None:
    """AP over latency; a line goes from each median to its p95."""
    figure, axes = new_chart(f"AP over latency: {plain(weights)}, {plain(data)}", height=5.2)
    for place, (name, _, result) in enumerate(rows):
        color, marker = COLORS[place % len(COLORS)], MARKERS[place // len(COLORS)]
        ends = (result.latency_ms, result.latency_p95_ms)
        axes.plot(ends, (result.ap, result.ap), color=color, linewidth=1.4, alpha=0.7)
        axes.plot(
            ends[0],
            result.ap,
            color=color,
            marker=marker,
            markersize=8,
            linestyle="",
            label=name,
            zorder=3,
            markeredgecolor="white",
        )
    axes.set_xlim(left=0)
    axes.set_xlabel("latency end to end, ms: median, with a line to p95")
    axes.set_ylabel("AP at IoU 0.50 to 0.95")
    middle = sum(row.result.ap for row in rows) / len(rows)
    reach = max(0.01, *(1.5 * abs(row.result.ap - middle) for row in rows))
    axes.set_ylim(middle - reach, middle + reach)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    save_chart(figure, path)
