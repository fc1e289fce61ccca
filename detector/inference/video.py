"""Video files and streams, read and written with PyAV or, without the extra `video`, with OpenCV."""

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Event
from time import monotonic
from types import ModuleType
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import UInt8

from detector.errors import DISTRIBUTION, DataError, printable
from detector.inference.sources import Source

SLACK = 0.5  # seconds by which a video may end before its header says
LONGEST_PAUSE = 8.0  # seconds between two attempts to open a stream that dropped
LONGEST_STEP = 12 * 3600.0  # seconds from frame to frame; an MP4 file holds no longer ones
Frame: TypeAlias = tuple[float, UInt8[np.ndarray, "height width 3"]]
"""Seconds since the first frame, and RGB."""
Write: TypeAlias = Callable[[UInt8[np.ndarray, "height width 3"], float], None]
"""Appends an RGB frame that is shown from so many seconds on."""


class Ending(NamedTuple):
    """What was read of a video: numbers of frames and of damaged parts, seconds to the end of the last frame; `length`:
    seconds by the header, 0 if that doesn't tell."""

    frames: int
    broken: int
    seconds: float
    length: float


def read_video(source: Source) -> Iterator[Frame]:
    """Frame by frame the seconds since the first and the frame as RGB, turned as the file's rotation says.

    Raises DataError, one line that names the video: at once if it can't be opened; after the last frame if it ends
    before its header says or if parts of it could not be decoded, which are skipped. A live stream may lose parts.
    """
    read: Ending = yield from _without_jumps(source, _backend().frames(source))
    if read.frames == 0:
        raise DataError(f"{source.name}: no frame of this video can be decoded; repair it or name another")
    if source.live:
        return
    if read.seconds + SLACK < read.length:
        raise DataError(
            f"{source.name}: this video ends after {read.seconds:.1f} s ({read.frames} frames), its header says"
            f" {read.length:.1f} s: it is cut off; its frames so far were used"
        )
    if read.broken:
        raise DataError(
            f"{source.name}: {read.broken} parts of this video are damaged; its {read.frames} frames that can be decoded"
            " were used"
        )


def _without_jumps(source: Source, frames: Generator[Frame, None, Ending]) -> Generator[Frame, None, Ending]:
    """The same, frames whose time stamps jump following at the step before them, which is said once."""
    last, step, lead, said = 0.0, 0.0, 0.0, False
    while True:
        try:
            seconds, image = next(frames)
        except StopIteration as end:
            ending: Ending = end.value  # with the jumps, as in the header
            return ending
        if abs(seconds - lead - last) > LONGEST_STEP:
            lead = seconds - last - step
            if not said:
                line = f"{source.name}: its time stamps jump by {seconds - last:.0f} s; it is taken out"
                print(printable(line), file=sys.stderr)
            said = True
        yield seconds - lead, image
        last, step = seconds - lead, seconds - lead - last


def read_stream(source: Source, reconnect: float, stop: Event) -> Iterator[Frame]:
    """As `read_video`, of a live source that is opened again when it drops after its first frame; its times go on by the
    clock.

    The pauses before that are 1, 2, 4, 8, 8, … s, anew after each frame. Raises DataError, one line that names the
    stream, when it can't be opened at first, after `reconnect` seconds without a frame, or when `stop` is set.
    """
    lead = last = arrived = dropped = pause = 0.0
    count = 0
    while True:
        try:
            for seconds, image in read_video(source):
                now = monotonic()
                if pause:
                    print(printable(f"{source.name}: frames again after {now - dropped:.0f} s"), file=sys.stderr)
                    lead, pause = last + now - arrived, 0.0
                last, arrived = lead + seconds, now
                yield last, image
                count += 1
            error = DataError(
                f"{source.name}: this stream has ended after {count} frames; check the camera and the network"
            )
        except DataError as reason:
            error = reason
        if not (count and reconnect):
            raise error
        if not pause:
            dropped = monotonic()
            print(f"{error}; trying again for {reconnect:g} s", file=sys.stderr)
        pause = min(2 * pause or 1.0, LONGEST_PAUSE)
        left = dropped + reconnect - monotonic()
        if left <= 0 or stop.wait(min(pause, left)):
            raise DataError(f"{error}; given up after {reconnect:g} s")


@contextmanager
def video_writer(path: Path) -> Iterator[Write]:
    """A function that appends frames; the MP4 file is there when the block ends well.

    The video has the first frame's size, to which others are brought. With OpenCV it has a constant rate, and odd sides
    lose a pixel. Raises WriteError.
    """
    with _backend().video_writer(path) as write:
        yield write


def _backend() -> ModuleType:
    """The module that reads and writes; without PyAV, what is lost is said once."""
    try:
        import av  # noqa: F401
    except ImportError:
        _say_what_is_lost()
        from detector.inference import video_opencv

        return video_opencv
    from detector.inference import video_pyav

    return video_pyav


@cache
def _say_what_is_lost() -> None:
    print(
        "videos go through OpenCV: what is written has a constant rate, AV1 may not be readable and damaged parts may go"
        f" unnoticed; for more, pip install '{DISTRIBUTION}[video]'",
        file=sys.stderr,
    )
