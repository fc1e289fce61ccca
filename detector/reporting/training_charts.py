"""Losses, AP and learning rate over the epochs of a run."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from detector.reporting.run_record import RunRecord
from detector.utils.charts import COLORS, GRAY, STYLES, add_legend, new_chart

LOSSES = {"box_loss": "box", "class_loss": "class", "distribution_loss": "distribution (box edges)"}
PRECISIONS = {"AP": "AP (IoU 0.5 to 0.95)", "AP50": "AP50 (IoU 0.5)", "AP75": "AP75 (IoU 0.75)"}


def loss_chart(run: RunRecord) -> Figure:
    figure, axes = new_chart("Training losses")
    curves(axes, run, LOSSES)
    axes.set_ylabel("mean loss of the epoch, times its weight")
    axes.set_ylim(bottom=0)
    return finished(figure, axes, run)


def precision_chart(run: RunRecord) -> Figure:
    figure, axes = new_chart("Average precision on the validation split")
    curves(axes, run, PRECISIONS)
    axes.set_ylabel("average precision")
    axes.set_ylim(0, 1)
    return finished(figure, axes, run)


def rate_chart(run: RunRecord) -> Figure:
    figure, axes = new_chart("Learning rate")
    curves(axes, run, {"learning_rate": f"learning rate ({run.config.train.optimizer}, {run.config.train.schedule})"})
    axes.set_ylabel("learning rate at the end of the epoch")
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    return finished(figure, axes, run)


def curves(axes: Axes, run: RunRecord, names: Mapping[str, str]) -> None:
    """A line for each metric; a gap where there was nothing to measure."""
    for place, (name, text) in enumerate(names.items()):
        values = [float("nan") if (value := row.get(name)) is None else value for row in run.rows]
        style: dict[str, Any] = {"color": COLORS[place], "linestyle": STYLES[place]}
        if len(run.rows) <= 30:
            style |= {"marker": "o", "markersize": 3.5}
        axes.plot([row["epoch"] for row in run.rows], values, linewidth=1.6, label=text, **style)


def finished(figure: Figure, axes: Axes, run: RunRecord) -> Figure:
    """The epochs as x axis, with the best one and those with weak augmentation marked."""
    last = run.rows[-1]["epoch"]
    axes.set_xlim(0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.axvline(run.best_epoch, color="#111111", linewidth=1.0, linestyle="--", label=f"best epoch: {run.best_epoch}")
    if run.config.full_aug_epochs < last:
        after = run.config.full_aug_epochs
        axes.axvspan(
            after + 0.5, last + 0.5, color=GRAY, alpha=0.3, linewidth=0, label=f"weak augmentation, after {after}"
        )
    add_legend(figure, axes)
    return figure
