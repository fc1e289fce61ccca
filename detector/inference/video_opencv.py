"""Video files and streams through OpenCV, whose FFmpeg is under the LGPL: what there is without the extra `video`."""

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from detector.errors import DataError, DetectorError, WriteError
from detector.inference.display_matrix import read_display_matrix, upright
from detector.inference.sources import Source
from detector.inference.video import Ending, Frame, Write
from detector.utils.fileio import atomic_path, writing
from detector.utils.http import TIMEOUT

DAMAGED = 100
"""Parts in a row that can't be decoded after which a file counts as ended: OpenCV says nothing else of its end."""
HELD = 8  # frames that wait until their times tell the rate of a written video
RATE = 25.0  # frames a second where they don't
PROBE = 1 << 20  # bytes; more than FFmpeg holds back before it writes


def frames(source: Source) -> Generator[Frame, None, Ending]:
    """As `read_video` yields them; then what was read. Raises DataError if it can't be opened.

    A part of a file that can't be decoded is counted; what the decoder patches up itself is not. The end of a stream
    and a server that is silent for `TIMEOUT` look the same here. OpenCV may crash on a file whose pixel
    format changes midway (opencv/opencv#29699). OpenCV turns frames, but doesn't mirror them: those of an MP4 file are left
    to `upright`.
    """
    capture = _open(source)
    try:
        matrix = None if source.url else read_display_matrix(Path(source.name))
        if matrix is not None:
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        count, broken, failed, first, started, moment, step = 0, 0, 0, 0.0, 0.0, 0.0, 0.0
        rate = capture.get(cv2.CAP_PROP_FPS)
        while failed < (1 if source.url else DAMAGED):
            there, image = capture.read()
            if not there:
                failed += 1
                continue
            broken, failed = broken + failed, 0
            time = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000  # 0 if the file doesn't tell
            if count == 0:
                first, step = time, 1 / rate if rate > 0 else 0.0
                started = max(capture.get(cv2.CAP_PROP_PTS) * step, 0.0)  # the header counts from 0
            else:
                following = time - first if time - first > moment else moment + step
                moment, step = following, following - moment
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            yield moment, image if matrix is None else upright(image, matrix)
            count += 1
        expected = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        # where the header has no number of frames, OpenCV makes one of the length and the rate
        length = expected / rate - started if rate > 0 and count < expected else 0.0
        return Ending(count, broken, moment + step, length)
    finally:
        capture.release()


def _open(source: Source) -> cv2.VideoCapture:
    """A local name is opened as `file:NAME`, so it is not taken for a protocol or a numbered sequence, and FFmpeg itself
    lets a list in such a file lead to nothing but files, `data:` and `crypto:`: no server is asked. Raises DataError.

    Not covered: other local files that a list names are read. And OpenCV takes options for FFmpeg from the environment
    alone, so that a user who sets OPENCV_FFMPEG_CAPTURE_OPTIONS can allow more (protocol_whitelist).
    """
    name = source.location if source.url else _file_name(Path(source.name), DataError)
    milliseconds = round(TIMEOUT * 1000)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds, cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]
    with _quiet():
        capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, limits)
    if not capture.isOpened():
        remedy = "check the address and the network" if source.url else "repair it or name another"
        raise DataError(f"{source.name}: this video can't be opened (OpenCV doesn't say why); {remedy}")
    return capture


def _file_name(path: Path, error: type[DetectorError]) -> str:
    """For OpenCV. Raises `error` for names that are no text, on which it crashes."""
    try:
        str(path).encode()
    except UnicodeEncodeError as reason:
        raise error(f"{path}: OpenCV can't open this file, whose name is no text; rename it") from reason
    return f"file:{path}"


@contextmanager
def _quiet() -> Iterator[None]:
    """OpenCV and FFmpeg print nothing: errors are ours to report."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET; read when OpenCV opens its first video
    set_level = getattr(getattr(cv2.utils, "logging", cv2), "setLogLevel")  # noqa: B009 - moved in OpenCV 5
    level = set_level(0)
    try:
        yield
    finally:
        set_level(level)


@contextmanager
def video_writer(path: Path) -> Iterator[Write]:
    """As `detector.inference.video.video_writer`: MPEG-4 part 2 (mp4v) at the rate of the first frames.

    OpenCV doesn't tell when a disk is full: that is noticed at the end. Raises WriteError.
    """
    with atomic_path(path, suffix=".mp4") as temporary:
        film: _Film | None = None
        held: list[Frame] = []

        def write(image: UInt8[np.ndarray, "height width 3"], seconds: float) -> None:
            nonlocal film
            if film is not None:
                film.add(image)
                return
            held.append((seconds, image))
            if len(held) == HELD:
                film = _Film(path, temporary, held)

        try:
            yield write
            if film is None and held:
                film = _Film(path, temporary, held)
        finally:
            if film is not None:
                film.writer.release()
        if film is not None:
            film.require_whole()


class _Film:
    """A video being written to `temporary`, which is to become `path`; begins with the frames `held`."""

    def __init__(self, path: Path, temporary: Path, held: list[Frame]) -> None:
        self.path, self.temporary, self.count = path, temporary, 0
        height, width = held[0][1].shape[:2]
        self.size = (max(width // 2, 1) * 2, max(height // 2, 1) * 2)  # FFmpeg is given even sides only
        with _quiet():
            self.writer = cv2.VideoWriter(
                _file_name(temporary, WriteError),
                cv2.CAP_FFMPEG,
                cv2.VideoWriter.fourcc(*"mp4v"),
                constant_rate([seconds for seconds, _ in held]),
                self.size,
            )
        if not self.writer.isOpened():
            self._fail("OpenCV can't open it as MP4")
        for _, image in held:
            self.add(image)
        held.clear()

    def add(self, image: UInt8[np.ndarray, "height width 3"]) -> None:
        if image.shape[1::-1] != self.size:
            image = cv2.resize(image, self.size, interpolation=cv2.INTER_AREA)
        self.writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self.count += 1

    def require_whole(self) -> None:
        """Raise WriteError unless all frames are in the file: its index, written last, has their number."""
        with _quiet():
            capture = cv2.VideoCapture(_file_name(self.temporary, WriteError), cv2.CAP_FFMPEG)
        there = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        capture.release()
        if there != self.count:
            self._fail(f"OpenCV wrote {there} of {self.count} frames")

    def _fail(self, reason: str) -> None:
        """Raise WriteError: with the disk's reason if it takes no more, else with that one."""
        with writing(self.path), self.temporary.open("ab") as file:
            file.write(bytes(PROBE))
        raise WriteError(f"{self.path}: can't be written ({reason}); choose another folder with --out")


def constant_rate(times: Sequence[float]) -> float:
    """Frames a second of frames at these times, in seconds: of the median step; `RATE` if there is none."""
    steps = np.diff(times)
    step = float(np.median(steps)) if len(steps) else 0.0
    if step <= 0:
        return RATE
    # as fractions the codec takes no terms above 65535
    return max(round(1 / step, 2), 0.01) if step > 1 / 600 else min(float(round(1 / step)), 60_000.0)
