"""Where the attention of a model looks in an image, and what the class of each detection rests on, as arrays.

Two kinds of maps, both in cells over the network input; `Letterbox.map_to_original` brings one to the image's pixels:

- attention weights, the softmax itself (Vaswani et al., 2017, section 3.2), of each attention layer and head;
- class activation by LayerCAM (Jiang et al., 2021, after Grad-CAM, Selvaraju et al., 2017), of each detection.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn

from detector.images.letterbox import Letterbox
from detector.inference.detector import Detector, ImageLike, as_array, to_tensor
from detector.models.base import DetectionModel, scale_pixels
from detector.models.postprocess import select_logits
from detector.nn.cross_scale import CELLS, CrossScaleAttention
from detector.nn.head import DetectionHead
from detector.nn.spatial_attention import SpatialAttention
from detector.structures import Detections


@dataclass(frozen=True)
class AttentionLayer:
    """The weights of one attention layer in one image.

    name: the module's path in the model; query_rows, query_columns: the grid of cells that look, rows, columns: the grid of
    those that are looked at, both over the network input, padding included (one grid of 32 px cells in C2PSA; cells of 16
    and 8 px look at 8 x 8 in cross-scale attention); weights: (heads, queries, keys), cells running row by row: entry
    (head, query, key) is how much of what the query's cell receives comes from the key's cell; every row (head, query)
    sums to 1.
    """

    name: str
    query_rows: int
    query_columns: int
    rows: int
    columns: int
    weights: Float32[np.ndarray, "heads queries keys"]
    letterbox: Letterbox

    def cell(self, x: float, y: float) -> tuple[int, int]:
        """Row and column of the query's cell that holds a point, given in pixels of the original image."""
        left, top = self.letterbox.offset
        scale_x, scale_y = self.letterbox.scale
        row = int((y * scale_y + top) / self.letterbox.input_height * self.query_rows)
        column = int((x * scale_x + left) / self.letterbox.input_width * self.query_columns)
        return min(max(row, 0), self.query_rows - 1), min(max(column, 0), self.query_columns - 1)

    def cell_box(self, row: int, column: int) -> Float[Tensor, "1 4"]:
        """The query's cell as a box, xyxy pixels of the original image, cut off where it reaches into the padding."""
        height, width = self.letterbox.input_height / self.query_rows, self.letterbox.input_width / self.query_columns
        corners = (column * width, row * height, (column + 1) * width, (row + 1) * height)
        return self.letterbox.to_original(torch.tensor([corners]))

    def looked_from(self, x: float, y: float) -> Float32[np.ndarray, "heads rows columns"]:
        """Where the cell under a point (pixels of the original image) looks, as multiples of uniform attention.

        Uniform attention is 1 / keys: 1 everywhere prefers nothing, 3 is three times that.
        """
        row, column = self.cell(x, y)
        return self._relative_to_uniform(self.weights[:, row * self.query_columns + column])

    def received(self) -> Float32[np.ndarray, "heads rows columns"]:
        """How much is looked at each cell, as multiples of uniform attention: the mean over the queries in the image.

        Queries on the padding are not counted, for they all look alike; keys on the padding are not.
        """
        return self._relative_to_uniform(self.weights[:, self.queries_in_image().flatten()].mean(axis=1))

    def in_image(self) -> Bool[np.ndarray, "rows columns"]:
        """The cells looked at whose center lies in the image, not on the padding (`Letterbox.cells_inside`)."""
        return self._inside(self.rows, self.columns)

    def queries_in_image(self) -> Bool[np.ndarray, "query_rows query_columns"]:
        """The cells that look, likewise."""
        return self._inside(self.query_rows, self.query_columns)

    def _inside(self, rows: int, columns: int) -> Bool[np.ndarray, "{rows} {columns}"]:
        inside = np.zeros((rows, columns), dtype=bool)
        inside[self.letterbox.cells_inside(rows, columns)] = True
        return inside

    def _relative_to_uniform(
        self, weights: Float32[np.ndarray, "heads keys"]
    ) -> Float32[np.ndarray, "heads rows columns"]:
        return weights.reshape(-1, self.rows, self.columns) * np.float32(self.rows * self.columns)


@dataclass(frozen=True)
class AttentionMaps:
    """What `attention_maps` gives for one image.

    detections: those of `Detector`, original frame, best first; layers: the attention layers in the order of the computation,
    none for a model without attention; activations: one for each detection, (rows, columns) of the level that found it
    (cells of 8, 16 or 32 px of the network input): how much the cell's features speak for the detection's class; 0 and more,
    in units that are only comparable within one map.
    """

    letterbox: Letterbox
    detections: Detections
    layers: tuple[AttentionLayer, ...]
    activations: tuple[Float32[np.ndarray, "_rows _columns"], ...]


def attention_maps(
    detector: Detector, image: ImageLike, choose: Callable[[Detections], list[int]] | None = None
) -> AttentionMaps:
    """Detect in one image and keep what the attention layers and the head saw.

    choose: picks the detections to keep, by their places; all if not given.
    Costs a second computation of the attention's queries and keys and, for each detection, a way back through the head;
    detectors that are not asked for maps pay nothing. Raises DataError as `Detector` does.
    """
    array = as_array(image)
    model, letterbox = detector.model, detector.letterbox(array.shape[1], array.shape[0])
    images = scale_pixels(to_tensor(letterbox.apply(array))[None].to(detector.device))
    with torch.no_grad(), _recorded(model) as record:
        predictions = model.logits(images)
        layers = tuple(_layer(name, module, inputs, letterbox) for name, module, inputs in record.attended)
    (found,) = select_logits(predictions, *detector.selection)
    boxes, scores, labels = found.boxes.cpu(), found.scores.cpu(), found.labels.cpu()
    detections = Detections(letterbox.to_original(boxes), scores, labels, detector.categories)
    chosen = list(range(len(detections))) if choose is None else choose(detections)
    detections = detections[chosen]
    assert found.anchors is not None
    activations = class_activations(model.head, record.levels, found.anchors[chosen], found.labels[chosen])
    return AttentionMaps(letterbox, detections, layers, tuple(each.cpu().numpy() for each in activations))


def attention_layers(model: DetectionModel) -> list[tuple[str, SpatialAttention | CrossScaleAttention]]:
    """The attention layers of a model with their paths in it, in the order of the computation; none is possible."""
    kinds = SpatialAttention | CrossScaleAttention
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]


def class_activations(
    head: DetectionHead,
    levels: Sequence[Float[Tensor, "1 _c _h _w"]],
    anchors: Int64[Tensor, " n"],
    labels: Int64[Tensor, " n"],
) -> list[Float[Tensor, "_rows _columns"]]:
    """For each anchor, how much each cell of the level it belongs to speaks for its class: (rows, columns) of that level.

    LayerCAM: the sum over the channels of activation times gradient of the class logit, the gradient where it is positive,
    then what is positive of the sum. Grad-CAM would take the gradient's mean over all cells: it marks whatever looks like the class
    anywhere, and a detector must say which of ten alike cells it means (docs/attention.md has numbers).
    `levels` are the maps that the head reads; a cell that the class branch does not reach from the anchor gets 0.
    """
    levels = [level.detach().requires_grad_() for level in levels]
    ends = torch.tensor([level.shape[2] * level.shape[3] for level in levels]).cumsum(0)
    maps = []
    with torch.enable_grad():
        logits = head(levels).scores[0]
    for anchor, label in zip(anchors.tolist(), labels.tolist(), strict=True):
        level = levels[int(torch.searchsorted(ends, anchor, right=True))]
        (gradient,) = torch.autograd.grad(logits[label, anchor], level, retain_graph=True)
        maps.append((level.detach() * gradient.clamp_min(0)).sum(dim=1)[0].clamp_min(0))
    return maps


@dataclass
class _Record:
    """What went into each attention layer and into the head during one pass."""

    attended: list[tuple[str, SpatialAttention | CrossScaleAttention, tuple[Tensor, ...]]] = field(default_factory=list)
    levels: Sequence[Tensor] = ()


@contextmanager
def _recorded(model: DetectionModel) -> Iterator[_Record]:
    """Fills the record whenever the model computes; the hooks are gone afterwards."""
    record = _Record()

    def keep_levels(_: nn.Module, inputs: tuple[Sequence[Tensor]]) -> None:
        record.levels = inputs[0]

    def keep(name: str, module: SpatialAttention | CrossScaleAttention) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_pre_hook(lambda _, inputs: record.attended.append((name, module, inputs)))

    handles = [keep(name, module) for name, module in attention_layers(model)]
    handles.append(model.head.register_forward_pre_hook(keep_levels))
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def _layer(
    name: str, module: SpatialAttention | CrossScaleAttention, inputs: tuple[Tensor, ...], letterbox: Letterbox
) -> AttentionLayer:
    queries = (inputs[0].shape[2], inputs[0].shape[3])
    keys = (CELLS, CELLS) if isinstance(module, CrossScaleAttention) else queries
    return AttentionLayer(name, *queries, *keys, module.weights(*inputs)[0].float().cpu().numpy(), letterbox)
