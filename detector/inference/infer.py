"""Detection on files, videos, cameras and URLs: annotated ones, a list of all detections, and what else is asked for."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from time import monotonic

import torch
from PIL import Image

from detector.config import InferConfig
from detector.data.coco import read_ids
from detector.errors import ConfigError, DataError, printable
from detector.images.draw import draw_detections
from detector.inference.attention.maps import attention_layers, attention_maps
from detector.inference.attention.plot import plot_attention
from detector.inference.detector import Detector
from detector.inference.output_names import attention_plot_names, mot_names, output_names
from detector.inference.sinks import csv_writer, entries, json_writer, mot_writer, save_crops, save_image
from detector.inference.sources import Source, find_sources
from detector.inference.streaming import StreamResult, stream
from detector.inference.tiles import with_tiles
from detector.inference.video import video_writer
from detector.structures import Categories
from detector.utils.fileio import require_apart, require_writable
from detector.utils.interrupts import interrupt_later

LISTS = {"json": json_writer, "csv": csv_writer}
"""What writes detections.KIND, by kind."""


@dataclass
class InferSummary:
    """What was done so far; `image_id` is the number of the last image or frame, those that can't be read included; `tracks`
    counts those of each video."""

    image_id: int = 0
    images: int = 0
    frames: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    tracks: Counter[Source] = field(default_factory=Counter)
    unread: int = 0

    def skipped(self, source: Source, error: DataError) -> None:
        self.image_id += source.kind == "image"
        self.unread += 1
        print(f"skipped: {error}", file=sys.stderr)

    def count(self, result: StreamResult) -> None:
        self.image_id += 1
        self.images += result.source.kind == "image"
        self.frames += result.source.kind == "video"
        self.classes.update(result.detections.names)
        if result.detections.track_ids is not None:
            self.tracks[result.source] = max([self.tracks[result.source], *result.detections.track_ids.tolist()])

    def line(self) -> str:
        videos = f" and {self.frames} frames of videos" if self.frames else ""
        found = ", ".join(f"{count} {name}" for name, count in self.classes.most_common()) or "nothing found"
        tracks = f"; {self.tracks.total()} tracks" if self.tracks else ""
        return f"{self.images} images{videos}: {found}{tracks}"

    def report(self, config: InferConfig, sources: int, seconds: float) -> None:
        if self.unread:
            print(f"skipped: {self.unread} of {sources} sources (see above)", file=sys.stderr)
        print(printable(self.line()))
        speed = (self.images + self.frames) / seconds
        print(f"written: {', '.join(config.kinds)} in {Path(config.out)}; {speed:.1f} images/s from reading to writing")


def infer(config: InferConfig) -> int:
    """Detect in all of `config.sources`; writes what `config.save` names to `config.out`.

    A source that can't be read (to its end) is named and skipped (from there on); the exit code is then 1, else 0.
    Ctrl-C ends a live source and is no error. Raises DetectorError kinds, and DataError if nothing was readable.
    """
    out = Path(config.out)
    require_writable(out)
    sources = find_sources(config.sources)
    if config.track:
        require_videos(sources)
    detector = Detector.load(config.weights, config)
    if config.attention:
        require_attention(config, detector, sources)
    image_ids, categories = dataset_ids(config.annotations, sources, detector.categories)
    names = dict(zip(sources, output_names(sources), strict=True))
    plots = dict(zip(sources, attention_plot_names(list(names.values())), strict=True)) if config.attention else {}
    lists = [f"detections.{kind}" for kind in config.kinds if kind in LISTS]
    mots = dict(zip(sources, mot_names(list(names.values())), strict=True)) if "mot" in config.kinds else {}
    outputs = [out / name for name in [*names.values(), *plots.values(), *mots.values(), *map(Path, lists)]]
    require_apart([config.weights, config.annotations, *(source.name for source in sources)], outputs)
    tracked = tracking(detector) if config.track else iter
    tiled = with_tiles(detector, config)

    def save_attention_plot(result: StreamResult) -> None:
        plot = plot_attention(result.image, attention_maps(detector, result.image))
        save_image(out / plots[result.source], Image.fromarray(plot))

    def append(result: StreamResult) -> None:
        rows = entries(result, image_ids.get(result.source, summary.image_id), categories)
        for write in files:
            write(rows)

    summary = InferSummary()
    start = monotonic()
    with ExitStack() as stack, closing(stream(tiled, sources, summary.skipped, config.reconnect)) as results:
        files = [stack.enter_context(LISTS[name.rpartition(".")[2]](out / name)) for name in lists]
        for source, of_source in groupby(results, key=lambda result: result.source):
            with ExitStack() as annotated:
                keep: list[Callable[[StreamResult], None]] = [append]
                if config.attention:
                    keep.append(save_attention_plot)
                if "images" in config.kinds:
                    keep.append(annotated.enter_context(annotator(out / names[source], source, config.tiles)))
                if "mot" in config.kinds:
                    keep.append(annotated.enter_context(mot_writer(out / mots[source])))
                if "crops" in config.kinds:
                    keep.append(lambda result: save_crops(out / "crops", names[result.source], result))
                if not write_source(source, tracked(of_source), summary, keep):
                    break
        if summary.images + summary.frames == 0:
            raise DataError(
                f"none of the {len(sources)} images can be read (see above); give image files, such as JPEG or PNG, or videos"
            )
    summary.report(config, len(sources), monotonic() - start)
    return 1 if summary.unread else 0


def write_source(
    source: Source,
    of_source: Iterator[StreamResult],
    summary: InferSummary,
    keep: Sequence[Callable[[StreamResult], None]],
) -> bool:
    """Write what was found in the images of one source; false if it is a live one that was ended with Ctrl-C."""
    try:
        for result in of_source:
            with interrupt_later():
                summary.count(result)
                for save in keep:
                    save(result)
    except KeyboardInterrupt:
        if not source.live:
            raise
        return False
    return True


def dataset_ids(
    annotations: str | None, sources: Sequence[Source], categories: Categories
) -> tuple[dict[Source, int], Categories]:
    """The ids of the sources and the categories in an annotation file; none and the weights' own without one.

    An image is found by the end of its path. Raises DataError for a source that is not in the file, or in it twice.
    """
    if annotations is None:
        return {}, categories
    categories, known = read_ids(Path(annotations), categories)
    ids: dict[Source, int] = {}
    for source in sources:
        parts = Path(source.name).absolute().parts
        ends = ("/".join(parts[start:]) for start in range(len(parts)))  # the longest first
        end = next((end for end in ends if end in known), None)
        if source.kind != "image" or end is None:
            raise DataError(
                f"--annotations: {source.name} is no image of {annotations}, or the second file for one; give each of its"
                " images once and nothing else, or leave --annotations out"
            )
        ids[source] = known.pop(end)
    return ids, categories


@contextmanager
def annotator(path: Path, source: Source, side: int | None) -> Iterator[Callable[[StreamResult], None]]:
    """A function that draws the detections of one source's images into an image or a video, `side` as in drawing."""
    if source.kind == "image":
        yield lambda result: save_image(path, Image.fromarray(draw_detections(result.image, result.detections, side)))
        return
    with video_writer(path) as write:
        yield lambda result: write(draw_detections(result.image, result.detections, side), result.time)


def require_videos(sources: Sequence[Source]) -> None:
    """Raise ConfigError for an image, which has nothing to follow."""
    images = [source.name for source in sources if source.kind == "image"]
    if images:
        raise ConfigError(f"--track: {images[0]} is an image; objects are followed through videos and cameras only")


def tracking(detector: Detector) -> Callable[[Iterator[StreamResult]], Iterator[StreamResult]]:
    """What gives the detections of one video their tracks; `detector` finds weaker ones from now on.

    Raises ConfigError without the extra `track`.
    """
    from detector.inference.tracking import LOWEST_SCORE, track

    shown = detector.class_conf
    if shown is None:
        shown = torch.full((len(detector.categories),), detector.conf)
    detector.conf = min(detector.conf, LOWEST_SCORE)
    return partial(track, shown=shown)


def require_attention(config: InferConfig, detector: Detector, sources: Sequence[Source]) -> None:
    """Raise ConfigError if there is nothing to draw a plot of; say so if there is less than usual."""
    if not attention_layers(detector.model):
        print(
            f"--attention: the model of {config.weights} has no attention layers; the plots show class activation alone",
            file=sys.stderr,
        )
    videos = [source.name for source in sources if source.kind == "video"]
    if videos:
        raise ConfigError(f"--attention: {videos[0]} is a video; the plots are for images, leave one of the two out")
