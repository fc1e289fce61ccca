"""What errors cost and how well scores are calibrated, as charts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from detector.evaluation.tide import KINDS, SPECIAL
from detector.utils.charts import COLORS, GRAY, MEAN_COLOR, add_legend, new_chart


def error_chart(errors: Mapping[str, Any]) -> Figure:
    """dAP50 of each kind of error, of what `explain` returns."""
    kinds = [*KINDS, *SPECIAL]
    values = [errors[kind]["dAP50"] or 0.0 for kind in kinds]
    figure, axes = new_chart("What each kind of error costs", height=4.0)
    colors = [COLORS[0]] * len(KINDS) + [GRAY] * len(SPECIAL)
    bars = axes.barh(range(len(kinds)), values, color=colors)
    texts = [f"{value:.3f}  ({errors[kind]['count']:,})" for kind, value in zip(kinds, values, strict=True)]
    axes.bar_label(bars, texts, padding=4, fontsize=9)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.invert_yaxis()
    axes.set_xlim(0, max(*values, 0.01) * 1.3)
    axes.set_xlabel("gain in AP50 if these errors were mended (number of errors)")
    axes.grid(visible=False, axis="y")
    return figure


def reliability_chart(calibration: Mapping[str, Any]) -> Figure:
    """The fraction of right detections over their score, of what `explain` returns; beside it how many there are."""
    bins = [each for each in calibration["bins"] if each["detections"]]
    ece = calibration["ECE"]
    figure, axes = new_chart(f"Calibration: ECE {'–' if ece is None else f'{ece:.3f}'} (IoU 0.5)", height=4.8)
    axes.bar(
        [(each["from"] + each["to"]) / 2 for each in bins],
        [each["precision"] for each in bins],
        width=0.09,
        color=COLORS[5],
        label="right, by score",
    )
    axes.plot([0, 1], [0, 1], color=MEAN_COLOR, linewidth=1.2, linestyle="--", label="perfectly calibrated")
    axes.plot(
        [each["confidence"] for each in bins],
        [each["precision"] for each in bins],
        color=COLORS[1],
        marker="o",
        linewidth=0,
        label="at the mean score",
    )
    for each in bins:
        place = (each["from"] + each["to"]) / 2
        axes.text(place, 1.04, f"{each['detections']:,}", ha="center", fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.1)
    axes.set_xticks(np.linspace(0, 1, 11))
    axes.set_xlabel("score")
    axes.set_ylabel("precision: fraction that is right")
    add_legend(figure, axes, columns=3)
    return figure
