"""Pictures one after the other from any sources, read ahead of the network, with memory for a few at a time."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from time import monotonic
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from detector.data.pictures import picture_from_bytes, read_picture
from detector.errors import DataError
from detector.inference.detector import Detector, Picture, as_array
from detector.inference.sources import TIMEOUT, Source, fetch, find_sources
from detector.inference.tiles import TiledDetector
from detector.structures import Detections

AHEAD = 4
"""Pictures that may wait for the network."""
LeftOut = Callable[[Source, DataError], None]
"""What is called with a source that can't be read (to its end), and the reason."""


class Seen(NamedTuple):
    """A picture and what was found in it: `frame` counts the pictures of its source from 0, `time` is in seconds since
    the first, 0 for pictures."""

    source: Source
    frame: int
    time: float
    picture: UInt8[np.ndarray, "height width 3"]
    detections: Detections


class _Shot(NamedTuple):
    """As `Seen`, before detection; in the place of the (further) pictures of a source that can't be read, the error."""

    source: Source
    frame: int
    time: float
    picture: UInt8[np.ndarray, "height width 3"] | DataError


def stream(
    detector: Detector | TiledDetector,
    sources: Iterable[Source | Picture],
    left_out: LeftOut | None = None,
) -> Generator[Seen, None, None]:
    """Detect in the pictures of all sources, in order, while the next ones are read in a thread.

    A source is a name as `find_sources` takes it, what that returns, or a `Picture` in memory; of an iterator only the
    next few are taken. Only live sources lose pictures, when they come faster than the network takes them. A source that
    can't be read (to its end) is passed to `left_out`, and the next one follows; without it, DataError is raised.
    """
    waiting: list[_Shot] = []
    for shot in _ahead(_shots(sources), max(AHEAD, detector.batch)):
        if isinstance(shot.picture, DataError):
            yield from _detect(detector, waiting)
            waiting = []
            if left_out is None:
                raise shot.picture
            left_out(shot.source, shot.picture)
            continue
        waiting.append(shot)
        if len(waiting) == detector.batch or shot.source.live:
            yield from _detect(detector, waiting)
            waiting = []
    yield from _detect(detector, waiting)


def _detect(detector: Detector | TiledDetector, shots: Sequence[_Shot]) -> Generator[Seen, None, None]:
    pictures = [shot.picture for shot in shots if not isinstance(shot.picture, DataError)]
    for shot, picture, found in zip(shots, pictures, detector(pictures), strict=True):
        yield Seen(shot.source, shot.frame, shot.time, picture, found)


def _shots(sources: Iterable[Source | Picture]) -> Iterator[_Shot]:
    """The pictures of all sources; one that can't be read (further) ends with its error."""
    for number, given in enumerate(sources):
        if isinstance(given, str | Path):
            found = find_sources([str(given)])
        else:
            found = [given if isinstance(given, Source) else Source(f"picture {number}", "picture")]
        for source in found:
            index = 0
            try:
                if not isinstance(given, str | Path | Source):
                    picture = as_array(given)
                    yield _Shot(source, 0, 0.0, picture)
                    continue
                for time, picture in _read(source):
                    yield _Shot(source, index, time, picture)
                    index += 1
            except DataError as error:
                yield _Shot(source, index, 0.0, error)


def _read(source: Source) -> Iterator[tuple[float, UInt8[np.ndarray, "height width 3"]]]:
    """Seconds since the first and RGB pixels of each picture of a source. Raises DataError where it can't go on."""
    if source.kind == "picture" and source.url:
        yield 0.0, picture_from_bytes(fetch(source.name)[0])
    elif source.kind == "picture":
        yield 0.0, read_picture(Path(source.name))
    elif source.camera is not None:
        yield from _read_camera(source.name, source.camera)
    else:
        from detector.inference.video import read_video

        yield from read_video(source)


def _read_camera(name: str, number: int) -> Iterator[tuple[float, UInt8[np.ndarray, "height width 3"]]]:
    camera = cv2.VideoCapture(number)
    try:
        start = None
        while True:
            there, picture = camera.read()
            if not there:
                raise DataError(f"{name}: this camera gives no picture; is it plugged in, and free of other programs?")
            now = monotonic()
            start = now if start is None else start
            yield now - start, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    finally:
        camera.release()


def _ahead(shots: Iterable[_Shot], size: int) -> Iterator[_Shot]:
    """The same, up to `size` of them read by a thread before they are asked for."""
    queue: Queue[_Shot | Exception | None] = Queue(size)
    stop = Event()

    def fill() -> None:
        try:
            for shot in shots:
                if stop.is_set():
                    return
                if not shot.source.live or not queue.full() or isinstance(shot.picture, DataError):  # no other fills it
                    queue.put(shot)
            queue.put(None)
        except Exception as error:  # goes on in the thread that asks
            queue.put(error)

    thread = Thread(target=fill, name="reads pictures", daemon=True)
    thread.start()
    try:
        while (shot := queue.get()) is not None:
            if isinstance(shot, Exception):
                raise shot
            yield shot
    finally:
        stop.set()
        while not queue.empty():  # so that the thread, which may wait for room, sees that it is to end
            queue.get_nowait()
        thread.join(TIMEOUT)
