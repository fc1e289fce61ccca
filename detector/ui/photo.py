"""What a user has uploaded, and what is found in it under the settings of the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from detector.config import PredictionConfig, TileConfig, UiConfig
from detector.data.tiles import windows
from detector.errors import ConfigError, DataError, printable
from detector.formats.runtime import Runtime
from detector.images.draw import draw_detections
from detector.images.grids import fitted
from detector.images.input_size import InputSize
from detector.images.read import image_from_bytes
from detector.inference.attention.maps import attention_maps
from detector.inference.attention.plot import plot_attention
from detector.inference.detector import Detector
from detector.inference.tiles import TiledDetector
from detector.structures import Detections
from detector.ui.network import RememberingRuntime, SharedNetwork

SHOWN_SIDE = 1600
"""Pixels of the longer side of a large image as the page shows it."""
MAX_WINDOWS = 100
"""Tiles of an image, at most."""


@dataclass(frozen=True)
class Settings:
    """The settings of the page; conf: None for those of the weights; labels: those to detect, all if None."""

    conf: float | None
    iou: float
    labels: tuple[int, ...] | None
    image_size: InputSize
    tiles: int | None


def read_upload(path: str, config: UiConfig) -> UInt8[np.ndarray, "height width 3"]:
    """The image in an uploaded file. Raises DataError for one that is too large or can't be read."""
    require_small(path, config)
    return image_from_bytes(Path(path).read_bytes(), int(config.max_megapixels * 1e6))


def require_small(path: str, config: UiConfig) -> None:
    """Raise DataError for a file that is larger than the page takes."""
    if Path(path).stat().st_size > config.max_mb * 1e6:
        raise DataError(f"the file is larger than {config.max_mb:g} MB, the limit of this page (--max_mb)")


def tiles_of(settings: Settings, width: int, height: int) -> int:
    """The number of network inputs of an image. Raises DataError for more than `MAX_WINDOWS`."""
    if settings.tiles is None:
        return 1
    count = len(windows(width, height, settings.tiles, TileConfig.overlap))
    if count > MAX_WINDOWS:
        raise DataError(f"{count} tiles of {settings.tiles} px are more than {MAX_WINDOWS}; choose larger ones")
    return count


def detector_of(network: SharedNetwork, settings: Settings, runtime: Runtime) -> Detector | TiledDetector:
    """A detector of these settings."""
    detector = untiled(network, settings, runtime)
    return detector if settings.tiles is None else TiledDetector(detector, settings.tiles, TileConfig.overlap)


def untiled(network: SharedNetwork, settings: Settings, runtime: Runtime) -> Detector:
    """A detector of these settings for whole images."""
    loaded, labels = network.detector, settings.labels
    config = PredictionConfig(
        conf=settings.conf,
        iou=settings.iou,
        max_detections=loaded.max_detections,
        classes=None if labels is None else [loaded.categories.names[label] for label in labels],
        threads=loaded.threads,
    )
    detector = Detector(runtime, loaded.categories, settings.image_size, config)
    if settings.conf is None:
        detector.conf, detector.class_conf = loaded.conf, loaded.class_conf
    return detector


class Photo:
    """An image and what the network said of it."""

    def __init__(self, network: SharedNetwork, pixels: UInt8[np.ndarray, "height width 3"]) -> None:
        self.network = network
        self.pixels = pixels
        height, width = pixels.shape[:2]
        self.shown, self.factor = fitted(pixels, SHOWN_SIDE) if max(height, width) > SHOWN_SIDE else (pixels, 1.0)
        self.runtime = RememberingRuntime(network)
        self.seen_by: tuple[InputSize, int | None] | None = None

    def detect(self, settings: Settings) -> Detections:
        """What `detector infer` finds; the network runs only where image size or tiles have changed.

        Raises DataError for more than `MAX_WINDOWS` tiles.
        """
        if (way := (settings.image_size, settings.tiles)) != self.seen_by:
            self.runtime.known.clear()
            self.seen_by = way
        height, width = self.pixels.shape[:2]
        tiles_of(settings, width, height)
        return detector_of(self.network, settings, self.runtime)(self.pixels)

    def explain(self, settings: Settings, box: Sequence[float]) -> UInt8[np.ndarray, "plot_height plot_width 3"]:
        """Where the network looks, and what the class of the detection with this box rests on, as one plot.

        Raises ConfigError with tiles, and for an exported file.
        """
        if settings.tiles is not None:
            raise ConfigError("attention is shown for the whole image; choose no tiles")
        detector = untiled(self.network, settings, self.network.detector.runtime)

        def nearest(found: Detections) -> list[int]:
            return (found.boxes - torch.tensor(box)).abs().sum(dim=1).argsort()[:1].tolist()

        with self.network.turn:
            maps = attention_maps(detector, self.pixels, nearest)
        return plot_attention(self.pixels, maps)

    def drawn(self, found: Detections) -> UInt8[np.ndarray, "height width 3"]:
        """The image as it is shown, with the detections."""
        scaled = Detections(found.boxes * self.factor, found.scores, found.labels, found.categories)
        return draw_detections(self.shown, scaled)

    def at(self, found: Detections, x: float, y: float) -> int | None:
        """The place of the smallest detection at a point of the image as it is shown."""
        left, top, right, bottom = (found.boxes * self.factor).unbind(1)
        inside = (left <= x) & (x <= right) & (top <= y) & (y <= bottom)
        areas = ((right - left) * (bottom - top)).where(inside, float("inf"))
        return int(areas.argmin()) if bool(inside.any()) else None


def rows_of(found: Detections) -> list[list[str | float]]:
    """The rows of the table: number, class, score, x1, y1, x2, y2."""
    return [
        [number, printable(name), round(score, 3), *(round(side, 1) for side in box)]
        for number, (name, score, box) in enumerate(found, start=1)
    ]
