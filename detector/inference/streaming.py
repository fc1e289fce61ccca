"""Images one after the other from any sources, read ahead of the network, with memory for a few at a time."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from io import IOBase
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from time import monotonic
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from detector.config import InferConfig
from detector.errors import DataError
from detector.images.read import image_from_bytes, read_image
from detector.images.remote import read_remote
from detector.inference.detector import Detector, ImageLike, as_array, as_list, file_of
from detector.inference.sources import Source, find_sources
from detector.inference.tiles import TiledDetector
from detector.inference.video import read_stream, read_video
from detector.structures import Detections
from detector.utils.http import TIMEOUT, fetch
from detector.utils.stores import is_remote

AHEAD = 4
"""Images that may wait for the network."""
OnError = Callable[[Source, DataError], None]
"""What is called with a source that can't be read (to its end), and the reason."""


class StreamResult(NamedTuple):
    """An image and what was found in it: `frame` counts the images of its source from 0, `time` is in seconds since
    the first, 0 for images."""

    source: Source
    frame: int
    time: float
    image: UInt8[np.ndarray, "height width 3"]
    detections: Detections


class _Item(NamedTuple):
    """A `StreamResult` before detection; in the place of the (further) images of a source that can't be read, the error."""

    source: Source
    frame: int
    time: float
    image: UInt8[np.ndarray, "height width 3"] | DataError


def stream(
    detector: Detector | TiledDetector,
    sources: Source | ImageLike | Iterable[Source | ImageLike],
    on_error: OnError | None = None,
    reconnect: float = InferConfig.reconnect,
) -> Generator[StreamResult, None, None]:
    """Detect in the images of all sources, in order, while the next ones are read in a thread.

    A source, one or many, is a name as `find_sources` takes it, what that returns, or an `ImageLike` in memory; of an
    iterator only the next few are taken. Only live sources lose images, when they come faster than the network takes
    them; those behind a URL that drop are opened again for `reconnect` seconds. A source that can't be read (to its end)
    is passed to `on_error`, and the next one follows; without it, DataError is raised.
    """
    several: Any = [sources] if isinstance(sources, Source) else sources
    if not isinstance(several, Iterable) or isinstance(file_of(several), Sequence | np.ndarray | Tensor | IOBase):
        several, _ = as_list(several)
    waiting: list[_Item] = []
    stop = Event()
    for shot in _ahead(_shots(several, reconnect, stop), max(AHEAD, detector.batch), stop):
        if isinstance(shot.image, DataError):
            yield from _detect(detector, waiting)
            waiting = []
            if on_error is None:
                raise shot.image
            on_error(shot.source, shot.image)
            continue
        waiting.append(shot)
        if len(waiting) == detector.batch or shot.source.live:
            yield from _detect(detector, waiting)
            waiting = []
    yield from _detect(detector, waiting)


def _detect(detector: Detector | TiledDetector, shots: Sequence[_Item]) -> Generator[StreamResult, None, None]:
    images = [shot.image for shot in shots if not isinstance(shot.image, DataError)]
    for shot, image, found in zip(shots, images, detector(images), strict=True):
        yield StreamResult(shot.source, shot.frame, shot.time, image, found)


def _shots(sources: Iterable[Source | ImageLike], reconnect: float, stop: Event) -> Iterator[_Item]:
    """The images of all sources; one that can't be read (further) ends with its error."""
    for number, given in enumerate(sources):
        if isinstance(given, str | Path):
            found = find_sources([str(given)])
        else:
            found = [given if isinstance(given, Source) else Source(f"image {number}", "image")]
        for source in found:
            index = 0
            try:
                if not isinstance(given, str | Path | Source):
                    image = as_array(given)
                    yield _Item(source, 0, 0.0, image)
                    continue
                for time, image in _read(source, reconnect, stop):
                    yield _Item(source, index, time, image)
                    index += 1
            except DataError as error:
                yield _Item(source, index, 0.0, error)


def _read(source: Source, reconnect: float, stop: Event) -> Iterator[tuple[float, UInt8[np.ndarray, "height width 3"]]]:
    """Seconds since the first and RGB pixels of each image of a source. Raises DataError where it can't go on."""
    if source.kind == "image" and source.url:
        yield 0.0, image_from_bytes(fetch(source.location)[0])
    elif source.kind == "image":
        yield 0.0, read_remote(source.name) if is_remote(source.name) else read_image(Path(source.name))
    elif source.camera is not None:
        yield from _read_camera(source.name, source.camera)
    elif source.live:
        yield from read_stream(source, reconnect, stop)
    else:
        yield from read_video(source)


def _read_camera(name: str, number: int) -> Iterator[tuple[float, UInt8[np.ndarray, "height width 3"]]]:
    camera = cv2.VideoCapture(number)
    try:
        start = None
        while True:
            there, image = camera.read()
            if not there:
                raise DataError(f"{name}: this camera gives no image; is it plugged in, and free of other programs?")
            now = monotonic()
            start = now if start is None else start
            yield now - start, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    finally:
        camera.release()


def _ahead(shots: Iterable[_Item], size: int, stop: Event) -> Iterator[_Item]:
    """The same, up to `size` of them read by a thread before they are asked for; `stop` is set when no more are needed."""
    queue: Queue[_Item | BaseException | None] = Queue(size)

    def fill() -> None:
        try:
            for shot in shots:
                if stop.is_set():
                    return
                if not shot.source.live or not queue.full() or isinstance(shot.image, DataError):  # no other fills it
                    queue.put(shot)
            queue.put(None)
        except BaseException as error:  # goes on in the thread that asks, which would else wait for ever
            queue.put(error)

    thread = Thread(target=fill, name="reads images", daemon=True)
    thread.start()
    try:
        while (shot := queue.get()) is not None:
            if isinstance(shot, BaseException):
                raise shot
            yield shot
    finally:
        stop.set()
        while not queue.empty():  # so that the thread, which may wait for room, sees that it is to end
            queue.get_nowait()
        thread.join(TIMEOUT)
