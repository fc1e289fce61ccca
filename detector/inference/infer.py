"""Detection on files, videos, cameras and URLs: annotated ones, a list of all detections, and what else is wanted."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from time import monotonic

from PIL import Image

from detector.config import InferConfig
from detector.data.workers import interrupt_later
from detector.errors import ConfigError, DataError
from detector.fileio import require_writable
from detector.inference.attention_maps import attention_layers, attention_maps
from detector.inference.attention_sheet import attention_sheet
from detector.inference.detector import Detector
from detector.inference.draw import draw_detections
from detector.inference.output_names import output_names, require_apart, sheet_names
from detector.inference.sinks import Write, csv_writer, entries, json_writer, save_crops, save_picture
from detector.inference.sources import Source, find_sources
from detector.inference.streaming import Seen, stream
from detector.inference.tiles import TiledDetector


@dataclass
class Done:
    """What was done so far; `image_id` is the number of the last picture or frame, those that can't be read included."""

    image_id: int = 0
    pictures: int = 0
    frames: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    unread: int = 0

    def left_out(self, source: Source, error: DataError) -> None:
        self.image_id += source.kind == "picture"
        self.unread += 1
        print(f"left out: {error}", file=sys.stderr)

    def count(self, seen: Seen) -> None:
        self.image_id += 1
        self.pictures += seen.source.kind == "picture"
        self.frames += seen.source.kind == "video"
        self.classes.update(seen.detections.names)

    def summary(self) -> str:
        videos = f" and {self.frames} frames of videos" if self.frames else ""
        found = ", ".join(f"{count} {name}" for name, count in self.classes.most_common()) or "nothing found"
        return f"{self.pictures} pictures{videos}: {found}"


def infer(config: InferConfig) -> int:
    """Detect in all of `config.sources`; writes what `config.save` names to `config.out`.

    A source that can't be read (to its end) is named and left out (from there on); the exit code is then 1, else 0.
    Ctrl-C ends a live source and is no error. Raises DetectorError kinds, and DataError if nothing was readable.
    """
    out = Path(config.out)
    require_writable(out)
    sources = find_sources(config.sources)
    detector = load_detector(config)
    if config.attention:
        require_attention(config, detector, sources)
    names = dict(zip(sources, output_names(sources), strict=True))
    sheets = dict(zip(sources, sheet_names(list(names.values())), strict=True)) if config.attention else {}
    require_apart(sources, [out / name for name in [*names.values(), *sheets.values()]])
    tiled = detector if config.tiles is None else TiledDetector(detector, config.tiles, config.overlap)

    def save_sheet(seen: Seen) -> None:
        sheet = attention_sheet(seen.picture, attention_maps(detector, seen.picture))
        save_picture(out / sheets[seen.source], Image.fromarray(sheet))

    done = Done()
    start = monotonic()
    with ExitStack() as lists, closing(stream(tiled, sources, done.left_out)) as all_seen:
        writers = {"json": json_writer, "csv": csv_writer}
        append = [
            lists.enter_context(writers[kind](out / f"detections.{kind}")) for kind in config.kinds if kind in writers
        ]
        for source, of_source in groupby(all_seen, key=lambda seen: seen.source):
            with ExitStack() as annotated:
                keep: list[Callable[[Seen], None]] = [save_sheet] if config.attention else []
                if "pictures" in config.kinds:
                    keep.append(annotated.enter_context(annotator(out / names[source], source, config.tiles)))
                if "crops" in config.kinds:
                    keep.append(lambda seen: save_crops(out / "crops", names[seen.source], seen))
                if not write_source(source, of_source, done, append, keep):
                    break
        if done.pictures + done.frames == 0:
            raise DataError(
                f"none of the {len(sources)} pictures can be read (see above); give JPEG, PNG, WebP or TIFF files, or videos"
            )
    seconds = monotonic() - start
    if done.unread:
        print(f"left out: {done.unread} of {len(sources)} sources, named above", file=sys.stderr)
    print(done.summary())
    speed = (done.pictures + done.frames) / seconds
    print(f"written: {', '.join(config.kinds)} in {out}; {speed:.1f} pictures/s from reading to writing")
    return 1 if done.unread else 0


def write_source(
    source: Source,
    of_source: Iterator[Seen],
    done: Done,
    append: Sequence[Write],
    keep: Sequence[Callable[[Seen], None]],
) -> bool:
    """Write what was found in the pictures of one source; false if it is a live one that was ended with Ctrl-C."""
    try:
        for seen in of_source:
            with interrupt_later():
                done.count(seen)
                rows = entries(seen, done.image_id)
                for write in append:
                    write(rows)
                for save in keep:
                    save(seen)
    except KeyboardInterrupt:
        if not source.live:
            raise
        return False
    return True


@contextmanager
def annotator(path: Path, source: Source, side: int | None) -> Iterator[Callable[[Seen], None]]:
    """A function that draws the detections of one source's pictures into a picture or a video, `side` as in drawing."""
    if source.kind == "picture":
        yield lambda seen: save_picture(path, Image.fromarray(draw_detections(seen.picture, seen.detections, side)))
        return
    from detector.inference.video import video_writer

    with video_writer(path) as write:
        yield lambda seen: write(draw_detections(seen.picture, seen.detections, side), seen.time)


def load_detector(config: InferConfig) -> Detector:
    return Detector.load(
        config.weights,
        image_size=config.image_size,
        conf=config.conf,
        iou=config.iou,
        max_detections=config.max_detections,
        classes=None if config.classes is None else [name.strip() for name in config.classes.split(",")],
        device=config.device,
        threads=config.threads,
    )


def require_attention(config: InferConfig, detector: Detector, sources: Sequence[Source]) -> None:
    """Raise ConfigError if there is nothing to draw a sheet of; say so if there is less than usual."""
    if not attention_layers(detector.model):
        print(
            f"--attention: the model of {config.weights} has no attention layers; the sheets show class activation alone",
            file=sys.stderr,
        )
    videos = [source.name for source in sources if source.kind == "video"]
    if videos:
        raise ConfigError(f"--attention: {videos[0]} is a video; the sheets are for pictures, leave one of the two out")
