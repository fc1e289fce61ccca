"""What the labels of a dataset look like: classes, objects per image, box sizes and places."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from detector.data.coco import CocoDataset
from detector.images.input_size import InputSize
from detector.images.letterbox import Letterbox
from detector.utils.charts import COLORS, most_frequent, new_chart, plain

MAX_CLASSES = 25
MAX_BARS = 30


@dataclass(frozen=True, eq=False)
class LabelStatistics:
    """Labels of one split, without crowd regions.

    per_class: objects of each class; per_image: objects in each image; sizes: width and height of each box in pixels
    of the network input; centers: of each box, x and y as fractions of its image's width and height.
    """

    per_class: Int64[np.ndarray, " classes"]
    per_image: Int64[np.ndarray, " images"]
    sizes: Float64[np.ndarray, "objects 2"]
    centers: Float64[np.ndarray, "objects 2"]


def label_statistics(dataset: CocoDataset, input_size: InputSize, tiles: int | None = None) -> LabelStatistics:
    """input_size: the network input; tiles: side in pixels of the windows of an image that are one each."""
    per_class = np.zeros(len(dataset.categories), np.int64)
    per_image = np.zeros(len(dataset), np.int64)
    sizes, centers = [np.zeros((0, 2))], [np.zeros((0, 2))]
    for index in range(len(dataset)):
        boxes, (width, height) = dataset.boxes(index).astype(np.float64), dataset.size(index)
        per_class += np.bincount(dataset.labels(index), minlength=len(per_class))
        per_image[index] = len(boxes)
        shown = (width, height) if tiles is None else (min(width, tiles), min(height, tiles))
        sizes.append((boxes[:, 2:] - boxes[:, :2]) * Letterbox(*shown, input_size.width, input_size.height).scale)
        centers.append((boxes[:, :2] + boxes[:, 2:]) / 2 / (width, height))
    return LabelStatistics(per_class, per_image, np.concatenate(sizes), np.concatenate(centers))


def class_chart(splits: Mapping[str, LabelStatistics], names: tuple[str, ...]) -> Figure:
    """Objects of each class, a bar a split."""
    total = np.sum([split.per_class for split in splits.values()], axis=0)
    chosen = most_frequent(total, MAX_CLASSES)
    title = "Objects per class"
    if len(chosen) < len(names):
        title += f": {len(chosen)} of {len(names)} classes, those with the most"
    figure, axes = new_chart(title, height=1.8 + 0.32 * len(chosen))
    thickness = 0.8 / len(splits)
    for place, (name, split) in enumerate(splits.items()):
        counts = split.per_class[chosen]
        bars = axes.barh(
            np.arange(len(chosen)) + (place - (len(splits) - 1) / 2) * thickness,
            counts,
            thickness,
            color=COLORS[place],
            label=f"{name}: {split.per_class.sum():,} objects",
        )
        axes.bar_label(bars, [f"{count:,}" for count in counts], padding=3, fontsize=8)
    axes.set_yticks(range(len(chosen)), [plain(names[label]) for label in chosen])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.12, y=0.02)
    axes.set_xlabel("objects")
    axes.legend(fontsize=9, loc="lower right")
    return figure


def crowding_chart(splits: Mapping[str, LabelStatistics]) -> Figure:
    """How many objects per image has."""
    figure, axes = new_chart("Objects per image")
    largest = max(int(split.per_image.max()) for split in splits.values())
    step = -(-(largest + 1) // MAX_BARS)
    edges = np.arange(0, largest + 1 + step, step)
    thickness = 0.8 * step / len(splits)
    for place, (name, split) in enumerate(splits.items()):
        fraction = np.histogram(split.per_image, edges)[0] / len(split.per_image)
        middle = (edges[:-1] + edges[1:] - 1) / 2
        axes.bar(
            middle + (place - (len(splits) - 1) / 2) * thickness,
            100 * fraction,
            thickness,
            color=COLORS[place],
            label=f"{name}: {len(split.per_image):,} images, {split.per_image.mean():.1f} objects on average",
        )
    axes.set_xlabel("objects in an image" + (f" (steps of {step})" if step > 1 else ""))
    axes.set_ylabel("images, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(fontsize=9)
    axes.margins(y=0.25)
    return figure


def size_chart(split: LabelStatistics, input_size: InputSize) -> Figure:
    """Widths against heights of the boxes."""
    figure, axes = new_chart(
        f"Box sizes in the network input ({input_size.width} × {input_size.height} px)", height=5.2
    )
    largest = split.sizes.max(initial=1.0)
    bins = np.linspace(0, largest, 41)
    counts, _, _ = np.histogram2d(split.sizes[:, 0], split.sizes[:, 1], (bins, bins))
    top = max(counts.max(), 2)
    mesh = axes.pcolormesh(bins, bins, np.ma.masked_equal(counts.T, 0), cmap="viridis_r", norm=LogNorm(1, top))
    figure.colorbar(mesh, label="training objects (log scale)")
    axes.plot((0, largest), (0, largest), color="#888888", linewidth=0.8, linestyle=":")
    axes.set_aspect("equal")
    axes.set_xlabel("width, px")
    axes.set_ylabel("height, px")
    return figure


def place_chart(split: LabelStatistics) -> Figure:
    """Where the centers of the boxes lie."""
    figure, axes = new_chart("Box centers in the image", height=5.2)
    bins = np.linspace(0, 1, 21)
    counts, _, _ = np.histogram2d(split.centers[:, 0], split.centers[:, 1], (bins, bins))
    mesh = axes.pcolormesh(100 * bins, 100 * bins, counts.T, cmap="viridis")
    figure.colorbar(mesh, label="training objects")
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.set_xlabel("from the left edge, % of the width")
    axes.set_ylabel("from the top edge, % of the height")
    return figure
