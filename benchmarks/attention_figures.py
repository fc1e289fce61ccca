#!/usr/bin/env python3
"""How broad attention is, on what it falls, whether a mirrored image mirrors it; and where class activation lies.

Means over the first images of a folder, by name, a column for each head. Rows, the attention of one query, count where the
query's cell lies in the image; correlations run over the cells in the image. A cell is one of a detection if its
center lies in the box, or the box's center in it. Class activation is that of the best detections of each image: by LayerCAM,
as the program shows it, by Grad-CAM, and the same heat on every cell that has any bearing on the class of the detection.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from detector import Detector
from detector.images.read import read_image
from detector.inference.attention.maps import AttentionLayer, AttentionMaps, attention_maps
from detector.inference.attention.plot import MAX_SHOWN
from detector.inference.detector import to_tensor
from detector.inference.sources import find_sources
from detector.models.base import scale_pixels
from detector.models.postprocess import select_logits
from detector.structures import Detections


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="weights file, or the name of shipped weights")
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--most", type=int, default=30, help="images")
    options = parser.parse_args()
    detector = Detector.load(options.weights, device="cpu")
    attention: dict[str, list[np.ndarray]] = defaultdict(list)
    activation: dict[str, list[list[float]]] = defaultdict(list)
    strides: Counter[int] = Counter()
    files = [source.name for source in find_sources([options.images])][: options.most]
    for file in files:
        image = read_image(Path(file))
        maps, other = attention_maps(detector, image), attention_maps(detector, image[:, ::-1].copy())
        of_layers = [attention_figures(*pair, maps.detections) for pair in zip(maps.layers, other.layers, strict=True)]
        for name in of_layers[0]:
            attention[name].append(np.concatenate([figures[name] for figures in of_layers]))
        for name, *figures in activation_rows(detector, image, maps):
            activation[name].append(figures)
        strides.update(maps.letterbox.input_height // len(each) for each in maps.activations[:MAX_SHOWN])
    heads = [f"{n}.{head}" for n, layer in enumerate(maps.layers, 1) for head in range(1, len(layer.weights) + 1)]
    title = f"{len(files)} images, {detector.image_size} px; layer.head"
    print(f"{title:<50}" + "".join(f"{head:>7}" for head in heads))
    for name, values in attention.items():
        print(f"{name:<50}" + "".join(f"{value:>7.2f}" for value in np.nanmean(values, axis=0)))
    found = ", ".join(f"{count} at stride {stride}" for stride, count in sorted(strides.items()))
    print(f"\n{f'detections: {found}':<50}{'heat in the box':>18}{'hottest pixel in it':>22}")
    for name, values_in_box in activation.items():
        heat, hottest = np.mean(values_in_box, axis=0)
        print(f"{name:<50}{heat:>18.0%}" + ("" if np.isnan(hottest) else f"{hottest:>22.0%}"))


def attention_figures(layer: AttentionLayer, mirrored: AttentionLayer, found: Detections) -> dict[str, np.ndarray]:
    """A figure for each head, by name; not a number for cells of a kind that the image has none of."""
    inside, received = layer.in_image(), layer.received()
    kept, other = received[:, inside], mirrored.received()
    of_found = inside & cells_of(found, layer)
    rows = layer.weights[:, layer.queries_in_image().flatten()]
    entropies = -(rows * np.log(rows.clip(1e-30))).sum(axis=2) / np.log(inside.size)
    like_mean = correlation(rows[:, :, inside.flatten()], kept[:, None])
    return {
        "entropy of a row, of that of even attention": entropies.mean(axis=1),
        "attention / even attention: cells of detections": mean_over(received, of_found),
        "attention / even attention: rest of the image": mean_over(received, inside & ~of_found),
        "attention / even attention: padding": mean_over(received, ~inside),
        "correlation of a row with the mean of all": like_mean.mean(axis=1),
        "correlation with a mirrored image: mirrored map": correlation(kept, other[:, :, ::-1][:, inside]),
        "correlation with a mirrored image: map as it is": correlation(kept, other[:, inside]),
    }


def cells_of(found: Detections, layer: AttentionLayer) -> np.ndarray:
    """Bool (rows, columns): the cells looked at that belong to a detection."""
    cells, letterbox = np.zeros((layer.rows, layer.columns), dtype=bool), layer.letterbox
    per_pixel = torch.tensor([layer.columns / letterbox.input_width, layer.rows / letterbox.input_height] * 2)
    for left, top, right, bottom in (letterbox.to_input(found.boxes) * per_pixel).tolist():
        cells[round(top) : round(bottom), round(left) : round(right)] = True  # cells with their centers in the box
        cells[int((top + bottom) / 2), int((left + right) / 2)] = True
    return cells


def mean_over(maps: np.ndarray, cells: np.ndarray) -> np.ndarray:
    return maps[:, cells].mean(axis=1) if cells.any() else np.full(len(maps), np.nan)


def correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's, along the last axis."""
    a, b = (each - each.mean(axis=-1, keepdims=True) for each in (first, second))
    return np.asarray((a * b).sum(axis=-1) / np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1)))


def activation_rows(detector: Detector, image: np.ndarray, maps: AttentionMaps) -> Iterator[tuple[str, float, float]]:
    """For each of the best detections and kind of heat: the fraction of it in the box, and whether the hottest pixel is there."""
    images = scale_pixels(to_tensor(maps.letterbox.apply(image))[None])
    with torch.no_grad():
        predictions = detector.model.logits(images)
        levels = [level.requires_grad_() for level in detector.model.levels(images)]
    (chosen,) = select_logits(predictions, detector.conf, detector.iou, detector.max_detections, None)
    logits, boxes = detector.model.head(levels).scores[0], maps.detections.boxes.round().int().tolist()
    assert chosen.anchors is not None
    found = zip(chosen.anchors, maps.detections.labels, boxes, maps.activations, strict=True)
    for anchor, label, (left, top, right, bottom), cam in islice(found, MAX_SHOWN):
        level = next(each for each in levels if each.shape[2:] == cam.shape)
        (gradient,) = torch.autograd.grad(logits[label, anchor], level, retain_graph=True)
        grad_cam = (level * gradient.mean(dim=(2, 3), keepdim=True)).sum(dim=1)[0].clamp_min(0).detach().numpy()
        reach = gradient.abs().sum(dim=1)[0].sign().numpy()
        kinds = {"LayerCAM": cam, "Grad-CAM": grad_cam, "the same heat on every cell with a bearing": reach}
        for name, cells in kinds.items():
            heat = maps.letterbox.map_to_original(cells)
            y, x = np.unravel_index(heat.argmax(), heat.shape)
            hottest = float("nan") if cells is reach else float(left <= x < right and top <= y < bottom)
            yield name, float(heat[top:bottom, left:right].sum() / heat.sum()), hottest


if __name__ == "__main__":
    main()
