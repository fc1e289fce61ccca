"""Precision-recall, precision, recall and F1 over the confidence, and the confusion matrix."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detector.evaluation.curves import CONFIDENCES, RECALLS, ConfidenceCurves, class_mean
from detector.utils.charts import (
    COLORS,
    GRAY,
    MEAN_COLOR,
    STYLES,
    add_legend,
    most_frequent,
    new_chart,
    plain,
)

MAX_LINES = len(COLORS)
MAX_CLASSES = 20


def recall_chart(
    curves: Float64[np.ndarray, "classes 101"], objects: Int64[np.ndarray, " classes"], names: Sequence[str]
) -> Figure:
    """Precision over recall, with the AP50 of each class."""
    figure, axes = new_chart("Precision over recall (IoU 0.5)", height=chart_height(objects))
    ap50 = curves.mean(axis=1)
    texts = [f"{plain(name)}: AP50 {value:.3f}" for name, value in zip(names, ap50, strict=True)]
    add_lines(axes, RECALLS, curves, objects, texts, f": AP50 {class_mean(curves).mean():.3f}")
    axes.set_xlabel("recall: fraction of the objects that are found")
    axes.set_ylabel("precision: fraction of the detections that are right")
    add_legend(figure, axes)
    return figure


def confidence_chart(
    what: str,
    values: Float64[np.ndarray, "classes 1001"],
    curves: ConfidenceCurves,
    objects: Int64[np.ndarray, " classes"],
    names: Sequence[str],
) -> Figure:
    """`values`, one of `curves`, over the confidence; the confidence of the best F1 is marked."""
    figure, axes = new_chart(f"{what} over the confidence (IoU 0.5)", height=chart_height(objects))
    add_lines(axes, CONFIDENCES, values, objects, [plain(name) for name in names], "")
    confidence, f1 = curves.best()
    text = f"best F1: {f1:.3f} at confidence {confidence:.3f}"
    axes.axvline(confidence, color=MEAN_COLOR, linewidth=1.0, linestyle="--", label=text)
    axes.set_xlabel("confidence: lowest score that counts")
    axes.set_ylabel(what)
    add_legend(figure, axes)
    return figure


def chart_height(objects: Int64[np.ndarray, " classes"]) -> float:
    """Inches that the plot and its legend, two columns, take."""
    return 4.4 + 0.1 * min(int((objects > 0).sum()), MAX_LINES)


def add_lines(
    axes: Axes,
    x: Float64[np.ndarray, " points"],
    curves: Float64[np.ndarray, "classes points"],
    objects: Int64[np.ndarray, " classes"],
    texts: Sequence[str],
    mean_text: str,
) -> None:
    """The classes with the most objects in color, others thin and gray, and the mean of all, heavy and black."""
    chosen = most_frequent(objects, MAX_LINES).tolist()
    known = np.flatnonzero(objects).tolist()
    for place, label in enumerate(chosen):
        style = STYLES[place % len(STYLES)]
        axes.plot(x, curves[label], color=COLORS[place], linestyle=style, linewidth=1.5, label=texts[label])
    others = [label for label in known if label not in chosen]
    for label in others:
        text = f"the other {len(others)} classes" if label == others[0] else "_"
        axes.plot(x, curves[label], color=GRAY, linewidth=0.6, zorder=1, label=text)
    if len(known) > 1:
        text = f"mean of {len(known)} classes{mean_text}"
        axes.plot(x, class_mean(curves), color=MEAN_COLOR, linewidth=2.6, label=text)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)


def confusion_chart(matrix: Int64[np.ndarray, "true found"], names: Sequence[str]) -> Figure:
    """Counts, colored by their fraction of their row; the classes with the most objects, the others as one."""
    chosen = most_frequent(matrix[:-1].sum(axis=1), MAX_CLASSES)
    if len(names) <= MAX_CLASSES:
        chosen = np.arange(len(names))
    table, texts = group_classes(matrix, chosen), [plain(names[label]) for label in chosen]
    title = "Confusion matrix"
    if len(chosen) < len(names):
        texts.append(f"{len(names) - len(chosen)} other classes")
        title += f": the {len(chosen)} classes with the most objects"
    side = max(2.6 + 0.36 * len(table), 5.0)
    figure, axes = new_chart(title, width=side + 1.4, height=side)
    fraction = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    mesh = axes.imshow(fraction, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(mesh, label="fraction of the row", shrink=0.8)
    size = 10 if len(table) <= 8 else 7.5
    for row, column in np.argwhere(table > 0):
        color = "white" if fraction[row, column] > 0.55 else "#222222"
        axes.text(column, row, f"{table[row, column]}", ha="center", va="center", fontsize=size, color=color)
    ticks = range(len(table))
    axes.set_xticks(ticks, [*texts, "nothing (missed)"], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, [*texts, "nothing (background)"])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("found as")
    axes.set_ylabel("truth")
    return figure


def group_classes(
    matrix: Int64[np.ndarray, "true found"], chosen: Int64[np.ndarray, " chosen"]
) -> Int64[np.ndarray, "rows columns"]:
    """The matrix of the chosen classes, then the sum of the others if there are any, then the background."""
    classes = len(matrix) - 1
    others = np.setdiff1d(np.arange(classes), chosen)
    groups = [np.array([label]) for label in chosen] + ([others] if len(others) else []) + [np.array([classes])]
    return np.array([[matrix[np.ix_(rows, columns)].sum() for columns in groups] for rows in groups])


def worst_confusions(matrix: Int64[np.ndarray, "true found"], limit: int) -> list[tuple[int, int, int]]:
    """The class pairs confused most often: (true label, label it was found as, how often)."""
    classes = matrix[:-1, :-1].copy()
    np.fill_diagonal(classes, 0)
    order = np.argsort(-classes, axis=None, kind="stable")[:limit]
    pairs = [(int(i) // len(classes), int(i) % len(classes)) for i in order]
    return [(true, found, int(classes[true, found])) for true, found in pairs if classes[true, found] > 0]
