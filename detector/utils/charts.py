"""The look that all charts share: light, sans-serif, colors that color-blind people can tell apart."""

import logging
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from detector.errors import printable
from detector.utils.fileio import atomic_write

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells on stderr that it builds its font cache

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00", "#5D3A9B")
"""Okabe and Ito's, the yellow and the black replaced: one is too light for a line, the other marks means."""
STYLES = ("-", "--", "-.", ":")
MEAN_COLOR = "#111111"
GRAY = "#B8B8B8"
LONGEST_NAME = 22
TALLEST = 30.0  # inches


def new_chart(title: str, width: float = 6.4, height: float = 4.4) -> tuple[Figure, Axes]:
    """A figure of width x height inches with one plot."""
    figure = Figure(figsize=(width, min(height, TALLEST)), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=12, fontweight="bold", loc="left", pad=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    return figure, axes


def add_legend(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """A legend below the plot."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)


def save_chart(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a class name in a script the font lacks
        atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))


def plain(name: str) -> str:
    """A class name as matplotlib should write it: one line, not too long, no formula, not hidden from legends."""
    text = printable(name).strip()
    if len(text) > LONGEST_NAME:
        text = f"{text[: LONGEST_NAME - 1]}…"
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def most_frequent(counts: Int64[np.ndarray, " classes"], limit: int) -> Int64[np.ndarray, " chosen"]:
    """The labels with the largest counts, largest first, without those with none."""
    order = np.argsort(-counts, kind="stable")[:limit]
    return np.asarray(order[counts[order] > 0])
