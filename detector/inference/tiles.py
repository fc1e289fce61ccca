"""Large images through overlapping windows, each a network input, and one box for an object however many show it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torchvision.ops import batched_nms

from detector.boxes import box_area, intersection_area
from detector.config import TileConfig
from detector.data.tiles import Window, windows
from detector.inference.detector import Detector, ImageLike, as_array, as_list
from detector.structures import Detections

SEAM = 0.02
"""A box is cut if it ends so close to a seam, in sides of the window: 13 of 640 pixels."""
SAME = 0.5
"""Two windows show the same object if the IoU of the boxes' parts that both windows see is at least this."""
COVERED = 0.7
"""A cut box is part of another one if at least this fraction of it lies in that."""
AT_A_TIME = 256
"""Boxes compared with all others at a time, which bounds memory."""


@dataclass(frozen=True)
class Views:
    """Boxes as the windows show them, xyxy in pixels of the image; `window` is the place of each one's window,
    `cut` whether it ends at a seam."""

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    window: Int64[Tensor, " n"]
    cut: Bool[Tensor, " n"]

    def __getitem__(self, chosen: Tensor) -> "Views":
        return Views(
            self.boxes[chosen], self.scores[chosen], self.labels[chosen], self.window[chosen], self.cut[chosen]
        )

    def __len__(self) -> int:
        return len(self.scores)


class TiledDetector:
    """Detects by windows of `side` pixels and once in the whole image, for objects larger than those.

    `overlap`: fraction of a window's side that the next one covers again. Objects smaller than the overlap are whole in one
    window at least. An image no larger than a window is one window: the detections are those of `detector`.
    """

    batch = 1
    """Images at a time: the windows of one are batches already."""

    def __init__(self, detector: Detector, side: int, overlap: float = 0.2) -> None:
        """Raises ConfigError for a side or an overlap out of range."""
        TileConfig(tiles=side, overlap=overlap)  # raises ConfigError
        self.detector = detector
        self.side = side
        self.overlap = overlap

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self, images: ImageLike
    ) -> Detections: ...

    @overload
    def __call__(self, images: Sequence[ImageLike]) -> list[Detections]: ...

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> Detections | list[Detections]:
        """Detect as `Detector.__call__` does."""
        listed, one = as_list(images)
        if not one:
            return [self(image) for image in listed]
        image = as_array(listed[0])
        places = windows(image.shape[1], image.shape[0], self.side, self.overlap)
        if len(places) == 1:
            return self.detector(image)
        found = self.detector([image[place.top : place.bottom, place.left : place.right] for place in places])
        large = larger_than(self.side * self.overlap, self.detector(image))
        boxes, scores, labels = merge(places, found, large)
        kept = batched_nms(boxes.double(), scores.double(), labels, self.detector.iou)[: self.detector.max_detections]
        return Detections(boxes[kept], scores[kept], labels[kept], self.detector.categories)


def with_tiles(detector: Detector, config: TileConfig) -> Detector | TiledDetector:
    """The detector, through tiles if the configuration has them."""
    return detector if config.tiles is None else TiledDetector(detector, config.tiles, config.overlap)


def larger_than(side: float, found: Detections) -> Detections:
    """Detections with a side longer than `side` pixels, which windows may not show whole."""
    large = (found.boxes[:, 2:] - found.boxes[:, :2]).amax(dim=1) > side
    return found[large]


def merge(
    places: Sequence[Window], found: Sequence[Detections], large: Detections
) -> tuple[Float[Tensor, "n 4"], Float[Tensor, " n"], Int64[Tensor, " n"]]:
    """Boxes, scores and labels of the objects, a box each, from what each window shows and the large ones of the image.

    1. A box that a seam cuts is dropped where another window shows that part of the image less cut.
    2. Boxes of different windows are one object if their parts that both windows see agree. Its box is that of the best
       window that shows it whole, or, of an object cut in each, what they show together.
    3. Of a large box of the whole image and those that agree with it the best one stays. What is still cut and lies in
       a better box of its class is a part of that.
    """
    width, height = places[-1].right, places[-1].bottom
    edges = torch.tensor(places, dtype=torch.float32)
    of = torch.repeat_interleave(torch.tensor([len(each) for each in found]))
    boxes = torch.cat([each.boxes for each in found]) + edges[of, :2].repeat(1, 2)
    scores, labels = torch.cat([each.scores for each in found]), torch.cat([each.labels for each in found])
    seams = Seams.of(edges, width, height)
    cuts = seams.cuts(boxes, of)
    views = Views(boxes, scores, labels, of, cuts > 0)
    views = views[~shown_better(seams, views, cuts)]
    views = merge_views(edges, views)
    return settle(views, large)


@dataclass(frozen=True)
class Seams:
    """The sides of windows, xyxy in pixels of the image; `inner` ones are seams, the others are the image's own."""

    edges: Float[Tensor, "windows 4"]
    inner: Bool[Tensor, "windows 4"]

    @classmethod
    def of(cls, edges: Float[Tensor, "windows 4"], width: int, height: int) -> "Seams":
        return cls(edges, edges != edges.new_tensor((0, 0, width, height)))

    def cuts(self, boxes: Float[Tensor, "n 4"], window: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """How many sides of each box end at a seam of its window."""
        margin = SEAM * (self.edges[0, 2:] - self.edges[0, :2]).max()
        near = (boxes - self.edges[window]).abs() < margin
        return (near & self.inner[window]).sum(dim=1)


def shown_better(seams: Seams, views: Views, cuts: Int64[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Whether another window has a box's part of the image within it and cuts it less."""
    better = torch.zeros_like(views.cut)
    (cut,) = views.cut.nonzero(as_tuple=True)
    boxes, own = views.boxes[cut], cuts[cut]
    for number, edge in enumerate(seams.edges):
        inside = ((boxes[:, :2] >= edge[:2]) & (boxes[:, 2:] <= edge[2:])).all(dim=1)
        better[cut] |= inside & (seams.cuts(boxes, torch.full_like(cut, number)) < own)
    return better


def merge_views(edges: Float[Tensor, "windows 4"], views: Views) -> Views:
    """The objects: views of different windows that agree are one, with the best score among them."""
    group = list(range(len(views)))

    def root(index: int) -> int:
        while group[index] != index:
            index = group[index]
        return index

    members = [(views.window == number).nonzero(as_tuple=True)[0] for number in range(len(edges))]
    for a, b in intersection_area(edges[:, None], edges).triu(diagonal=1).nonzero().tolist():
        shared = torch.cat((torch.maximum(edges[a, :2], edges[b, :2]), torch.minimum(edges[a, 2:], edges[b, 2:])))
        for one, other in agreeing(views, members[a], members[b], shared).tolist():
            group[root(one)] = root(other)
    of = torch.tensor([root(index) for index in range(len(views))], dtype=torch.int64)
    _, of = of.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    count = int(of.max()) + 1 if len(of) else 0

    def over(values: Tensor, how: str) -> Tensor:
        index = of.reshape(-1, *[1] * (values.ndim - 1)).expand_as(values)
        return values.new_zeros(count, *values.shape[1:]).scatter_reduce(0, index, values, how, include_self=False)

    rank = torch.where(views.cut, views.scores, views.scores + 2)  # a whole view speaks for the object before a cut one
    speaker = torch.zeros(count, dtype=torch.int64)
    for index in rank.argsort(stable=True).tolist():
        speaker[of[index]] = index
    cut = views.cut[speaker]
    together = torch.cat((over(views.boxes[:, :2], "amin"), over(views.boxes[:, 2:], "amax")), dim=1)
    boxes = torch.where(cut[:, None], together, views.boxes[speaker])
    return Views(boxes, over(views.scores, "amax"), views.labels[speaker], views.window[speaker], cut)


def agreeing(
    views: Views, a: Int64[Tensor, " a"], b: Int64[Tensor, " b"], shared: Float[Tensor, "4"]
) -> Int64[Tensor, "pairs 2"]:
    """Pairs of views, `a` of one window and `b` of another, that are the same object: each other's best match by overlap of
    the parts in `shared`, which both windows show, and by score."""
    if len(a) == 0 or len(b) == 0:
        return a.new_zeros(0, 2)
    first, second = clip(views.boxes[a], shared)[:, None], clip(views.boxes[b], shared)[None]
    both = intersection_area(first, second)
    iou = both / (box_area(first) + box_area(second) - both).clamp_min(1e-6)
    same = (iou >= SAME) & (views.labels[a][:, None] == views.labels[b])
    fit = torch.where(same, iou * (views.scores[a][:, None] * views.scores[b]).sqrt(), 0)
    pairs = (fit > 0) & (fit == fit.amax(dim=0, keepdim=True)) & (fit == fit.amax(dim=1, keepdim=True))
    one, other = pairs.nonzero(as_tuple=True)
    return torch.stack((a[one], b[other]), dim=1)


def clip(boxes: Float[Tensor, "n 4"], place: Float[Tensor, "4"]) -> Float[Tensor, "n 4"]:
    """The part of each box within the place; turned inside out, so of area 0, where there is none."""
    return torch.cat((torch.maximum(boxes[:, :2], place[:2]), torch.minimum(boxes[:, 2:], place[2:])), dim=1)


def settle(objects: Views, large: Detections) -> tuple[Float[Tensor, "n 4"], Float[Tensor, " n"], Int64[Tensor, " n"]]:
    """Boxes, scores and labels of what stays of the objects and of the large boxes of the whole image."""
    both = intersection_area(large.boxes[:, None], objects.boxes)
    areas, large_areas = box_area(objects.boxes), box_area(large.boxes)[:, None]
    alike = large.labels[:, None] == objects.labels
    same = both >= SAME * (areas + large_areas - both)
    better = objects.scores >= large.scores[:, None]
    stays = ~(same & better).any(dim=1)  # of another class, too: in the small, classes are mistaken for each other
    part = alike & (both >= COVERED * areas) & objects.cut & ~better
    gone = (((same & alike) | part) & stays[:, None]).any(dim=0) | part_of_better(objects)
    return (
        torch.cat((objects.boxes[~gone], large.boxes[stays])),
        torch.cat((objects.scores[~gone], large.scores[stays])),
        torch.cat((objects.labels[~gone], large.labels[stays])),
    )


def part_of_better(objects: Views) -> Bool[Tensor, " n"]:
    """Whether a cut object lies in one of its class with a higher score."""
    parts = torch.zeros_like(objects.cut)
    for few in torch.split(objects.cut.nonzero(as_tuple=True)[0], AT_A_TIME):
        boxes = objects.boxes[few][:, None]
        better = objects.scores > objects.scores[few][:, None]
        better &= objects.labels == objects.labels[few][:, None]
        parts[few] = (better & (intersection_area(boxes, objects.boxes) >= COVERED * box_area(boxes))).any(dim=1)
    return parts
